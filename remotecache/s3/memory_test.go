package s3_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/remotecache/s3"
)

// noise is a blob that takes no memory: its bytes follow from where they are.
type noise struct {
	seed uint64
	size int64
}

func (n noise) ReadAt(p []byte, off int64) (int, error) {
	if off >= n.size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), n.size-off)]
	var word [8]byte
	for done := 0; done < len(p); {
		at := uint64(off) + uint64(done)
		x := (at/8 + n.seed) * 0x9e3779b97f4a7c15
		binary.LittleEndian.PutUint64(word[:], x^x>>29)
		done += copy(p[done:], word[at%8:])
	}
	return len(p), nil
}

func (n noise) desc() ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromString(fmt.Sprint("noise ", n.seed)), Size: n.size}
}

func (n noise) put(t *testing.T, b *s3.Backend) error { return b.Put(t.Context(), n.desc(), n) }

// read reads the blob and compares it.
func (n noise) read(t *testing.T, b *s3.Backend) error {
	r, err := b.Open(t.Context(), n.desc(), 0)
	if err != nil {
		return err
	}
	defer r.Close()
	got, want := make([]byte, 64<<10), make([]byte, 64<<10)
	for off := int64(0); ; {
		k, err := io.ReadFull(r, got)
		_, _ = n.ReadAt(want[:k], off)
		if !bytes.Equal(got[:k], want[:k]) {
			return fmt.Errorf("other bytes from %d on", off)
		}
		off += int64(k)
		if off == n.size && (err == io.EOF || err == io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("at %d: %w", off, err)
		}
	}
}

// peak returns the most memory that the process has held since the last call
// (bytes).
func peak(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(status, []byte("VmHWM:"))
	var kib int64
	if _, err := fmt.Sscanf(string(rest), "%d kB", &kib); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o200); err != nil {
		t.Skip(err)
	}
	return kib << 10
}

// TestMemory moves a blob of 1 GiB, and four of 256 MiB at once, and looks at
// the memory that takes.
func TestMemory(t *testing.T) {
	if testing.Short() || race {
		t.Skip("moves 4 GiB, and counts memory")
	}
	srv := start(t, services.S3Config{})
	const limit = 150 << 20
	debug.FreeOSMemory() // what earlier tests have left
	peak(t)
	base := peak(t)
	for _, blobs := range [][]noise{
		{{1, 1 << 30}},
		{{2, 256 << 20}, {3, 256 << 20}, {4, 256 << 20}, {5, 256 << 20}},
	} {
		debug.FreeOSMemory() // what an earlier Backend has left
		b, err := s3.New(reach(srv))
		if err != nil {
			t.Fatal(err)
		}
		measure(t, "write", blobs, func(n noise) error { return n.put(t, b) }, base+limit)
		measure(t, "read", blobs, func(n noise) error { return n.read(t, b) }, base+limit)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func measure(t *testing.T, what string, blobs []noise, move func(noise) error, limit int64) {
	t.Helper()
	begin := time.Now()
	var g errgroup.Group
	for _, n := range blobs {
		g.Go(func() error { return move(n) })
	}
	if err := g.Wait(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	took, most := time.Since(begin), peak(t)
	t.Logf("%s %d blobs of %d MiB: %.1fs, %d MiB of memory at most", what, len(blobs), blobs[0].size>>20, took.Seconds(), most>>20)
	if most > limit {
		t.Errorf("%s: %d MiB of memory, want at most %d", what, most>>20, limit>>20)
	}
}
