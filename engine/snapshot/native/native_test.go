package native

import (
	"testing"

	"github.com/mayfly-build/mayfly/engine/snapshot"
	"github.com/mayfly-build/mayfly/engine/snapshot/snapshottest"
)

func newNative(t testing.TB, dir string) snapshot.Snapshotter {
	t.Helper()
	n, err := New(snapshot.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSuite(t *testing.T) { snapshottest.Run(t, newNative) }

func BenchmarkMount(b *testing.B) { snapshottest.Bench(b, newNative, 20) }
