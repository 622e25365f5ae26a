package local_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/exporter/local"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

// What is in the directory stays or makes room, and is never a way out.
func TestExistingContents(t *testing.T) {
	outside := t.TempDir()
	dir := t.TempDir()
	write := func(p, text string, mode fs.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	symlink := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(outside, "file"), "precious", 0o644)
	write(filepath.Join(dir, "kept"), "mine", 0o600)
	write(filepath.Join(dir, "both/kept"), "mine", 0o600)
	write(filepath.Join(dir, "readonly"), "old", 0o400)
	write(filepath.Join(dir, "dir-to-file/deep/f"), "old", 0o644)
	write(filepath.Join(dir, "file-to-dir"), "old", 0o644)
	write(filepath.Join(dir, "linked"), "shared", 0o644)
	if err := os.Link(filepath.Join(dir, "linked"), filepath.Join(outside, "twin")); err != nil {
		t.Fatal(err)
	}
	symlink(filepath.Join(outside, "file"), "link-to-file")
	symlink(outside, "link-to-dir")
	symlink(outside, "link-that-is-a-dir")
	symlink(outside, "hard-through")

	hard1, hard2 := entry("a-first", 0o644, "h"), entry("hard-through/second", 0o644, "h")
	hard1.Inode, hard2.Inode = 3, 3
	export(t, dir, local.Options{},
		entry("both", fs.ModeDir|0o700, ""), entry("both/new", 0o644, "n"),
		entry("readonly", 0o644, "new"), entry("dir-to-file", 0o644, "new"),
		entry("file-to-dir", fs.ModeDir|0o755, ""), entry("file-to-dir/f", 0o644, "f"),
		entry("linked", 0o644, "new"), entry("link-to-file", 0o644, "new"),
		entry("link-to-dir", 0o644, "new"),
		entry("link-that-is-a-dir", fs.ModeDir|0o755, ""), entry("link-that-is-a-dir/file", 0o644, "new"),
		hard1, entry("hard-through", fs.ModeDir|0o755, ""), hard2,
	)
	same(t, dir, map[string]string{
		"kept": "-rw------- mine", "both": "drwx------", "both/kept": "-rw------- mine", "both/new": "-rw-r--r-- n",
		"readonly": "-rw-r--r-- new", "dir-to-file": "-rw-r--r-- new", "file-to-dir": "drwxr-xr-x", "file-to-dir/f": "-rw-r--r-- f",
		"linked": "-rw-r--r-- new", "link-to-file": "-rw-r--r-- new", "link-to-dir": "-rw-r--r-- new",
		"link-that-is-a-dir": "drwxr-xr-x", "link-that-is-a-dir/file": "-rw-r--r-- new",
		"a-first": "-rw-r--r-- h", "hard-through": "drwxr-xr-x", "hard-through/second": "-rw-r--r-- h",
	})
	same(t, outside, map[string]string{"file": "-rw-r--r-- precious", "twin": "-rw-r--r-- shared"})
}

// Somebody puts a link to elsewhere in the place of a directory while it is
// written to. The export may fail; elsewhere nothing may happen.
func TestLinksThatAppear(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "precious"), []byte("p"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(outside)
	if err != nil {
		t.Fatal(err)
	}
	d, evil := filepath.Join(dir, "d"), filepath.Join(dir, "evil")
	if err := os.Symlink(outside, evil); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				// Fails until there is a d.
				unix.Renameat2(unix.AT_FDCWD, evil, unix.AT_FDCWD, d, unix.RENAME_EXCHANGE)
			}
		}
	}()
	tree := []fsdiff.Entry{entry("d", fs.ModeDir|0o755, "")}
	for i := range 20 {
		sub := fmt.Sprintf("d/%d", i)
		hard := entry(sub+"/hard", 0o666, "h")
		hard.Inode = 5
		tree = append(tree, entry(sub, fs.ModeDir|0o777, ""), hard, entry(sub+"/precious", 0o666, "x"),
			entry(sub+"/p", fs.ModeNamedPipe|0o666, ""), entry(sub+"/l", fs.ModeSymlink|0o777, "x"))
	}
	for range 50 {
		err := local.Export(t.Context(), viewOf(tree...), dir, local.Options{})
		if err != nil && !strings.Contains(err.Error(), dir) {
			t.Error(err)
		}
	}
	close(stop)
	<-done
	same(t, outside, map[string]string{"precious": "-rw------- p"})
	if after, err := os.Stat(outside); err != nil || after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the other directory was %v, is %v, %v", before, after, err)
	}
}

// A second export of the same tree changes nothing.
func TestTwice(t *testing.T) {
	dir := t.TempDir()
	tree := []fsdiff.Entry{
		entry("d", fs.ModeDir|0o555, ""), entry("d/f", 0o400, "f"), entry("d/s", fs.ModeDir, ""), entry("d/s/f", 0o400, "f"),
		entry("l", fs.ModeSymlink|0o777, "d"), entry("p", fs.ModeNamedPipe|0o600, ""),
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "d"), 0o700) })
	export(t, dir, local.Options{}, tree...)
	export(t, dir, local.Options{}, tree...)
	if err := os.Chmod(filepath.Join(dir, "d/s"), 0o700); err != nil {
		t.Fatal(err)
	}
	same(t, dir, map[string]string{
		"d": "dr-xr-xr-x", "d/f": "-r-------- f", "d/s": "drwx------", "d/s/f": "-r-------- f", "l": "Lrwxrwxrwx -> d", "p": "prw-------",
	})
}
