package cachemount

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// newStore returns a Store on root, as one more process has it.
func newStore(t *testing.T, root string) *Store {
	t.Helper()
	tmp := filepath.Join(root, "tmp")
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	return New(Config{Dir: filepath.Join(root, "mounts"), Tmp: func() (string, error) { return os.MkdirTemp(tmp, "mount-") }})
}

func want(id string, sharing Sharing, fill func(string) error) Want {
	return Want{Use: Use{ID: id, Platform: "linux/amd64"}, Sharing: sharing, Fill: fill}
}

func get(t *testing.T, s *Store, id string, sharing Sharing) *Mount {
	t.Helper()
	m, err := s.Get(t.Context(), want(id, sharing, nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func put(t *testing.T, m *Mount, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.Dir, name), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func has(m *Mount, name string) bool {
	_, err := os.Stat(filepath.Join(m.Dir, name))
	return err == nil
}

func TestSharedBySeveral(t *testing.T) {
	root := t.TempDir()
	a, b := get(t, newStore(t, root), "go", Shared), get(t, newStore(t, root), "go", Shared)
	put(t, a, "f")
	if a.Dir != b.Dir || !has(b, "f") {
		t.Errorf("%s and %s are not one directory", a.Dir, b.Dir)
	}
	if other := get(t, newStore(t, root), "../go", Shared); has(other, "f") {
		t.Error("another id is the same directory")
	}
	a.Close()
	b.Close()
	if again := get(t, newStore(t, root), "go", Shared); !has(again, "f") {
		t.Error("the directory did not outlive its users")
	}
}

func TestPrivateGivesEachItsOwn(t *testing.T) {
	root := t.TempDir()
	first, second := newStore(t, root), newStore(t, root)
	a, b, c := get(t, first, "go", Private), get(t, first, "go", Private), get(t, second, "go", Private)
	if a.Dir == b.Dir || b.Dir == c.Dir || a.Dir == c.Dir {
		t.Errorf("in use at once: %s, %s, %s", a.Dir, b.Dir, c.Dir)
	}
	put(t, b, "f")
	b.Close()
	if again := get(t, second, "go", Private); again.Dir != b.Dir || !has(again, "f") {
		t.Errorf("%s was given back, and %s given out", b.Dir, again.Dir)
	}
}

func TestLockedWaits(t *testing.T) {
	root := t.TempDir()
	a := get(t, newStore(t, root), "go", Locked)
	got := make(chan *Mount)
	other := newStore(t, root)
	go func() {
		m, err := other.Get(context.WithoutCancel(t.Context()), want("go", Locked, nil))
		if err != nil {
			t.Error(err)
		}
		got <- m
	}()
	select {
	case <-got:
		t.Fatal("two have the lock at once")
	case <-time.After(5 * pollLock):
	}
	a.Close()
	m := <-got
	defer m.Close()
	if m.Dir != a.Dir {
		t.Errorf("%s after %s", m.Dir, a.Dir)
	}
}

func TestLockedExcludes(t *testing.T) {
	root := t.TempDir()
	var inside atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		s := newStore(t, root)
		for range 3 {
			wg.Go(func() {
				m, err := s.Get(t.Context(), want("go", Locked, nil))
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				time.Sleep(2 * time.Millisecond)
				inside.Add(-1)
				m.Close()
			})
		}
	}
	wg.Wait()
}

func TestWaitEndsWithItsContext(t *testing.T) {
	for _, held := range []Sharing{Shared, Locked} {
		root := t.TempDir()
		a := get(t, newStore(t, root), "go", held)
		ctx, cancel := context.WithCancelCause(t.Context())
		stopped := errors.New("the job was stopped")
		time.AfterFunc(pollLock, func() { cancel(stopped) })
		if _, err := newStore(t, root).Get(ctx, want("go", Locked, nil)); !errors.Is(err, stopped) {
			t.Errorf("waiting for one who has it as %d: %v", held, err)
		}
		a.Close()
		get(t, newStore(t, root), "go", Locked)
	}
}

func TestFillOnce(t *testing.T) {
	for _, sharing := range []Sharing{Shared, Private, Locked} {
		s := newStore(t, t.TempDir())
		filled := 0
		fill := func(dir string) error {
			filled++
			return os.WriteFile(filepath.Join(dir, "seed"), nil, 0o644)
		}
		for range 2 {
			m, err := s.Get(t.Context(), want("go", sharing, fill))
			if err != nil {
				t.Fatal(err)
			}
			if !has(m, "seed") {
				t.Error("the directory is not filled")
			}
			m.Close()
		}
		if filled != 1 {
			t.Errorf("filled %d times", filled)
		}
	}
}

func TestFillFails(t *testing.T) {
	root := t.TempDir()
	s := newStore(t, root)
	broken := errors.New("no space left")
	_, err := s.Get(t.Context(), want("go", Locked, func(dir string) error {
		os.WriteFile(filepath.Join(dir, "half"), nil, 0o644)
		return broken
	}))
	if !errors.Is(err, broken) {
		t.Fatalf("the error is %v", err)
	}
	if m := get(t, s, "go", Locked); has(m, "half") {
		t.Error("what was half filled is given out")
	}
	if es, err := os.ReadDir(filepath.Join(root, "tmp")); err != nil || len(es) != 0 {
		t.Errorf("left in tmp: %v, %v", es, err)
	}
}

// Those who come first all at once see the same directory, filled whole.
func TestManyStoresFillAtOnce(t *testing.T) {
	root := t.TempDir()
	start := make(chan struct{})
	var wg sync.WaitGroup
	dirs := make([]string, 8)
	for i := range dirs {
		s := newStore(t, root)
		wg.Go(func() {
			<-start
			m, err := s.Get(t.Context(), want("go", Shared, func(dir string) error {
				for _, name := range []string{"a", "b"} {
					if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
						return err
					}
				}
				return nil
			}))
			if err != nil {
				t.Error(err)
				return
			}
			defer m.Close()
			if dirs[i] = m.Dir; !has(m, "a") || !has(m, "b") {
				t.Error("the directory is not whole")
			}
		})
	}
	close(start)
	wg.Wait()
	for _, d := range dirs {
		if d != dirs[0] {
			t.Errorf("%s and %s are in use as one", d, dirs[0])
		}
	}
}

func TestEmpty(t *testing.T) {
	root := t.TempDir()
	old := newStore(t, root)
	a, b := get(t, old, "go", Private), get(t, old, "go", Private)
	other := get(t, old, "npm", Shared)
	for _, m := range []*Mount{a, b, other} {
		put(t, m, "f")
	}
	a.Close()
	other.Close()

	s := newStore(t, root)
	if err := s.Empty("go"); err != nil {
		t.Fatal(err)
	}
	if !has(b, "f") {
		t.Error("a directory in use was emptied")
	}
	again := get(t, s, "go", Private)
	if again.Dir != a.Dir || has(again, "f") {
		t.Errorf("%s is not empty", again.Dir)
	}
	if !has(other, "f") {
		t.Error("another id was emptied")
	}
	put(t, again, "g")
	again.Close()
	if err := s.Empty("go"); err != nil {
		t.Fatal(err)
	}
	if m := get(t, s, "go", Private); !has(m, "g") {
		t.Error("emptied twice in one build: what its own steps left is gone")
	}
	if err := s.Empty("never used"); err != nil {
		t.Error(err)
	}
	if es, err := os.ReadDir(filepath.Join(root, "tmp")); err != nil || len(es) != 0 {
		t.Errorf("left in tmp: %v, %v", es, err)
	}
}
