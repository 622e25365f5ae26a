package contenthash_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mayfly-build/mayfly/engine/contenthash"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

// bigTree makes a context of 50,000 files of 2 kB.
func bigTree(b *testing.B) string {
	b.Helper()
	root := b.TempDir()
	text := make([]byte, 2048)
	for d := range 500 {
		dir := filepath.Join(root, fmt.Sprintf("pkg%03d", d/10), fmt.Sprintf("sub%03d", d))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		for f := range 100 {
			copy(text, fmt.Sprint(d, f))
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%03d.js", f)), text, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	return root
}

// BenchmarkSum50k walks and sums a context: without a cache, and with one that
// knows all files.
func BenchmarkSum50k(b *testing.B) {
	root := bigTree(b)
	run := func(b *testing.B, path string) {
		for b.Loop() {
			sent, err := fsdiff.Host(b.Context(), root, fsdiff.HostOptions{})
			if err != nil {
				b.Fatal(err)
			}
			var c *contenthash.Cache
			if path != "" {
				c = contenthash.OpenCache(path)
			}
			if _, err := contenthash.New(c).Sum(b.Context(), fsdiff.NewView(nil, sent), nil); err != nil {
				b.Fatal(err)
			}
			if c != nil {
				if err := c.Save(); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.Run("cold", func(b *testing.B) { run(b, "") })
	time.Sleep(2100 * time.Millisecond)
	path := filepath.Join(b.TempDir(), "digests")
	b.Run("fill", func(b *testing.B) { run(b, path) })
	b.Run("known", func(b *testing.B) { run(b, path) })
}
