package layertar

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

var when = time.Unix(1_600_000_000, 123456789)

// tarOf makes a tar; a header without a mode gets the usual one, without a
// time when.
func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		h := e.Header
		if h.Typeflag == tar.TypeXGlobalHeader { // has records and nothing else
			if err := tw.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			continue
		}
		h.Format = tar.FormatPAX
		h.Size = int64(len(e.data))
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if h.ModTime.IsZero() {
			h.ModTime = when
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(e.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

type entry struct {
	tar.Header
	data string
}

func file(name, data string) entry { return entry{tar.Header{Name: name}, data} }
func dir(name string) entry        { return entry{tar.Header{Name: name, Typeflag: tar.TypeDir}, ""} }
func symlink(name, target string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}, ""}
}
func hardlink(name, target string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}, ""}
}

// listDir lists a directory in overlay format; modes that are not the usual
// ones and owners other than root are told.
func listDir(t testing.TB, dir string) string {
	t.Helper()
	var lines []string
	var walk func(fsdiff.Diff, string)
	walk = func(d fsdiff.Diff, p string) {
		list, err := d.ReadDir(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			lines = append(lines, describeEntry(t, e))
			if e.IsDir() {
				walk(d, e.Path)
			}
		}
	}
	walk(fsdiff.Dir(dir), "")
	return strings.Join(lines, "\n")
}

func describeEntry(t testing.TB, e *fsdiff.Entry) string {
	t.Helper()
	if e.Whiteout {
		return "w " + e.Path
	}
	var s string
	usual := fs.FileMode(0o644)
	switch e.Mode.Type() {
	case 0:
		data := make([]byte, e.Size)
		if e.Size > 0 {
			r, err := e.Content.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if _, err := r.Read(data); err != nil {
				t.Fatal(err)
			}
		}
		s = strings.TrimSpace(fmt.Sprintf("f %s %s", e.Path, data))
	case fs.ModeDir:
		s, usual = "d "+e.Path, 0o755
		if e.Opaque {
			s = "o " + e.Path
		}
	case fs.ModeSymlink:
		s, usual = fmt.Sprintf("l %s %s", e.Path, e.Linkname), 0o777
	case fs.ModeNamedPipe:
		s = "p " + e.Path
	default:
		s = fmt.Sprintf("c %s %d:%d", e.Path, e.Devmajor, e.Devminor)
	}
	if m := e.Mode &^ fs.ModeType; m != usual {
		s += " " + m.String()
	}
	if e.UID != 0 || e.GID != 0 {
		s += fmt.Sprintf(" %d:%d", e.UID, e.GID)
	}
	return strings.TrimSpace(s)
}

func TestUnpack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes whiteouts, devices and owners")
	}
	big := strings.Repeat("0123456789abcdef", smallFile/16+1)
	lower := fsdiff.NewMem()
	for _, e := range []fsdiff.Entry{
		{Path: "", Mode: fs.ModeDir | 0o700},
		{Path: "etc", Mode: fs.ModeDir | 0o750, UID: 1, GID: 2, ModTime: when},
		{Path: "etc/f", Mode: 0o600, UID: 3, Size: 3, ModTime: when, Content: fsdiff.Bytes([]byte("low"))},
		{Path: "etc/empty", Mode: 0o640, ModTime: when},
		{Path: "bin", Mode: fs.ModeSymlink | 0o777, Linkname: "usr/bin"},
		{Path: "usr", Mode: fs.ModeDir | 0o755},
		{Path: "usr/bin", Mode: fs.ModeDir | fs.ModeSticky | 0o711, GID: 5},
		{Path: "usr/bin/sh", Mode: 0o755, Size: 2, Content: fsdiff.Bytes([]byte("#!"))},
		{Path: "gone", Mode: fs.ModeDir | 0o700},
	} {
		lower.Add(e)
	}
	upper := fsdiff.NewMem()
	upper.Whiteout("gone")
	below := fsdiff.NewView(fsdiff.NewView(nil, lower), upper)
	for _, tc := range []struct {
		name string
		tar  []entry
		want string
	}{
		{"nothing", nil, ""},
		{"kinds", []entry{
			dir("d/"), file("d/f", "x"), symlink("d/l", "f"), hardlink("d/h", "d/f"), file("d/empty", ""),
			{tar.Header{Name: "p", Typeflag: tar.TypeFifo}, ""},
			{tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}, ""},
			{tar.Header{Name: "loop", Typeflag: tar.TypeBlock, Devmajor: 7, Devminor: 1, Uid: 4, Gid: 6}, ""},
		}, "d d\nf d/empty\nf d/f x\nf d/h x\nl d/l f\nc loop 7:1 4:6\nc null 1:3 -rw-rw-rw-\np p"},
		{"modes and owners", []entry{
			{tar.Header{Name: "s", Mode: 0o6755, Uid: 1000, Gid: 1001}, "s"},
			{tar.Header{Name: "t/", Typeflag: tar.TypeDir, Mode: 0o1777}, ""},
			{tar.Header{Name: "g/", Typeflag: tar.TypeDir, Mode: 0o2755, Gid: 9}, ""},
			file("g/f", "root's group, not the directory's"),
			{tar.Header{Name: "none", Mode: 0o100000}, "n"}, // no permission bit at all
			{tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "x", Uid: 7, Mode: 0o777}, ""},
			{tar.Header{Name: "far", Uid: 4_000_000_000}, ""},
		}, "f far 4000000000:0\nd g grwxr-xr-x 0:9\nf g/f root's group, not the directory's\nl l x 7:0\nf none n ----------\nf s s ugrwxr-xr-x 1000:1001\nd t trwxrwxrwx"},
		{"large file", []entry{file("big", big), file("after", "a")}, "f after a\nf big " + big},
		{"names", []entry{
			{tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700}, ""}, // the root's attributes are not taken
			file("./a", "1"), file("/b", "2"), file("c//d/../e", "3"), file("../../up", "4"),
			file(strings.Repeat("n", 255), "5"), file(strings.Repeat("d/", 150)+"deep", "6"),
		}, ""},
		{"whiteouts", []entry{
			file(".wh.gone", ""), dir("d"), file("d/.wh.x", ""), dir("o"), file("o/.wh..wh..opq", ""), file("o/new", "n"),
			{tar.Header{Name: ".wh.dir", Typeflag: tar.TypeDir}, ""},
		}, "d d\nw d/x\nw dir\nw gone\no o\nf o/new n"},
		{"opaque marker after the contents", []entry{dir("o"), file("o/a", "1"), file("o/.wh..wh..opq", "")}, "o o\nf o/a 1"},
		{"opaque marker before the directory", []entry{file("o/.wh..wh..opq", ""), dir("o"), file("o/a", "1")}, "o o\nf o/a 1"},
		{"whiteout, then the name anew", []entry{file(".wh.f", ""), file("f", "x"), file(".wh.d", ""), dir("d"), file("d/a", "y"), file(".wh.l", ""), symlink("l", "f")}, "o d\nf d/a y\nf f x\nl l f"},
		{"the name anew, then whiteout", []entry{file("f", "x"), file(".wh.f", ""), dir("d"), file("d/a", "y"), file(".wh.d", "")}, "o d\nf d/a y\nf f x"},
		{"later entries win", []entry{
			file("f", "one"), file("f", "two"), dir("d"), file("d/a", "1"), file("d", "now a file"),
			file("e", "file"), dir("e"), file("e/x", "1"), symlink("s", "x"), file("s", "file"), file("l", "x"), symlink("l", "y"),
			file("h", "h1"), file("h2", "other"), hardlink("h2", "h"),
		}, "f d now a file\nd e\nf e/x 1\nf f two\nf h h1\nf h2 h1\nl l y\nf s file"},
		{"a directory twice", []entry{dir("d"), file("d/a", "1"), {tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 8}, ""}, file("d/b", "2")}, "d d -rwx------ 8:0\nf d/a 1\nf d/b 2"},
		{"hard link to a link", []entry{symlink("l", "nowhere"), hardlink("h", "l"), hardlink("h3", "h")}, "l h nowhere\nl h3 nowhere\nl l nowhere"},
		{"replacing one of two hard links", []entry{file("a", "1"), hardlink("b", "a"), file("a", "2")}, "f a 2\nf b 1"},
		{"a directory as below", []entry{file("etc/new", "n"), file("other/x/f", "y")},
			"d etc -rwxr-x--- 1:2\nf etc/new n\nd other\nd other/x\nf other/x/f y"},
		{"a directory that is gone below", []entry{file("gone/f", "n")}, "d gone\nf gone/f n"},
		{"a directory that is a link below", []entry{file("bin/ls", "l")}, "d bin trwx--x--x 0:5\nf bin/ls l"},
		{"hard link to a file below", []entry{hardlink("etc/g", "etc/f"), hardlink("h", "etc/empty")},
			"d etc -rwxr-x--- 1:2\nf etc/empty\nf etc/f low\nf etc/g low\nf h"},
		{"hard link to a file below through a link", []entry{hardlink("sh", "bin/sh")}, "f sh #!\nd usr\nd usr/bin trwx--x--x 0:5\nf usr/bin/sh #!"},
		{"whiteout in a directory without header", []entry{file("etc/.wh.f", "")}, "d etc -rwxr-x--- 1:2\nw etc/f"},
		{"attributes", []entry{
			{tar.Header{Name: "f", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "1", "SCHILY.xattr.security.capability": string(capabilityBytes())}}, "x"},
			{tar.Header{Name: "d", Typeflag: tar.TypeDir, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y"}}, ""},
			{tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "f", Mode: 0o777, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "1"}}, ""},
		}, "d d\nf f x\nl l f"},
		{"global header", []entry{{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "c"}}, ""}, file("f", "x")}, "f f x"},
		{"link on the way stays inside", []entry{symlink("a", "/etc"), file("a/passwd", "x"), symlink("b", "../../../tmp/x"), file("b/f", "y")},
			"l a /etc\nl b ../../../tmp/x\nd etc -rwxr-x--- 1:2\nf etc/passwd x\nd tmp\nd tmp/x\nf tmp/x/f y"},
		{"links on the way", []entry{dir("d"), symlink("d/l", "../e"), symlink("e", "f"), dir("f"), file("d/l/x", "1"), hardlink("y", "d/l/x"), file("d/l/.wh.z", "")},
			"d d\nl d/l ../e\nl e f\nd f\nf f/x 1\nw f/z\nf y 1"},
		{"a file over a link", []entry{symlink("l", "/etc/passwd"), file("l", "mine")}, "f l mine"},
		{"a directory over a link", []entry{symlink("l", "/tmp"), dir("l"), file("l/f", "x")}, "d l\nf l/f x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			data := tarOf(t, tc.tar...)
			if _, err := Unpack(t.Context(), iotest.HalfReader(bytes.NewReader(data)), dir, parentIs(below)); err != nil {
				t.Fatal(err)
			}
			got := listDir(t, dir)
			if tc.name == "names" {
				checkNames(t, dir)
				return
			}
			if got != tc.want {
				t.Errorf("got\n%s\nwant\n%s", got, tc.want)
			}
		})
	}
}

func checkNames(t *testing.T, dir string) {
	t.Helper()
	for name, want := range map[string]string{
		"a": "1", "b": "2", "c/e": "3", "up": "4", strings.Repeat("n", 255): "5", strings.Repeat("d/", 150) + "deep": "6",
	} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() == 0o700 {
		t.Errorf("root: %v, %v", fi.Mode(), err)
	}
}

func capabilityBytes() []byte {
	return []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
}

func TestUnpackDetails(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes owners and capabilities")
	}
	d := t.TempDir()
	data := tarOf(t,
		entry{tar.Header{Name: "d/", Typeflag: tar.TypeDir, ModTime: time.Unix(1_500_000_000, 5)}, ""},
		entry{tar.Header{Name: "d/f", Mode: 0o4755, Uid: 5, PAXRecords: map[string]string{
			"SCHILY.xattr.user.note": "n\x00n", "SCHILY.xattr.security.capability": string(capabilityBytes()),
		}}, "x"},
		symlink("d/l", "f"),
		entry{tar.Header{Name: "old", ModTime: time.Unix(-5, 0)}, "x"},
		hardlink("d/h", "d/f"),
		file("nohead/f", "x"),
	)
	stats, err := Unpack(t.Context(), bytes.NewReader(append(data, "trailing garbage"...)), d, parentIs(nil))
	if err != nil {
		t.Fatal(err)
	}
	if stats.Entries != 6 || stats.Size != 3 {
		t.Errorf("stats %+v", stats)
	}
	for name, want := range map[string]time.Time{"d": time.Unix(1_500_000_000, 5), "d/f": when, "d/l": when, "old": time.Unix(0, 0), "nohead": when} {
		fi, err := os.Lstat(filepath.Join(d, name))
		if err != nil {
			t.Fatal(err)
		}
		if !fi.ModTime().Equal(want) {
			t.Errorf("%s has time %v, want %v", name, fi.ModTime(), want)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(d, "d/f"), &st); err != nil || st.Nlink != 2 {
		t.Errorf("d/f has %d links, %v", st.Nlink, err)
	}
	e, err := fsdiff.Dir(d).Lookup("d/f")
	if err != nil {
		t.Fatal(err)
	}
	// The header of the hard link, which has the last word, is 0644 and root's.
	if e.Mode != 0o644 || e.UID != 0 {
		t.Errorf("d/f is %v of %d", e.Mode, e.UID)
	}
	if string(e.Xattrs["user.note"]) != "n\x00n" {
		t.Errorf("user.note is %q", e.Xattrs["user.note"])
	}
}

func TestUnpackErrors(t *testing.T) {
	whole := tarOf(t, dir("d"), file("d/f", strings.Repeat("x", 5000)), file("big", strings.Repeat("x", smallFile+7)))
	broken := errors.New("connection reset")
	noParent := errors.New("no parent")
	for _, tc := range []struct {
		name   string
		data   []byte
		parent func(context.Context) (*fsdiff.View, error)
		want   string // part of the error
	}{
		{"cut in a small file", whole[:3000], nil, "unexpected EOF"},
		{"cut in a large file", whole[:smallFile], nil, "unexpected EOF"},
		{"cut in a header", whole[:520], nil, "unexpected EOF"},
		{"not a tar", []byte(strings.Repeat("text ", 300)), nil, "tar"},
		{"whiteout of no name", tarOf(t, file("d/.wh.", "")), nil, "whiteout"},
		{"whiteout of the parent", tarOf(t, file("d/.wh...", "")), nil, "whiteout"},
		{"parent is a file", tarOf(t, file("f", "x"), file("f/g", "y")), nil, `"f"`},
		{"hard link to nothing", tarOf(t, hardlink("h", "missing")), nil, `"missing"`},
		{"hard link to a directory", tarOf(t, dir("d"), hardlink("h", "d")), nil, "directory"},
		{"hard link to itself", tarOf(t, file("h", "x"), hardlink("h", "h")), nil, "itself"},
		{"links in a loop", tarOf(t, symlink("a", "b"), symlink("b", "a"), file("a/f", "x")), nil, "too many"},
		{"owner below zero", tarOf(t, entry{tar.Header{Name: "f", Uid: -3}, "x"}), nil, "owner"},
		{"unknown type", tarOf(t, entry{tar.Header{Name: "f", Typeflag: tar.TypeCont}, ""}), nil, "type"},
		{"name too long", tarOf(t, file(strings.Repeat("n", 256), "x")), nil, "name too long"},
		{"parent unknown", tarOf(t, file("a/b", "x")), func(context.Context) (*fsdiff.View, error) { return nil, noParent }, "no parent"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parent := tc.parent
			if parent == nil {
				parent = parentIs(nil)
			}
			_, err := Unpack(t.Context(), bytes.NewReader(tc.data), t.TempDir(), parent)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %v, want one with %q", err, tc.want)
			}
		})
	}
	t.Run("reader fails", func(t *testing.T) {
		_, err := Unpack(t.Context(), iotest.TimeoutReader(bytes.NewReader(whole)), t.TempDir(), parentIs(nil))
		if !errors.Is(err, iotest.ErrTimeout) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(broken)
		if _, err := Unpack(ctx, bytes.NewReader(whole), t.TempDir(), parentIs(nil)); !errors.Is(err, broken) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("no directory", func(t *testing.T) {
		_, err := Unpack(t.Context(), bytes.NewReader(whole), filepath.Join(t.TempDir(), "missing"), parentIs(nil))
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error is %v", err)
		}
	})
}

// TestUnpackAsksParentOnlyWhenNeeded: the layers below may not be there yet.
func TestUnpackAsksParentOnlyWhenNeeded(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes whiteouts")
	}
	asked := 0
	parent := func(context.Context) (*fsdiff.View, error) { asked++; return nil, nil }
	data := tarOf(t, dir("d"), file("d/f", "x"), hardlink("h", "d/f"), file(".wh.x", ""), symlink("l", "d"), file("l/g", "y"))
	if _, err := Unpack(t.Context(), bytes.NewReader(data), t.TempDir(), parent); err != nil {
		t.Fatal(err)
	}
	if asked != 0 {
		t.Errorf("asked %d times for the layers below", asked)
	}
	data = tarOf(t, file("a/f", "x"), file("b/f", "x"))
	if _, err := Unpack(t.Context(), bytes.NewReader(data), t.TempDir(), parent); err != nil {
		t.Fatal(err)
	}
	if asked != 1 {
		t.Errorf("asked %d times for the layers below, want once", asked)
	}
}

// FuzzUnpack holds that no tar makes Unpack write outside its directory.
func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f, dir("d"), file("d/f", "x"), symlink("l", "../../.."), file("l/canary", "y"), hardlink("h", "l/canary")))
	f.Add(tarOf(f, symlink("a", "/"), symlink("a/b", "a"), file("a/b/../../canary", "y"), file(".wh.a", ""), dir("a")))
	f.Add(tarOf(f, file("x/.wh..wh..opq", ""), file("x", "1"), dir("x"), file("x/.wh.y", ""), hardlink("x/y", "../canary")))
	f.Add(tarOf(f, entry{tar.Header{Name: "f", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "1", "mtime": "1.5"}}, "x"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		outer := t.TempDir()
		if err := os.WriteFile(filepath.Join(outer, "canary"), []byte("alive"), 0o600); err != nil {
			t.Fatal(err)
		}
		inner := filepath.Join(outer, "layer")
		if err := os.Mkdir(inner, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := Unpack(t.Context(), bytes.NewReader(data), inner, parentIs(nil)); err == nil {
			if err := fs.WalkDir(os.DirFS(inner), ".", func(string, fs.DirEntry, error) error { return nil }); err != nil {
				t.Error(err)
			}
		}
		if got, err := os.ReadFile(filepath.Join(outer, "canary")); err != nil || string(got) != "alive" {
			t.Errorf("the file outside is %q, %v", got, err)
		}
		if list, err := os.ReadDir(outer); err != nil || len(list) != 2 {
			t.Errorf("outside are %v, %v", list, err)
		}
	})
}
