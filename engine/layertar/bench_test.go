package layertar

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

// manyFiles makes n files of size bytes, a hundred in a directory.
func manyFiles(b *testing.B, n, size int) string {
	b.Helper()
	dir := b.TempDir()
	data := make([]byte, size)
	r := rand.NewChaCha8([32]byte{})
	for i := range n {
		d := filepath.Join(dir, fmt.Sprintf("d%03d", i/100))
		if i%100 == 0 {
			if err := os.Mkdir(d, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		r.Read(data)
		if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("f%05d", i)), data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

type shape struct {
	name    string
	n, size int
}

func shapes() []shape {
	return []shape{{"50000x4KiB", 50000, 4 << 10}, {"10000x4KiB", 10000, 4 << 10}, {"1x100MiB", 1, 100 << 20}}
}

func BenchmarkWrite(b *testing.B) {
	for _, s := range shapes() {
		b.Run(s.name, func(b *testing.B) {
			dir := manyFiles(b, s.n, s.size)
			b.SetBytes(int64(s.n * s.size))
			for b.Loop() {
				if _, err := Write(b.Context(), sha256.New(), fsdiff.Dir(dir), nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUnpack(b *testing.B) {
	for _, s := range shapes() {
		b.Run(s.name, func(b *testing.B) {
			var buf bytes.Buffer
			if _, err := Write(b.Context(), &buf, fsdiff.Dir(manyFiles(b, s.n, s.size)), nil); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(s.n * s.size))
			for b.Loop() {
				dir := b.TempDir()
				if _, err := Unpack(b.Context(), bytes.NewReader(buf.Bytes()), dir, parentIs(nil)); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				os.RemoveAll(dir)
				b.StartTimer()
			}
		})
	}
}

func BenchmarkMaterialize(b *testing.B) {
	for _, s := range shapes() {
		b.Run(s.name, func(b *testing.B) {
			src := manyFiles(b, s.n, s.size)
			b.SetBytes(int64(s.n * s.size))
			for b.Loop() {
				dir := b.TempDir()
				if err := Materialize(b.Context(), fsdiff.Dir(src), dir); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				os.RemoveAll(dir)
				b.StartTimer()
			}
		})
	}
}

func BenchmarkRewrite(b *testing.B) {
	for _, s := range shapes() {
		b.Run(s.name, func(b *testing.B) {
			var buf bytes.Buffer
			if _, err := Write(b.Context(), &buf, fsdiff.Dir(manyFiles(b, s.n, s.size)), nil); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(s.n * s.size))
			for b.Loop() {
				if err := Rewrite(b.Context(), bytes.NewReader(buf.Bytes()), io.Discard, when); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
