package local_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mayfly-build/mayfly/engine/exporter/local"
)

// The directory of a platform is made, or takes the place of what is there, and
// is not left by a link.
func TestSub(t *testing.T) {
	epoch := time.Unix(1700000000, 0)
	for name, prepare := range map[string]func(path, outside string) error{
		"nothing":   func(string, string) error { return nil },
		"directory": func(path, _ string) error { return os.Mkdir(path, 0o700) },
		"file":      func(path, _ string) error { return os.WriteFile(path, []byte("x"), 0o600) },
		"link":      func(path, outside string) error { return os.Symlink(outside, path) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, outside := t.TempDir(), t.TempDir()
			if err := prepare(filepath.Join(dir, "linux_arm64"), outside); err != nil {
				t.Fatal(err)
			}
			export(t, dir, local.Options{Sub: "linux_arm64", Epoch: &epoch}, entry("f", 0o644, "f"))
			same(t, dir, map[string]string{"linux_arm64": "drwxr-xr-x", "linux_arm64/f": "-rw-r--r-- f"})
			same(t, outside, map[string]string{})
			for _, p := range []string{"linux_arm64", "linux_arm64/f"} {
				if fi, err := os.Stat(filepath.Join(dir, p)); err != nil || !fi.ModTime().Equal(epoch) {
					t.Errorf("%s: %v, %v", p, fi.ModTime(), err)
				}
			}
		})
	}
	dir := t.TempDir()
	export(t, dir, local.Options{Sub: "linux_arm64"})
	if fi, err := os.Stat(filepath.Join(dir, "linux_arm64")); err != nil || fi.ModTime().Unix() != 0 {
		t.Errorf("of an empty root: %v, %v", fi, err)
	}
}
