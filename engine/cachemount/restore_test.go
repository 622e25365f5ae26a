package cachemount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// restoring returns a Store on root whose restore leaves a file and a note.
func restoring(t *testing.T, root string, asked *atomic.Int64) *Store {
	s := newStore(t, root)
	s.cfg.Restore = func(_ context.Context, u Use, at Place) (bool, error) {
		asked.Add(1)
		if strings.HasPrefix(u.ID, "cold") {
			return false, nil
		}
		time.Sleep(2 * pollLock) // others come meanwhile
		return true, errors.Join(
			os.WriteFile(filepath.Join(at.Dir, "restored"), []byte(u.Platform), 0o644),
			os.WriteFile(at.Notes, []byte(u.ID), 0o644))
	}
	return s
}

func TestRestoreComesFirst(t *testing.T) {
	for _, sharing := range []Sharing{Shared, Private, Locked} {
		var asked atomic.Int64
		s := restoring(t, t.TempDir(), &asked)
		fill := func(dir string) error { return os.WriteFile(filepath.Join(dir, "filled"), nil, 0o644) }
		for _, id := range []string{"go", "cold"} {
			for range 2 {
				m, err := s.Get(t.Context(), want(id, sharing, fill))
				if err != nil {
					t.Fatal(err)
				}
				if has(m, "restored") != (id == "go") || has(m, "filled") != (id == "cold") {
					t.Errorf("%s: restored %t, filled %t", id, has(m, "restored"), has(m, "filled"))
				}
				if note, _ := os.ReadFile(m.Notes); id == "go" && string(note) != id {
					t.Errorf("the note is %q", note)
				}
				m.Close()
			}
		}
		if n := asked.Load(); n != 2 {
			t.Errorf("asked %d times for two ids", n)
		}
	}
}

// TestRestoreOnce: all who come at once wait for the one that restores.
func TestRestoreOnce(t *testing.T) {
	root := t.TempDir()
	var asked atomic.Int64
	var wg sync.WaitGroup
	for range 6 {
		s := restoring(t, root, &asked)
		wg.Go(func() {
			m, err := s.Get(t.Context(), want("go", Shared, nil))
			if err != nil {
				t.Error(err)
				return
			}
			defer m.Close()
			if !has(m, "restored") {
				t.Error("somebody has it without what was restored")
			}
		})
	}
	wg.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("restored %d times", n)
	}
}

func TestRestoreOfPrivate(t *testing.T) {
	var asked atomic.Int64
	s := restoring(t, t.TempDir(), &asked)
	a, b := get(t, s, "go", Private), get(t, s, "go", Private)
	if !has(a, "restored") || has(b, "restored") || asked.Load() != 1 {
		t.Errorf("first %t, second %t, asked %d times", has(a, "restored"), has(b, "restored"), asked.Load())
	}
}

func TestRestoreNotAfterEmpty(t *testing.T) {
	root := t.TempDir()
	var asked atomic.Int64
	s := restoring(t, root, &asked)
	if err := s.Empty("go"); err != nil {
		t.Fatal(err)
	}
	if m := get(t, s, "go", Shared); has(m, "restored") {
		t.Error("a build that ignores the cache has what was restored")
	}
	if asked.Load() != 0 {
		t.Error("it was asked for")
	}
}

func TestRestoreFails(t *testing.T) {
	root := t.TempDir()
	s := newStore(t, root)
	full := errors.New("no space left")
	s.cfg.Restore = func(_ context.Context, _ Use, at Place) (bool, error) {
		os.WriteFile(filepath.Join(at.Dir, "half"), nil, 0o644)
		return false, full
	}
	if _, err := s.Get(t.Context(), want("go", Shared, nil)); !errors.Is(err, full) {
		t.Fatal(err)
	}
	if m := get(t, newStore(t, root), "go", Shared); has(m, "half") {
		t.Error("what was half restored is given out")
	}
}

func TestUsed(t *testing.T) {
	s := newStore(t, t.TempDir())
	held := get(t, newStore(t, filepath.Dir(s.cfg.Dir)), "elsewhere", Private)
	get(t, s, "b", Shared)
	get(t, s, "a", Locked)
	get(t, s, "b", Shared)
	get(t, s, "elsewhere", Private) // the second directory
	m, err := s.Get(t.Context(), Want{Use: Use{"a2", "linux/arm64"}})
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	if got := fmt.Sprint(s.Used()); got != "[{b linux/amd64} {a linux/amd64} {a2 linux/arm64}]" {
		t.Errorf("used %s", got)
	}
	held.Close()
}

func TestOpen(t *testing.T) {
	s := newStore(t, t.TempDir())
	if _, err := s.Open(t.Context(), "go"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of an unknown id: %v", err)
	}
	a := get(t, s, "go", Locked)
	put(t, a, "f")
	ctx, cancel := context.WithTimeout(t.Context(), 3*pollLock)
	defer cancel()
	if _, err := s.Open(ctx, "go"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it is locked: %v", err)
	}
	a.Close()
	b := get(t, s, "go", Shared)
	m, err := s.Open(t.Context(), "go")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if m.Dir != b.Dir || !has(m, "f") {
		t.Errorf("%s is open, %s is in use", m.Dir, b.Dir)
	}
	if list, err := os.ReadDir(m.Dir); err != nil || slices.ContainsFunc(list, func(e fs.DirEntry) bool { return e.Name() != "f" }) {
		t.Errorf("%v, %v", list, err)
	}
}
