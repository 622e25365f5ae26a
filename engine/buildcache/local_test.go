package buildcache

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-build/mayfly/engine/solver"
)

func TestLocalFindsByDefinition(t *testing.T) {
	root := t.TempDir()
	base := key("base")
	k := key("run", by(base))
	first := open(t, root)
	if first.Knows(k.Record) {
		t.Error("an empty cache knows the operation")
	}
	first.save(t, k, first.file(first.file(nil, "base", "b"), "out", "hello"))

	later := open(t, root)
	if !later.Knows(k.Record) || later.Knows(base.Record) {
		t.Error("the cache knows run and not base; it says otherwise")
	}
	same := key("run", by(key("base")))
	wantFound(t, later, same, "out", "hello")
	wantFound(t, later, same, "base", "b")
	if m := later.Find(t.Context(), same); !m.Known || m.Hit.Cache != "local" {
		t.Errorf("match %+v", m)
	}
	for _, other := range []*solver.Key{
		key("run", by(key("other base"))),
		key("run"),
		key("other run", by(base)),
		key("run", []solver.Link{{Key: base, Selector: "sha256:other part"}}),
		key("run", by(base), by(base)),
	} {
		wantMiss(t, later, other)
	}
	if len(later.warned) > 0 {
		t.Errorf("warnings: %v", later.warned)
	}
}

func TestLocalFindsByContent(t *testing.T) {
	root := t.TempDir()
	p := open(t, root)
	copied := key("copy", by(random("context of one build"))).WithContent(0, contentRecord("files"))
	p.save(t, copied, p.file(nil, "f", "files"))
	run := key("run", by(copied))
	p.save(t, run, p.file(nil, "ran", "yes"))

	later := open(t, root)
	again := key("copy", by(random("context of another build")))
	wantMiss(t, later, again)
	wantMiss(t, later, again.WithContent(0, contentRecord("changed files")))
	wantFound(t, later, again.WithContent(0, contentRecord("files")), "f", "files")
	wantFound(t, later, key("run", by(again.WithContent(0, contentRecord("files")))), "ran", "yes")
	wantMiss(t, later, key("run", by(again.WithContent(0, contentRecord("changed files")))))
}

// A hit by definition has the content that the entry remembers: what was made
// from the same content on top of another definition is then found too.
func TestLocalCompletesAKey(t *testing.T) {
	root := t.TempDir()
	p := open(t, root)
	k := key("copy", by(key("tool v1"))).WithContent(0, contentRecord("binary"))
	p.save(t, k, p.file(nil, "bin", "binary"))

	later := open(t, root)
	m := later.Find(t.Context(), key("copy", by(key("tool v1"))))
	if m.Hit == nil {
		t.Fatal("not found by definition")
	}
	if !m.Hit.Key.HasContent(0) {
		t.Fatal("the key of the hit has no content")
	}
	wantFound(t, later, key("copy", by(key("tool v2"))).WithContent(0, contentRecord("binary")), "bin", "binary")
}

func TestLocalFresh(t *testing.T) {
	p := open(t, t.TempDir())
	k := key("run", by(key("base")))
	above := key("above", by(k))
	p.save(t, k, p.file(nil, "f", "old"))
	p.save(t, above, p.file(nil, "g", "old"))

	again := fresh(key("run", by(key("base"))))
	wantMiss(t, p, again)
	wantMiss(t, p, key("above", by(again)))
	byContent := key("above", by(key("run", by(key("base"))))).WithContent(0, contentRecord("same"))
	p.save(t, byContent, p.file(nil, "g", "same content"))
	// What ran again may have made the same: then what is above need not run.
	wantFound(t, p, key("above", by(again)).WithContent(0, contentRecord("same")), "g", "same content")
	p.save(t, again, p.file(nil, "f", "new"))
	wantFound(t, p, key("run", by(key("base"))), "f", "new")
}

func TestLocalRandomIsNotFiled(t *testing.T) {
	p := open(t, t.TempDir())
	for _, k := range []*solver.Key{random("context"), key("copy", by(random("context")))} {
		p.save(t, k, p.file(nil, "f", "x"))
		wantMiss(t, p, k)
	}
	if p.Knows(random("context").Record) {
		t.Error("the cache knows what is random")
	}
	if es, err := os.ReadDir(filepath.Join(p.root, "keys")); err != nil || len(es) > 0 {
		t.Errorf("filed %v, %v; want nothing", es, err)
	}
}

func TestLocalScratchIsAResult(t *testing.T) {
	p := open(t, t.TempDir())
	k := key("rm everything", by(key("base")))
	p.save(t, k, nil)
	m := p.Find(t.Context(), k)
	if m.Hit == nil {
		t.Fatal("not found")
	}
	if s, err := m.Hit.Load(t.Context()); s != nil || err != nil {
		t.Errorf("loaded %v, %v; want scratch", s, err)
	}
}

// A layer in memory is written by Flush, not by Save.
func TestLocalSavePutsOff(t *testing.T) {
	p := open(t, t.TempDir())
	k := key("copy", by(key("base")))
	if err := p.Save(t.Context(), k, vertex("copy"), p.file(nil, "f", "x")); err != nil {
		t.Fatal(err)
	}
	wantMiss(t, p, k)
	if es, err := os.ReadDir(filepath.Join(p.root, "layers")); err != nil || len(es) > 0 {
		t.Errorf("layers %v, %v; want none yet", es, err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantFound(t, p, k, "f", "x")
}

// entries returns the files of the cache.
func entries(t *testing.T, p *process) (out []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(p.root, "keys"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLocalDamagedEntry(t *testing.T) {
	for name, damage := range map[string]func(dt []byte) []byte{
		"empty":    func([]byte) []byte { return nil },
		"short":    func(dt []byte) []byte { return dt[:len(dt)-1] },
		"one bit":  func(dt []byte) []byte { dt[len(dt)/2] ^= 1; return dt },
		"no entry": func([]byte) []byte { return []byte("hello\n") },
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, t.TempDir())
			k := key("run", by(key("base")))
			p.save(t, k, p.file(nil, "f", "x"))
			for _, path := range entries(t, p) {
				dt, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, damage(dt), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			n := len(entries(t, p))
			wantMiss(t, p, k)
			wantMiss(t, p, k)
			if len(p.warned) != n || !strings.Contains(p.warned[0].Error(), "damaged") {
				t.Errorf("warnings %v, want one for each of %d entries", p.warned, n)
			}
			if left := entries(t, p); len(left) > 0 {
				t.Errorf("%v are left", left)
			}
			p.save(t, k, p.file(nil, "f", "again"))
			wantFound(t, p, k, "f", "again")
		})
	}
}

// A layer that was pruned is a miss and no trouble; a damaged one is both.
func TestLocalMissingLayers(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(layer string) error
		warns bool
	}{
		"pruned":       {os.RemoveAll, false},
		"without fs":   {func(l string) error { return os.RemoveAll(filepath.Join(l, "fs")) }, false},
		"damaged meta": {func(l string) error { return os.WriteFile(filepath.Join(l, "meta.json"), []byte("{}"), 0o600) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			p := open(t, root)
			k := key("run", by(key("base")))
			p.save(t, k, p.file(p.file(nil, "base", "b"), "f", "x"))
			layers, err := filepath.Glob(filepath.Join(root, "layers", "*"))
			if err != nil || len(layers) != 2 {
				t.Fatalf("layers %v, %v; want 2", layers, err)
			}
			if err := c.spoil(layers[0]); err != nil {
				t.Fatal(err)
			}
			later := open(t, root)
			wantMiss(t, later, k)
			if (len(later.warned) > 0) != c.warns {
				t.Errorf("warnings %v, want some: %v", later.warned, c.warns)
			}
			if left := entries(t, later); len(left) > 0 {
				t.Errorf("%v are left", left)
			}
			later.save(t, k, later.file(later.file(nil, "base", "b"), "f", "again"))
			wantFound(t, open(t, root), k, "f", "again")
		})
	}
}

func TestLocalConcurrentProcesses(t *testing.T) {
	root := t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		p := open(t, root)
		wg.Go(func() {
			for i := range 10 {
				k := key(fmt.Sprint("run ", i), by(key("base")))
				if m := p.Find(t.Context(), k); m.Hit != nil {
					s, err := m.Hit.Load(t.Context())
					if err != nil {
						t.Error(err)
						continue
					}
					if v, err := s.View(t.Context()); err != nil {
						t.Error(err)
					} else if dt, err := v.ReadFile("f", 100); string(dt) != fmt.Sprint(i) {
						t.Errorf("run %d: %q, %v", i, dt, err)
					}
				}
				if err := p.Save(t.Context(), k, vertex("run"), p.file(nil, "f", fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
				if err := p.Flush(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if len(p.warned) > 0 {
				t.Errorf("warnings: %v", p.warned)
			}
		})
	}
	wg.Wait()
	later := open(t, root)
	for i := range 10 {
		wantFound(t, later, key(fmt.Sprint("run ", i), by(key("base"))), "f", fmt.Sprint(i))
	}
	for _, path := range entries(t, later) {
		if strings.HasPrefix(filepath.Base(path), ".") {
			t.Errorf("%s is left", path)
		}
	}
}
