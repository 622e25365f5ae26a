package treestore

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"testing"
)

func random(seed uint64, size int) []byte {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(data)
	return data
}

func cuts(data []byte) (sizes []int) {
	c := newCutter()
	for len(data) > 0 {
		n := c.cut(data)
		sizes = append(sizes, n)
		data = data[n:]
	}
	return sizes
}

// TestCutsStay: chunks that end elsewhere are chunks that no cache has.
func TestCutsStay(t *testing.T) {
	h := sha256.New()
	sizes := cuts(random(1, 32<<20))
	for _, n := range sizes {
		h.Write([]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	}
	const want = "431b6ba9f753e79d"
	if got := hex.EncodeToString(h.Sum(nil)[:8]); got != want {
		t.Errorf("the ends of the %d chunks have digest %s, not %s", len(sizes), got, want)
	}
	sum := 0
	for i, n := range sizes {
		if n > maxChunk || n < minChunk && i < len(sizes)-1 {
			t.Errorf("chunk %d has %d bytes", i, n)
		}
		sum += n
	}
	if avg := sum / len(sizes); avg < avgChunk*3/4 || avg > avgChunk*3/2 {
		t.Errorf("chunks have %d bytes on average, want about %d", avg, avgChunk)
	}
}

// TestCutAfterInsertion: bytes put in shift the rest, and the rest's chunks
// stay.
func TestCutAfterInsertion(t *testing.T) {
	data := random(2, 16<<20)
	have := map[[32]byte]bool{}
	each := func(data []byte, f func([]byte)) {
		for _, n := range cuts(data) {
			f(data[:n])
			data = data[n:]
		}
	}
	each(data, func(c []byte) { have[sha256.Sum256(c)] = true })
	changed := append(append(bytes.Clone(data[:5<<20]), "some more"...), data[5<<20:]...)
	fresh := 0
	each(changed, func(c []byte) {
		if !have[sha256.Sum256(c)] {
			fresh += len(c)
		}
	})
	if fresh > 2*maxChunk {
		t.Errorf("%d of %d bytes are in chunks that were not there before", fresh, len(changed))
	}
}

func BenchmarkCut(b *testing.B) {
	data := random(3, 32<<20)
	b.Run("gear", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			cuts(data)
		}
	})
	b.Run("sha256", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			sha256.Sum256(data)
		}
	})
}
