package azblob_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/remotecache"
)

// noise is a blob of pseudorandom bytes that takes no memory.
type noise struct {
	block cipher.Block
	size  int64
}

func newNoise(t *testing.T, seed byte, size int64) (ocispec.Descriptor, noise) {
	t.Helper()
	block, err := aes.NewCipher(bytes.Repeat([]byte{seed}, 16))
	if err != nil {
		t.Fatal(err)
	}
	n := noise{block, size}
	d, err := digest.FromReader(io.NewSectionReader(n, 0, size))
	if err != nil {
		t.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: size}, n
}

func (n noise) ReadAt(p []byte, off int64) (int, error) {
	if off >= n.size {
		return 0, io.EOF
	}
	var iv [aes.BlockSize]byte
	binary.BigEndian.PutUint64(iv[8:], uint64(off)/aes.BlockSize)
	s := cipher.NewCTR(n.block, iv[:])
	skip := make([]byte, off%aes.BlockSize)
	s.XORKeyStream(skip, skip)
	p = p[:min(int64(len(p)), n.size-off)]
	clear(p)
	s.XORKeyStream(p, p)
	return len(p), nil
}

// peak measures the most memory that the process holds while f runs, in bytes.
func peak(t *testing.T, f func()) int64 {
	t.Helper()
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Skipf("the kernel does not measure: %v", err)
	}
	f()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(status, []byte("VmHWM:"))
	var kib int64
	if _, err := fmt.Sscanf(string(rest), "%d kB", &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// testLarge: neither a layer of 1 GiB nor four at once take much memory.
func testLarge(t *testing.T, a *services.Azurite) {
	if testing.Short() {
		t.Skip("-short: moves 1 GiB")
	}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("the race detector needs several times the memory")
	}
	const most = 200 << 20
	b := remotecache.Verify(open(t, empty(a)))
	for _, tt := range []struct {
		blobs int
		size  int64
	}{{1, 1 << 30}, {4, 128 << 20}} {
		descs, srcs := make([]ocispec.Descriptor, tt.blobs), make([]noise, tt.blobs)
		for i := range descs {
			descs[i], srcs[i] = newNoise(t, byte(10*tt.blobs+i), tt.size)
		}
		for _, way := range []struct {
			name string
			move func(i int) error
		}{
			{"put", func(i int) error { return b.Put(t.Context(), descs[i], srcs[i]) }},
			{"read", func(i int) error {
				r, err := b.Open(t.Context(), descs[i], 0)
				if err != nil {
					return err
				}
				defer r.Close()
				_, err = io.Copy(io.Discard, r)
				return err
			}},
		} {
			begin := time.Now()
			var g errgroup.Group
			used := peak(t, func() {
				for i := range descs {
					g.Go(func() error { return way.move(i) })
				}
				if err := g.Wait(); err != nil {
					t.Error(err)
				}
			})
			t.Logf("%s %d blobs of %d MiB: %s, %d MiB of memory", way.name, tt.blobs, tt.size>>20, time.Since(begin).Round(10*time.Millisecond), used>>20)
			if used > most {
				t.Errorf("%s: %d MiB of memory, want at most %d", way.name, used>>20, most>>20)
			}
		}
	}
}
