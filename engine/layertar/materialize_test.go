package layertar

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

func TestMaterialize(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes whiteouts, devices and owners")
	}
	src := t.TempDir()
	large := strings.Repeat("large", cloneSize)
	if err := os.WriteFile(filepath.Join(src, "large"), []byte(large), 0o644); err != nil {
		t.Fatal(err)
	}
	onDisk, err := fsdiff.FileAt(filepath.Join(src, "large"))
	if err != nil {
		t.Fatal(err)
	}
	m := fsdiff.NewMem()
	early := time.Unix(-1000, 7)
	for _, e := range []fsdiff.Entry{
		{Path: "", Mode: fs.ModeDir | 0o711, UID: 5, ModTime: early},
		{Path: "d", Mode: fs.ModeDir | fs.ModeSticky | 0o777, GID: 7, ModTime: early, Opaque: true},
		{Path: "d/f", Mode: fs.ModeSetuid | 0o755, UID: 1, Size: 1, ModTime: early, Content: fsdiff.Bytes([]byte("x")), Inode: 9},
		{Path: "d/g", Mode: fs.ModeSetuid | 0o755, UID: 1, Size: 1, ModTime: early, Content: fsdiff.Bytes([]byte("x")), Inode: 9},
		{Path: "empty", Mode: 0o600, ModTime: early},
		{Path: "large", Mode: 0o644, Size: int64(len(large)), ModTime: early, Content: onDisk},
		{Path: "large2", Mode: 0o644, Size: int64(len(large)), ModTime: early, Content: fsdiff.Bytes([]byte(large))},
		{Path: "l", Mode: fs.ModeSymlink | 0o777, Linkname: "d/f", UID: 3, ModTime: early, Inode: 4},
		{Path: "m", Mode: fs.ModeSymlink | 0o777, Linkname: "d/f", UID: 3, ModTime: early, Inode: 4},
		{Path: "null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Devmajor: 1, Devminor: 3, ModTime: early},
		{Path: "pipe", Mode: fs.ModeNamedPipe | 0o644, ModTime: early},
	} {
		m.Add(e)
	}
	m.Whiteout("gone")
	dir := t.TempDir()
	if err := Materialize(t.Context(), m, dir); err != nil {
		t.Fatal(err)
	}
	want := "o d trwxrwxrwx 0:7\nf d/f x urwxr-xr-x 1:0\nf d/g x urwxr-xr-x 1:0\nf empty -rw-------\nw gone\nl l d/f 3:0\nf large " + large +
		"\nf large2 " + large + "\nl m d/f 3:0\nc null 1:3 -rw-rw-rw-\np pipe"
	if got := listDir(t, dir); got != want {
		t.Errorf("got\n%.300s\nwant\n%.300s", got, want)
	}
	for _, name := range []string{"", "d", "d/f", "empty", "large", "l", "null"} {
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !fi.ModTime().Equal(early) {
			t.Errorf("%q has time %v, want %v", name, fi.ModTime(), early)
		}
	}
	for _, name := range []string{"d/f", "l"} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil || st.Nlink != 2 {
			t.Errorf("%s has %d links, %v", name, st.Nlink, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || st.Mode&0o7777 != 0o711 || st.Uid != 5 {
		t.Errorf("the root is %o of %d, %v", st.Mode, st.Uid, err)
	}
	// A copy of the copy is the same again.
	again := t.TempDir()
	if err := Materialize(t.Context(), fsdiff.Dir(dir), again); err != nil {
		t.Fatal(err)
	}
	if got := listDir(t, again); got != want {
		t.Errorf("copy: got\n%.300s\nwant\n%.300s", got, want)
	}
}

func TestMaterializeView(t *testing.T) {
	lower := memOf(map[string]string{"a/x": "1", "a/y": "2", "b/z": "3", "c": "4"})
	upper := memOf(map[string]string{"a/y": "two", "b/new": "5"})
	upper.Whiteout("c")
	upper.Add(fsdiff.Entry{Path: "b", Mode: fs.ModeDir | 0o755, Opaque: true, ModTime: when})
	view := fsdiff.NewView(fsdiff.NewView(nil, chowned{lower}), chowned{upper})
	dir := t.TempDir()
	if err := Materialize(t.Context(), view, dir); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(dir, name)
			got = append(got, rel+"="+string(data))
			return err
		}
		return err
	})
	if want := "a/x=1 a/y=two b/new=5"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("got %v, %v, want %s", got, err, want)
	}
}

// chowned is a Diff of this user's files, so that the test needs no root.
type chowned struct{ fsdiff.Diff }

func (c chowned) own(e *fsdiff.Entry) *fsdiff.Entry {
	mine := *e
	mine.UID, mine.GID = uint32(os.Geteuid()), uint32(os.Getegid())
	return &mine
}

func (c chowned) Lookup(p string) (*fsdiff.Entry, error) {
	e, err := c.Diff.Lookup(p)
	if err != nil {
		return nil, err
	}
	return c.own(e), nil
}

func (c chowned) ReadDir(p string) ([]*fsdiff.Entry, error) {
	list, err := c.Diff.ReadDir(p)
	mine := make([]*fsdiff.Entry, len(list))
	for i, e := range list {
		mine[i] = c.own(e)
	}
	return mine, err
}

func TestMaterializeErrors(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes files of root")
	}
	broken := errors.New("broken")
	for _, tc := range []struct {
		name  string
		entry fsdiff.Entry
		want  string
		is    error
	}{
		{name: "content too short", entry: fsdiff.Entry{Size: 6, Content: fsdiff.Bytes([]byte("short"))}, want: "5 bytes"},
		{name: "large content too short", entry: fsdiff.Entry{Size: cloneSize + 1, Content: fsdiff.Bytes(make([]byte, cloneSize))}, want: "bytes"},
		{name: "content fails", entry: fsdiff.Entry{Size: 6, Content: failing{broken}}, is: broken},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := memOf(map[string]string{"d/a": "x", "d/z": "z"})
			tc.entry.Path = "d/culprit"
			m.Add(tc.entry)
			err := Materialize(t.Context(), m, t.TempDir())
			if err == nil || !strings.Contains(err.Error(), tc.want) || tc.is != nil && !errors.Is(err, tc.is) {
				t.Fatalf("error is %v, want one with %q and %v", err, tc.want, tc.is)
			}
			if !strings.Contains(err.Error(), "d/culprit") {
				t.Errorf("error %q does not name the file", err)
			}
		})
	}
	if err := Materialize(t.Context(), failing{broken}, t.TempDir()); !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
	if err := Materialize(t.Context(), fsdiff.NewMem(), filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	if err := Materialize(ctx, memOf(map[string]string{"a": "x"}), t.TempDir()); !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
}
