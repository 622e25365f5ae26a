package statedir

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDeadProcessIsSwept(t *testing.T) {
	root := t.TempDir()
	d, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	left, err := d.Tmp()
	if err != nil {
		t.Fatal(err)
	}
	d.lock.Close() // as the kernel does when a process dies

	d2, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer d2.Close()
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("what the dead process left is still there: %v", err)
	}
	if _, err := os.Stat(d2.TmpDir()); err != nil {
		t.Errorf("the living process's directory: %v", err)
	}
}

func TestLivingProcessIsNotSwept(t *testing.T) {
	root := t.TempDir()
	d, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := d.Tmp()
	if err != nil {
		t.Fatal(err)
	}
	d2, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := d2.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Errorf("a living process's directory was removed: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(root, "tmp", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
