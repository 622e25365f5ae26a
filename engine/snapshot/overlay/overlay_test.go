package overlay

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/layertar"
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

// TestUserNamespace runs itself as root of a user namespace, where overlay's
// attributes are user.* and the mounts are the namespace's own.
func TestUserNamespace(t *testing.T) {
	if dir := os.Getenv("OVERLAY_TEST_DIR"); dir != "" {
		inNamespace(t, dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestUserNamespace$", "-test.v")
	cmd.Env = append(os.Environ(), "OVERLAY_TEST_DIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Skipf("user namespaces: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skipf("%s", out)
	}
}

func inNamespace(t *testing.T, dir string) {
	o := newOverlay(t, dir).(*Overlay)
	if !o.userns {
		t.Fatal("the user namespace is not seen")
	}
	lower := filepath.Join(dir, "lower")
	data := tarOf(t, "d/", "d/old", "d/kept", "gone")
	if err := os.Mkdir(lower, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := layertar.Unpack(t.Context(), bytes.NewReader(data), lower, nil); err != nil {
		t.Fatal(err)
	}
	second := filepath.Join(dir, "second")
	if err := os.Mkdir(second, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := layertar.Unpack(t.Context(), bytes.NewReader(tarOf(t, ".wh.gone", "new")), second, nil); err != nil {
		t.Fatal(err)
	}
	m, err := o.Mount(t.Context(), []string{lower, second}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Discard()
	if _, err := os.Lstat(filepath.Join(m.Root, "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a whiteout hides: %v", err)
	}
	d := filepath.Join(m.Root, "d")
	if err := os.RemoveAll(d); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d, "kept"), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	change, err := m.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	base := fsdiff.NewView(fsdiff.NewView(nil, fsdiff.Dir(lower)), fsdiff.Dir(second))
	var buf bytes.Buffer
	if _, err := layertar.Write(t.Context(), &buf, fsdiff.Dir(change), base); err != nil {
		t.Fatal(err)
	}
	var names []string
	for tr := tar.NewReader(&buf); ; {
		hdr, err := tr.Next()
		if err != nil {
			break
		}
		names = append(names, hdr.Name)
	}
	if got, want := strings.Join(names, " "), "d/ d/kept d/.wh.old"; got != want {
		t.Errorf("the change is %q, want %q", got, want)
	}
}

// tarOf makes a tar of empty files, and of directories where names end so.
func tarOf(t *testing.T, names ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, name := range names {
		hdr := &tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			hdr.Typeflag = tar.TypeDir
		}
		if err := tw.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
