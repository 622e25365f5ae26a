package treestore

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNothingLeadsOut: a path is followed through directories only, with and
// without openat2.
func TestNothingLeadsOut(t *testing.T) {
	d := newDir(t)
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600))
	d.write("in/side", "y")
	must(t, os.Symlink(outside, filepath.Join(d.path, "out")))
	must(t, os.Symlink("in", filepath.Join(d.path, "to in")))
	must(t, os.Symlink("side", filepath.Join(d.path, "in/link")))
	for _, stepwise := range []bool{false, true} {
		r, err := openRoot(d.path)
		must(t, err)
		defer r.close()
		r.noOpenat2.Store(stepwise)
		fd, err := r.open("in/side", unix.O_RDONLY, 0)
		must(t, err)
		unix.Close(fd)
		for _, p := range []string{"out/secret", "out", "to in/side", "in/link", "in/../in/../../x", "..", filepath.Join(outside, "secret"), "in/side/x"} {
			if fd, err := r.open(p, unix.O_RDONLY, 0); err == nil {
				unix.Close(fd)
				t.Errorf("%s is opened (stepwise: %t)", p, stepwise)
			}
		}
		if fd, err := r.open("out/new", unix.O_CREAT|unix.O_WRONLY, 0o600); err == nil {
			unix.Close(fd)
			t.Errorf("a file is made outside (stepwise: %t)", stepwise)
		}
	}
}
