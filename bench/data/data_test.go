package data_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/mayfly-build/mayfly/bench/data"
)

func digestOf(t *testing.T, dir string) (sum string, files int, all []byte) {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		fmt.Fprintf(h, "%s %d %x\n", rel, len(b), sha256.Sum256(b))
		all = append(all, b...)
		files++
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), files, all
}

func TestTree(t *testing.T) {
	for _, c := range []struct {
		name       string
		tree       data.Tree
		sizes      [2]int     // of all files together
		compressed [2]float64 // part that gzip leaves
	}{
		{"text", data.Tree{Seed: 1, Files: 250, Size: 1 << 20, Exp: true}, [2]int{800_000, 1_300_000}, [2]float64{0.2, 0.5}},
		{"random", data.Tree{Seed: 1, Files: 3, Size: 3 << 20, Mix: data.Random}, [2]int{3 << 20, 3 << 20}, [2]float64{0.99, 1.01}},
		{"half", data.Tree{Seed: 1, Files: 4, Size: 8 << 20, Mix: data.Half}, [2]int{8 << 20, 8 << 20}, [2]float64{0.55, 0.75}},
		{"zero", data.Tree{Seed: 1, Files: 1, Size: 5000, Mix: data.Zero}, [2]int{5000, 5000}, [2]float64{0, 0.02}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := t.TempDir(), t.TempDir()
			for _, dir := range []string{a, b} {
				if err := c.tree.Write(dir); err != nil {
					t.Fatal(err)
				}
			}
			sum, files, all := digestOf(t, a)
			if again, _, _ := digestOf(t, b); again != sum {
				t.Error("two trees of one seed differ")
			}
			if files != c.tree.Files {
				t.Errorf("%d files, want %d", files, c.tree.Files)
			}
			if len(all) < c.sizes[0] || len(all) > c.sizes[1] {
				t.Errorf("%d bytes, want %v", len(all), c.sizes)
			}
			var z bytes.Buffer
			w := gzip.NewWriter(&z)
			if _, err := io.Copy(w, bytes.NewReader(all)); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if part := float64(z.Len()) / float64(len(all)); part < c.compressed[0] || part > c.compressed[1] {
				t.Errorf("gzip leaves %.2f, want %v", part, c.compressed)
			}
			other := t.TempDir()
			c.tree.Seed++
			if err := c.tree.Write(other); err != nil {
				t.Fatal(err)
			}
			if again, _, _ := digestOf(t, other); again == sum && c.tree.Mix != data.Zero {
				t.Error("two seeds give the same tree")
			}
		})
	}
}

func TestTreeRefuses(t *testing.T) {
	for _, tree := range []data.Tree{{Files: 0, Size: 1}, {Files: 1, Size: -1}, {Files: 1, Mix: "soup"}} {
		if err := tree.Write(t.TempDir()); err == nil {
			t.Errorf("%+v was written", tree)
		}
	}
}
