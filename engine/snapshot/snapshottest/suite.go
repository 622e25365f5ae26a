// Package snapshottest is the suite that every snapshot.Snapshotter passes.
//
//	overlay, native ──newSnapshotter──▶ snapshottest ──▶ testing
package snapshottest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/snapshot"
)

// Run runs the suite. newSnapshotter makes a Snapshotter that uses dir, which
// is empty and removed after the test.
func Run(t *testing.T, newSnapshotter func(t testing.TB, dir string) snapshot.Snapshotter) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes devices, owners and trusted attributes")
	}
	s := suite{newSnapshotter}
	t.Run("Changes", s.changes)
	t.Run("NoLowers", s.noLowers)
	t.Run("RootAttributes", s.rootAttributes)
	t.Run("OpaqueRoot", s.opaqueRoot)
	t.Run("ReadOnly", s.readOnly)
	t.Run("DeepChain", s.deepChain)
	t.Run("LongPaths", s.longPaths)
	t.Run("AtOnce", s.atOnce)
	t.Run("LowersStayAsTheyWere", s.lowersStay)
	t.Run("NothingIsLeft", s.nothingLeft)
	t.Run("BusyRoot", s.busyRoot)
	t.Run("MissingLower", s.missingLower)
	t.Run("ReadOnlyHasNoCommit", s.readOnlyCommit)
}

type suite struct {
	make func(t testing.TB, dir string) snapshot.Snapshotter
}

// layers makes one lower directory of each tree, in a new directory on the
// file system of the snapshotter's, which it returns too.
func (s suite) layers(t testing.TB, trees ...string) (snap snapshot.Snapshotter, work string, lowers []string) {
	t.Helper()
	dir := t.TempDir()
	work = filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, tree := range trees {
		l := filepath.Join(dir, fmt.Sprint("layer", i))
		if err := os.Mkdir(l, 0o755); err != nil {
			t.Fatal(err)
		}
		build(t, l, tree)
		lowers = append(lowers, l)
	}
	return s.make(t, work), work, lowers
}

func mount(t testing.TB, s snapshot.Snapshotter, lowers []string, readonly bool) *snapshot.Mounted {
	t.Helper()
	m, err := s.Mount(t.Context(), lowers, readonly)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Discard(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func commit(t testing.TB, m *snapshot.Mounted) string {
	t.Helper()
	dir, err := m.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Discard(); err != nil {
		t.Errorf("discard after commit: %v", err)
	}
	return dir
}

func (s suite) noLowers(t *testing.T) {
	snap, _, _ := s.layers(t)
	m := mount(t, snap, nil, false)
	same(t, "root", list(t, m.Root), "")
	build(t, m.Root, "d d\nf d/f x")
	dir := commit(t, m)
	same(t, "change", change(t, nil, dir), "d d\nf d/f x")
	again := mount(t, snap, []string{dir}, false)
	same(t, "root", list(t, again.Root), "d d\nf d/f x")
	empty := mount(t, snap, nil, true)
	same(t, "read-only root", list(t, empty.Root), "")
}

func (s suite) rootAttributes(t *testing.T) {
	snap, _, lowers := s.layers(t, "f a a", "u . 1000:1000\nm . 0700")
	m := mount(t, snap, lowers, false)
	var st unix.Stat_t
	if err := unix.Stat(m.Root, &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode&0o7777 != 0o755 || st.Uid != 1000 || st.Gid != 1000 {
		t.Errorf("root has mode %o and owner %d:%d, want 755 and 1000:1000", st.Mode&0o7777, st.Uid, st.Gid)
	}
}

func (s suite) opaqueRoot(t *testing.T) {
	snap, _, lowers := s.layers(t, "f a a", "f b b\no .", "f c c")
	m := mount(t, snap, lowers, false)
	same(t, "root", list(t, m.Root), "f b b\nf c c")
}

func (s suite) readOnly(t *testing.T) {
	for _, tc := range []struct {
		name   string
		layers []string
		want   string
	}{
		{"one lower", []string{"d d\nf d/f x\nw gone"}, "d d\nf d/f x"},
		{"two lowers", []string{"d d\nf d/f x\nf g y", "w g\nd d\nf d/h z"}, "d d\nf d/f x\nf d/h z"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			snap, _, lowers := s.layers(t, tc.layers...)
			m := mount(t, snap, lowers, true)
			same(t, "root", list(t, m.Root), tc.want)
			// Either it is refused, or it goes with the root.
			_ = os.WriteFile(filepath.Join(m.Root, "d/f"), []byte("changed"), 0)
			if err := m.Discard(); err != nil {
				t.Fatal(err)
			}
			again := mount(t, snap, lowers, true)
			same(t, "root after a write", list(t, again.Root), tc.want)
		})
	}
}

func (s suite) deepChain(t *testing.T) {
	for _, n := range []int{150, 520} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var trees []string
			for i := range n {
				tree := fmt.Sprintf("f f%03d %d\nf top %d", i, i, i)
				if i >= 10 {
					tree += fmt.Sprintf("\nw f%03d", i-10)
				}
				trees = append(trees, tree)
			}
			snap, _, lowers := s.layers(t, trees...)
			m := mount(t, snap, lowers, false)
			var want strings.Builder
			for i := n - 10; i < n; i++ {
				fmt.Fprintf(&want, "f f%03d %d\n", i, i)
			}
			fmt.Fprintf(&want, "f top %d\n", n-1)
			same(t, "root", list(t, m.Root), want.String())
			if err := os.Remove(filepath.Join(m.Root, "top")); err != nil {
				t.Fatal(err)
			}
			same(t, "change", change(t, lowers, commit(t, m)), "w top")
		})
	}
}

// longPaths has lower directories whose names together are longer than a page,
// and which have the characters that mount options give a meaning.
func (s suite) longPaths(t *testing.T) {
	snap, _, _ := s.layers(t)
	dir := filepath.Join(t.TempDir(), `a:b,c\d e`)
	var lowers []string
	for i := range 40 {
		l := filepath.Join(dir, strings.Repeat("x", 200), fmt.Sprint(i))
		if err := os.MkdirAll(l, 0o755); err != nil {
			t.Fatal(err)
		}
		build(t, l, fmt.Sprintf("f f%d %d\nf top %d", i, i, i))
		lowers = append(lowers, l)
	}
	m := mount(t, snap, lowers, false)
	if got := list(t, m.Root); len(got) != 41 || got[40] != "f top 39" {
		t.Errorf("root: %q", got)
	}
}

func (s suite) atOnce(t *testing.T) {
	snap, _, lowers := s.layers(t, "d d\nf d/f x", "f g y")
	var wg sync.WaitGroup
	dirs := make([]string, 16)
	for i := range dirs {
		wg.Go(func() {
			m, err := snap.Mount(t.Context(), lowers, false)
			if err != nil {
				t.Error(err)
				return
			}
			if err := os.WriteFile(filepath.Join(m.Root, "d/f"), []byte(fmt.Sprint(i)), 0); err != nil {
				t.Error(err)
			}
			if dirs[i], err = m.Commit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, dir := range dirs {
		if !t.Failed() {
			same(t, "change", change(t, lowers, dir), fmt.Sprintf("d d\nf d/f %d", i))
		}
	}
}

func (s suite) lowersStay(t *testing.T) {
	const tree = "d d\nf d/f x\nf g y"
	snap, _, lowers := s.layers(t, tree)
	m := mount(t, snap, lowers, false)
	for _, do := range []error{
		os.WriteFile(filepath.Join(m.Root, "d/f"), []byte("changed"), 0),
		os.Remove(filepath.Join(m.Root, "g")),
		os.Chmod(filepath.Join(m.Root, "d"), 0o700),
	} {
		if do != nil {
			t.Fatal(do)
		}
	}
	commit(t, m)
	same(t, "lower directory", list(t, lowers[0]), tree)
}

func (s suite) nothingLeft(t *testing.T) {
	snap, work, lowers := s.layers(t, "d d\nf d/f x", "f g y")
	for _, l := range [][]string{nil, lowers[:1], lowers} {
		for _, readonly := range []bool{false, true} {
			m := mount(t, snap, l, readonly)
			if err := m.Discard(); err != nil {
				t.Fatal(err)
			}
		}
		m := mount(t, snap, l, false)
		if err := os.WriteFile(filepath.Join(m.Root, "new"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		dir := commit(t, m)
		if parent := filepath.Dir(dir); parent != work {
			t.Errorf("the change lies in %s, want %s", parent, work)
		}
		if err := os.Rename(dir, filepath.Join(t.TempDir(), "kept")); err != nil {
			t.Error(err)
		}
	}
	left, err := os.ReadDir(work)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("left: %s", e.Name())
	}
	if info, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(info), work) {
		t.Errorf("something is still mounted below %s (%v)", work, err)
	}
}

// busyRoot has somebody hold the root open, as a process that was killed but
// is not gone yet.
func (s suite) busyRoot(t *testing.T) {
	snap, _, lowers := s.layers(t, "f a a", "f b b")
	m := mount(t, snap, lowers, false)
	f, err := os.Open(filepath.Join(m.Root, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.WriteFile(filepath.Join(m.Root, "c"), []byte("c"), 0o644); err != nil {
		t.Fatal(err)
	}
	same(t, "change", change(t, lowers, commit(t, m)), "f c c")
}

func (s suite) missingLower(t *testing.T) {
	snap, work, lowers := s.layers(t, "f a a")
	lowers = append(lowers, filepath.Join(work, "..", "missing"))
	m, err := snap.Mount(t.Context(), lowers, false)
	if err == nil {
		m.Discard()
		t.Fatal("mount of a missing directory succeeded")
	}
	if !strings.Contains(err.Error(), "missing") {
		t.Errorf("error %q does not name the directory", err)
	}
	left, err := os.ReadDir(work)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func (s suite) readOnlyCommit(t *testing.T) {
	snap, work, lowers := s.layers(t, "f a a", "f b b")
	m := mount(t, snap, lowers, true)
	if dir, err := m.Commit(t.Context()); !errors.Is(err, snapshot.ErrReadOnly) {
		t.Errorf("commit: %q, %v", dir, err)
	}
	if dir, err := m.Commit(t.Context()); err == nil {
		t.Errorf("second commit: %q", dir)
	}
	if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Bench measures mounting, a change and a commit over n lowers.
func Bench(b *testing.B, newSnapshotter func(t testing.TB, dir string) snapshot.Snapshotter, n int) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	var trees []string
	for i := range n {
		trees = append(trees, fmt.Sprintf("f f%d x", i))
	}
	snap, _, lowers := suite{newSnapshotter}.layers(b, trees...)
	for b.Loop() {
		m, err := snap.Mount(b.Context(), lowers, false)
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.Root, "new"), []byte("n"), 0o644); err != nil {
			b.Fatal(err)
		}
		dir, err := m.Commit(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
	}
}
