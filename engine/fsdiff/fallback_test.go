package fsdiff

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOldKernels reads the same tree as a kernel without openat2 and
// listxattrat, and a machine without /proc, make it be read.
func TestOldKernels(t *testing.T) {
	top := t.TempDir()
	root := filepath.Join(top, "root")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(root, "a/b"), 0o755),
		os.WriteFile(filepath.Join(root, "a/b/f"), []byte("x"), 0o644),
		os.WriteFile(filepath.Join(top, "secret"), []byte("x"), 0o644),
		os.Symlink("..", filepath.Join(root, "out")),
		os.Symlink("/", filepath.Join(root, "abs")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	tagged := unix.Setxattr(filepath.Join(root, "a/b/f"), "user.tag", []byte("v"), 0) == nil
	for name, set := range map[string]func(*rootDir){
		"new":    func(*rootDir) {},
		"old":    func(r *rootDir) { r.noOpenat2.Store(true); r.attrs.noListAt.Store(true) },
		"noproc": func(r *rootDir) { r.attrs.noListAt.Store(true); r.attrs.noProc = true },
	} {
		t.Run(name, func(t *testing.T) {
			r, err := openRoot(root)
			if err != nil {
				t.Fatal(err)
			}
			set(r)
			d := &dir{listings: map[string][]*Entry{}, entries: map[string]*Entry{}}
			d.open = func() (*rootDir, error) { return r, nil }
			e, err := d.Lookup("a/b/f")
			if err != nil || tagged && string(e.Xattrs["user.tag"]) != "v" {
				t.Fatalf("Lookup = %+v, %v", e, err)
			}
			if _, err := e.Content.Open(); err != nil {
				t.Error(err)
			}
			for _, p := range []string{"out/secret", "abs/etc", "a/b/f/x", "a/nope/x", "../secret", "a/../../secret"} {
				if fd, err := r.open(p, unix.O_RDONLY); err == nil {
					unix.Close(fd)
					t.Errorf("open(%q) worked", p)
				}
			}
			if _, err := d.Lookup("out/secret"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Lookup through a link: %v", err)
			}
		})
	}
}

// TestDirTogether asks one Diff for everything from many goroutines: equal
// paths have to get equal entries.
func TestDirTogether(t *testing.T) {
	root := t.TempDir()
	paths := []string{"a", "a/b", "a/b/c", "d", "none", "a/none"}
	if err := os.MkdirAll(filepath.Join(root, "a/b/c"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "d"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d := Dir(root)
	v := NewView(NewView(nil, d), NewMem())
	got := make([]map[string]*Entry, 8)
	var wg sync.WaitGroup
	for i := range got {
		got[i] = map[string]*Entry{}
		wg.Go(func() {
			for _, p := range paths {
				e, err := v.Lookup(p)
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
				}
				got[i][p] = e
				list, err := v.ReadDir(p)
				if err != nil {
					t.Error(err)
				}
				for _, e := range list {
					got[i]["list "+e.Path] = e
				}
			}
		})
	}
	wg.Wait()
	for i := range got {
		for k, e := range got[0] {
			if got[i][k] != e {
				t.Errorf("%s is %p and %p", k, got[i][k], e)
			}
		}
	}
	if got[0]["a"] == nil || got[0]["a"] != got[0]["list a"] && got[0]["list a"] != nil {
		t.Errorf("a is %p, in the listing %p", got[0]["a"], got[0]["list a"])
	}
}

func TestFileDir(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("f", filepath.Join(root, "l")); err != nil {
		t.Fatal(err)
	}
	f, err := FileAt(filepath.Join(root, "f"))
	if err != nil || f.ID().Size != 1 || f.Name() != filepath.Join(root, "f") {
		t.Errorf("FileAt = %+v, %v", f, err)
	}
	for _, name := range []string{"l", "nope"} {
		if _, err := FileAt(filepath.Join(root, name)); err == nil {
			t.Errorf("FileAt(%q) worked", name)
		}
	}
}

func TestIsContext(t *testing.T) {
	m := NewMem()
	for name, c := range map[string]struct {
		v    *View
		want bool
	}{
		"nil":     {nil, false},
		"plain":   {NewView(nil, m), false},
		"context": {NewView(nil, AsContext(m)), true},
		"on top":  {NewView(NewView(nil, AsContext(m)), m), false},
	} {
		if got := c.v.IsContext(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// BenchmarkDeepLookup looks up paths in 200 layers, of which the lowest has
// most directories and each has one.
func BenchmarkDeepLookup(b *testing.B) {
	var v *View
	for i := range 200 {
		m := NewMem()
		m.Add(Entry{Path: "etc", Mode: fs.ModeDir | 0o755})
		m.Add(Entry{Path: filepath.Join("etc", string(rune('a'+i%26)), "x")[:5], Mode: 0o644})
		if i == 0 {
			m.Add(Entry{Path: "usr", Mode: fs.ModeDir | 0o755})
			m.Add(Entry{Path: "usr/bin", Mode: fs.ModeDir | 0o755})
			m.Add(Entry{Path: "usr/bin/tool", Mode: 0o755})
		}
		v = NewView(v, m)
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			top := NewView(v, NewMem())
			if _, err := top.Lookup("usr/bin/tool"); err != nil {
				b.Fatal(err)
			}
			if _, err := top.Lookup("etc/a"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
