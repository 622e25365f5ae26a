package local_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/exporter/local"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

var when = time.Date(2021, 2, 3, 4, 5, 6, 789, time.UTC)

// entry makes an entry with a time; content is a file's bytes or a link's target.
func entry(path string, mode fs.FileMode, content string) fsdiff.Entry {
	e := fsdiff.Entry{Path: path, Mode: mode, ModTime: when, UID: 12345, GID: 12345}
	switch {
	case mode&fs.ModeSymlink != 0:
		e.Linkname = content
	case mode.IsRegular():
		e.Content, e.Size = fsdiff.Bytes([]byte(content)), int64(len(content))
	}
	return e
}

func viewOf(entries ...fsdiff.Entry) *fsdiff.View {
	m := fsdiff.NewMem()
	for _, e := range entries {
		m.Add(e)
	}
	return fsdiff.NewView(nil, m)
}

func export(t *testing.T, dir string, opt local.Options, entries ...fsdiff.Entry) {
	t.Helper()
	if err := local.Export(t.Context(), viewOf(entries...), dir, opt); err != nil {
		t.Fatal(err)
	}
}

// list describes a directory: mode, and a file's bytes or a link's target.
func list(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		s := fi.Mode().String()
		switch {
		case fi.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			s += " -> " + to
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if errors.Is(err, fs.ErrPermission) { // of a test without root
				b, err = []byte("?"), nil
			}
			if err != nil {
				return err
			}
			s += " " + string(b)
		}
		rel, err := filepath.Rel(dir, p)
		out[rel] = s
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func same(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	got := list(t, dir)
	for p, s := range want {
		if got[p] != s {
			t.Errorf("%s is %q, want %q", p, got[p], s)
		}
		delete(got, p)
	}
	for p, s := range got {
		t.Errorf("%s is there: %q", p, s)
	}
}

func TestExport(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "dir")
	link := entry("d/hard", 0o640, "data")
	link.Inode = 7
	other := entry("z/hard", 0o640, "data")
	other.Inode = 7
	attributed := entry("attributed", 0o644, "x")
	attributed.Xattrs = map[string][]byte{"user.key": []byte("value")}
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	export(t, dir, local.Options{},
		entry("d", fs.ModeDir|0o751, ""), link, other,
		entry("d/empty", 0o644, ""), entry("d/script", 0o777, "#!"), entry("d/secret", 0, "s"),
		entry("d/sub", fs.ModeDir|0o555, ""), entry("d/sub/f", 0o444, "f"),
		entry("setuid", fs.ModeSetuid|fs.ModeSetgid|0o755, "u"), entry("sticky", fs.ModeDir|fs.ModeSticky|0o777, ""),
		entry("abs", fs.ModeSymlink|0o777, "/etc/passwd"), entry("dangling", fs.ModeSymlink|0o777, "../../x"),
		entry("pipe", fs.ModeNamedPipe|0o620, ""), entry("socket", fs.ModeSocket|0o777, ""),
		entry("z", fs.ModeDir|0o755, ""), attributed,
		entry("spaced name\nwith a line", 0o600, "n"),
	)
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "d/sub"), 0o700) })
	secret := "---------- s"
	if os.Geteuid() != 0 {
		secret = "---------- ?"
	}
	same(t, dir, map[string]string{
		"d": "drwxr-x--x", "d/hard": "-rw-r----- data", "z/hard": "-rw-r----- data", "d/empty": "-rw-r--r-- ", "d/script": "-rwxrwxrwx #!",
		"d/secret": secret, "d/sub": "dr-xr-xr-x", "d/sub/f": "-r--r--r-- f", "setuid": "ugrwxr-xr-x u", "sticky": "dtrwxrwxrwx",
		"abs": "Lrwxrwxrwx -> /etc/passwd", "dangling": "Lrwxrwxrwx -> ../../x", "pipe": "prw--w----", "z": "drwxr-xr-x",
		"attributed": "-rw-r--r-- x", "socket": "-rwxrwxrwx ", "spaced name\nwith a line": "-rw------- n",
	})
	a, err1 := os.Stat(filepath.Join(dir, "d/hard"))
	b, err2 := os.Stat(filepath.Join(dir, "z/hard"))
	if err1 != nil || err2 != nil || !os.SameFile(a, b) {
		t.Errorf("hard links are two files: %v, %v", err1, err2)
	}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if !fi.ModTime().Equal(when) {
			t.Errorf("%s: time %v", p, fi.ModTime())
		}
		if st := fi.Sys().(*syscall.Stat_t); int(st.Uid) != os.Getuid() || int(st.Gid) != os.Getgid() {
			t.Errorf("%s: owner %d:%d", p, st.Uid, st.Gid)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	value := make([]byte, 10)
	n, err := unix.Getxattr(filepath.Join(dir, "attributed"), "user.key", value)
	if errors.Is(err, unix.ENOTSUP) {
		t.Skip("the file system of the test has no attributes")
	}
	if err != nil || string(value[:n]) != "value" {
		t.Errorf("attribute %q, %v", value[:max(n, 0)], err)
	}
}

func TestEpoch(t *testing.T) {
	dir := t.TempDir()
	epoch := time.Unix(1, 0)
	export(t, dir, local.Options{Epoch: &epoch},
		entry("d", fs.ModeDir|0o755, ""), entry("d/f", 0o644, "f"), entry("l", fs.ModeSymlink|0o777, "d"))
	for _, name := range []string{"d", "d/f", "l"} {
		if fi, err := os.Lstat(filepath.Join(dir, name)); err != nil || !fi.ModTime().Equal(epoch) {
			t.Errorf("%s: %v, %v", name, fi.ModTime(), err)
		}
	}
}

func TestNilView(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	if err := local.Export(t.Context(), nil, dir, local.Options{}); err != nil {
		t.Fatal(err)
	}
	same(t, dir, nil)
}

type broken struct{ err error }

func (b broken) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(strings.NewReader("abc"), failing(b))), nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestFailureLeavesNoPartialFile(t *testing.T) {
	for name, err := range map[string]error{"fault": errors.New("disk on fire"), "short": io.EOF} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			bad := entry("d/bad", 0o644, "")
			bad.Content, bad.Size = broken{err}, 10
			got := local.Export(t.Context(), viewOf(entry("d", fs.ModeDir|0o755, ""), bad), dir, local.Options{})
			if got == nil || !strings.Contains(got.Error(), "d/bad") || err != io.EOF && !errors.Is(got, err) {
				t.Errorf("Export = %v", got)
			}
			if got := list(t, filepath.Join(dir, "d")); len(got) != 0 {
				t.Errorf("left %q", got)
			}
		})
	}
}

func TestNamesThatLeave(t *testing.T) {
	dir := t.TempDir()
	for _, p := range []string{"..", "a/.."} {
		m := fsdiff.NewMem()
		m.Add(entry("a", fs.ModeDir|0o755, ""))
		m.Add(entry(p, 0o644, "x"))
		if err := local.Export(t.Context(), fsdiff.NewView(nil, m), dir, local.Options{}); err == nil {
			t.Errorf("Export of %q succeeded", p)
		}
	}
}

func TestCancel(t *testing.T) {
	cause := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	err := local.Export(ctx, viewOf(entry("f", 0o644, "f")), t.TempDir(), local.Options{})
	if !errors.Is(err, cause) {
		t.Errorf("Export = %v", err)
	}
}

// Many files, from files.
func TestManyFiles(t *testing.T) {
	src, dir := t.TempDir(), t.TempDir()
	want := map[string]string{}
	for i := range 40 {
		d := filepath.Join(src, fmt.Sprint("d", i))
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		want[fmt.Sprint("d", i)] = "drwxr-xr-x"
		for j := range 25 {
			text := bytes.Repeat([]byte{byte('a' + j)}, i*100)
			if err := os.WriteFile(filepath.Join(d, fmt.Sprint(j)), text, 0o644); err != nil {
				t.Fatal(err)
			}
			want[fmt.Sprintf("d%d/%d", i, j)] = "-rw-r--r-- " + string(text)
		}
	}
	view := fsdiff.NewView(nil, fsdiff.Dir(src))
	for range 2 {
		if err := local.Export(t.Context(), view, dir, local.Options{}); err != nil {
			t.Fatal(err)
		}
		same(t, dir, want)
	}
}

func BenchmarkExport(b *testing.B) {
	var entries []fsdiff.Entry
	for i := range 200 {
		entries = append(entries, entry(fmt.Sprint("d", i), fs.ModeDir|0o755, ""))
		for j := range 50 {
			entries = append(entries, entry(fmt.Sprintf("d%d/%d", i, j), 0o644, strings.Repeat("x", 2000)))
		}
	}
	view := viewOf(entries...)
	for b.Loop() {
		if err := local.Export(b.Context(), view, b.TempDir(), local.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
