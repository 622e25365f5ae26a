package overlay

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/engine/snapshot"
	"github.com/mayfly-build/mayfly/engine/snapshot/snapshottest"
)

func newOverlay(t testing.TB, dir string) snapshot.Snapshotter {
	t.Helper()
	if err := Probe(dir); err != nil {
		t.Skip(err)
	}
	o, err := New(snapshot.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// newOld mounts as for kernels without file system contexts.
func newOld(t testing.TB, dir string) snapshot.Snapshotter {
	t.Helper()
	o := newOverlay(t, dir)
	o.(*Overlay).useMount = true
	return o
}

func TestSuite(t *testing.T) { snapshottest.Run(t, newOverlay) }

func TestSuiteByMount(t *testing.T) { snapshottest.Run(t, newOld) }

func TestProbe(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := Probe(dir); err != nil {
		t.Skip(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	// procfs cannot hold an upper directory, nor any other.
	if err := Probe("/proc/self"); err == nil {
		t.Error("probe of a directory that cannot be written to succeeded")
	}
	// An overlay cannot be the upper directory of another.
	m, err := newOverlay(t, t.TempDir()).Mount(t.Context(), []string{dir}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Discard()
	err = Probe(m.Root)
	if err == nil {
		t.Fatal("probe of an overlay succeeded")
	}
	if !strings.Contains(err.Error(), "upper") {
		t.Errorf("error %q does not give the kernel's reason", err)
	}
}

func BenchmarkMount(b *testing.B) {
	for _, n := range []int{1, 20, 150} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { snapshottest.Bench(b, newOverlay, n) })
		b.Run(fmt.Sprintf("%d-by-mount", n), func(b *testing.B) { snapshottest.Bench(b, newOld, n) })
	}
}
