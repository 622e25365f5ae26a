package oci_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/exporter/oci"
)

// TestDirIndexEqualsBuildKit adds images to a layout as generate.sh does.
func TestDirIndexEqualsBuildKit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "layout")
	names := []string{"example.com:5000/a/b:1", "docker.io/library/c:latest", "docker.io/library/d:x"}
	const e = "docker.io/library/e@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for i, names := range [][]string{nil, names, {names[1]}, {e}, nil} {
		want, err := os.ReadFile(fmt.Sprintf("testdata/index-%d.json", i+1))
		if err != nil {
			t.Fatal(err)
		}
		index := decode[ocispec.Index](t, want)
		last := index.Manifests[len(index.Manifests)-1]
		delete(last.Annotations, imageName)
		delete(last.Annotations, refName)
		// The blobs do not matter here, the descriptor does.
		img := newImage(t, 1, 10)
		img.Manifest = bytes.Repeat([]byte{byte(i)}, int(last.Size))
		img.ManifestDesc, img.Names = last, names
		if err := oci.WriteDir(t.Context(), dir, img); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "index.json"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("index %d is\n%s\nBuildKit's is\n%s", i+1, got, want)
		}
	}
	for name, mode := range map[string]os.FileMode{"oci-layout": 0o644, "index.json": 0o644} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != mode {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "oci-layout")); string(b) != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout is %s, %v", b, err)
	}
	if left := list(t, dir); len(left) != 3 {
		t.Errorf("the layout has %q", left)
	}
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A layout whose index nobody can read is not replaced by a new one.
func TestBrokenIndex(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "index.json")
	if err := os.WriteFile(path, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := oci.WriteDir(t.Context(), dir, newImage(t, 1, 1)); err == nil {
		t.Error("written")
	}
	if b, err := os.ReadFile(path); string(b) != "{" {
		t.Errorf("%q, %v", b, err)
	}
}

// A blob that a crash left short is written again.
func TestShortBlobIsReplaced(t *testing.T) {
	dir := t.TempDir()
	img := newImage(t, 1, 1000)
	if err := oci.WriteDir(t.Context(), dir, img); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "blobs/sha256", img.Layers[0].Digest.Encoded())
	if err := os.Truncate(path, 5); err != nil {
		t.Fatal(err)
	}
	if err := oci.WriteDir(t.Context(), dir, img); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != img.Layers[0].Size || st.Mode() != 0o444 {
		t.Errorf("%v, %v", st, err)
	}
}

func TestManyWritersOfOneLayout(t *testing.T) {
	dir := t.TempDir()
	const n = 20
	var wg sync.WaitGroup
	for i := range n {
		img := newImage(t, 1+i%3, 1000)
		img.Names = []string{fmt.Sprintf("docker.io/library/x:%d", i)}
		wg.Go(func() {
			if err := oci.WriteDir(t.Context(), dir, img); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	data, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(decode[ocispec.Index](t, data).Manifests); got != n {
		t.Errorf("%d manifests, want %d", got, n)
	}
	if names := list(t, dir); len(names) != 3 {
		t.Errorf("the layout has %q", names)
	}
}

// The lock is the one that buildctl takes.
func TestLockedIndex(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "index.json.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := oci.WriteDir(ctx, dir, newImage(t, 1, 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("written under another's lock: %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { f.Close() })
	if err := oci.WriteDir(t.Context(), dir, newImage(t, 1, 1)); err != nil {
		t.Error(err)
	}
}
