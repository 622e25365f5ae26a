package fsdiff_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"golang.org/x/sys/unix"
)

// tree makes files below a new directory: "a/b=text", "dir/", "link->target",
// "hard=>old", "gone!" for a whiteout.
func tree(t testing.TB, items ...string) string {
	t.Helper()
	root := t.TempDir()
	put(t, root, items...)
	return root
}

func put(t testing.TB, root string, items ...string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, it := range items {
		name, text, isFile := strings.Cut(it, "=")
		switch {
		case strings.HasSuffix(it, "/"):
			check(os.MkdirAll(filepath.Join(root, it), 0o755))
			continue
		case strings.Contains(it, "->"):
			from, to, _ := strings.Cut(it, "->")
			check(os.MkdirAll(filepath.Dir(filepath.Join(root, from)), 0o755))
			check(os.Symlink(to, filepath.Join(root, from)))
			continue
		case strings.Contains(it, "=>"):
			from, to, _ := strings.Cut(it, "=>")
			check(os.Link(filepath.Join(root, to), filepath.Join(root, from)))
			continue
		case strings.HasSuffix(it, "!"):
			p := filepath.Join(root, strings.TrimSuffix(it, "!"))
			check(os.MkdirAll(filepath.Dir(p), 0o755))
			if err := unix.Mknod(p, unix.S_IFCHR, 0); err != nil {
				t.Skipf("whiteouts need mknod: %v", err)
			}
			continue
		case !isFile:
			t.Fatalf("tree item %q", it)
		}
		check(os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		check(os.WriteFile(filepath.Join(root, name), []byte(text), 0o644))
	}
}

// opaque marks a directory, with whichever namespace the file system takes.
func opaque(t testing.TB, dir string) {
	t.Helper()
	if unix.Setxattr(dir, "trusted.overlay.opaque", []byte("y"), 0) == nil {
		return
	}
	if err := unix.Setxattr(dir, "user.overlay.opaque", []byte("y"), 0); err != nil {
		t.Skipf("opaque directories need extended attributes: %v", err)
	}
}

func list(t testing.TB, v *fsdiff.View, dir string) string {
	t.Helper()
	var b strings.Builder
	err := v.Walk(dir, func(e *fsdiff.Entry) error {
		fmt.Fprintf(&b, " /%s", e.Path)
		if e.IsSymlink() {
			b.WriteString("->" + e.Linkname)
		}
		if e.IsRegular() {
			b.WriteString("=" + text(t, e))
		}
		got, err := v.Lookup(e.Path)
		if err != nil || got != e {
			t.Errorf("Lookup(%q) = %p, %v; the walk gave %p", e.Path, got, err, e)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(b.String())
}

func text(t testing.TB, e *fsdiff.Entry) string {
	t.Helper()
	if e.Content == nil {
		return ""
	}
	r, err := e.Content.Open()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDirReadsALayer(t *testing.T) {
	root := tree(t, "a/f=one", "a/g=>a/f", "a/l->/etc/passwd", "a/gone!", "o/new=1", "z=")
	opaque(t, filepath.Join(root, "o"))
	if err := unix.Setxattr(filepath.Join(root, "z"), "user.color", []byte("red"), 0); err != nil {
		t.Skipf("needs user attributes: %v", err)
	}
	if err := os.Chmod(filepath.Join(root, "z"), 0o4711|fs.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	d := fsdiff.Dir(root)
	get := func(p string) *fsdiff.Entry {
		e, err := d.Lookup(p)
		if err != nil {
			t.Fatalf("Lookup(%q): %v", p, err)
		}
		return e
	}
	if e := get("a/gone"); !e.Whiteout {
		t.Errorf("a/gone is %+v, want a whiteout", e)
	}
	if e := get("o"); !e.Opaque || len(e.Xattrs) != 0 {
		t.Errorf("o is %+v, want opaque and no attributes", e)
	}
	if e := get("z"); string(e.Xattrs["user.color"]) != "red" || e.Mode != 0o711|fs.ModeSetuid {
		t.Errorf("z is %+v", e)
	}
	if f, g := get("a/f"), get("a/g"); f.Inode == 0 || f.Inode != g.Inode || text(t, g) != "one" {
		t.Errorf("hard links have inodes %d and %d", f.Inode, g.Inode)
	}
	if e := get("a/l"); e.Linkname != "/etc/passwd" || e.Size != 0 {
		t.Errorf("a/l is %+v", e)
	}
	if e := get(""); e.Path != "" || !e.IsDir() {
		t.Errorf("root is %+v", e)
	}
	l, err := d.ReadDir("a")
	if err != nil || len(l) != 4 || l[0] != get("a/f") {
		t.Errorf("ReadDir(a) = %v, %v; entries must be those of Lookup", l, err)
	}
	for _, p := range []string{"nope", "nope/x", "z/x", "a/l/x", "a/gone/x"} {
		if _, err := d.Lookup(p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Lookup(%q) = %v, want ErrNotExist", p, err)
		}
	}
}

func TestViewMerges(t *testing.T) {
	low := tree(t, "a/1=low", "a/2=low", "b/x=low", "b/y=low", "c=file", "d/e/f=low", "s/t=low")
	mid := tree(t, "a/2=mid", "a/3=mid", "a/1!", "b/z=mid", "c/now=dir", "d!", "s->a")
	opaque(t, filepath.Join(mid, "b"))
	top := tree(t, "d/e/g=top", "a/1=top")

	v1 := fsdiff.NewView(nil, fsdiff.Dir(low))
	v2 := fsdiff.NewView(v1, fsdiff.Dir(mid))
	v3 := fsdiff.NewView(v2, fsdiff.Dir(top))
	for _, c := range []struct {
		v    *fsdiff.View
		want string
	}{
		{v1, "/ /a /a/1=low /a/2=low /b /b/x=low /b/y=low /c=file /d /d/e /d/e/f=low /s /s/t=low"},
		{v2, "/ /a /a/2=mid /a/3=mid /b /b/z=mid /c /c/now=dir /s->a"},
		{v3, "/ /a /a/1=top /a/2=mid /a/3=mid /b /b/z=mid /c /c/now=dir /d /d/e /d/e/g=top /s->a"},
	} {
		if got := list(t, c.v, ""); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
	if _, err := v3.Lookup("s/t"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Lookup below a link: %v, want ErrNotExist", err)
	}
	if e, err := v3.Lookup("b"); err != nil || e.Opaque {
		t.Errorf("a View's entry is opaque: %+v, %v", e, err)
	}
	if n := len(v3.Diffs()); n != 3 {
		t.Errorf("%d Diffs, want 3", n)
	}
}

func TestViewOfEmptyRoot(t *testing.T) {
	v := fsdiff.NewView(nil, fsdiff.NewMem())
	e, err := v.Lookup("")
	if err != nil || e.Mode != fs.ModeDir|0o755 || e.UID != 0 {
		t.Errorf("root is %+v, %v", e, err)
	}
	var none *fsdiff.View
	if _, err := none.Lookup("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nil View: %v", err)
	}
}

func TestResolve(t *testing.T) {
	v := fsdiff.NewView(nil, fsdiff.Dir(tree(t,
		"real/sub/f=x", "abs->/real", "rel->real/sub", "up->../../../real", "loop->loop",
		"real/back->../rel", "chain->abs/back", "dangling->not/there")))
	for _, c := range []struct {
		path   string
		follow bool
		want   string
	}{
		{"", true, ""},
		{"/", true, ""},
		{"abs", false, "abs"},
		{"abs", true, "real"},
		{"/abs/sub/f", false, "real/sub/f"},
		{"rel/f", true, "real/sub/f"},
		{"up/sub", true, "real/sub"},
		{"chain/f", true, "real/sub/f"},
		{"chain/../x", true, "real/x"},
		{"abs/./sub//f/", true, "real/sub/f"},
		{"abs/new/dir", true, "real/new/dir"},
		{"dangling", false, "dangling"},
		{"dangling", true, "not/there"},
		{"dangling/more", true, "not/there/more"},
		{"../../etc", true, "etc"},
		{"abs/..", true, ""},
	} {
		got, err := v.Resolve(c.path, c.follow)
		if err != nil || got != c.want {
			t.Errorf("Resolve(%q, %v) = %q, %v; want %q", c.path, c.follow, got, err, c.want)
		}
	}
	if _, err := v.Resolve("loop/x", true); !errors.Is(err, fsdiff.ErrTooManyLinks) {
		t.Errorf("loop: %v", err)
	}
	if b, err := v.ReadFile("chain/f", 10); err != nil || string(b) != "x" {
		t.Errorf("ReadFile = %q, %v", b, err)
	}
	if _, err := v.ReadFile("chain/f", 0); err == nil {
		t.Error("ReadFile read more than its limit")
	}
	if _, err := v.ReadFile("real", 10); err == nil {
		t.Error("ReadFile read a directory")
	}
}

func TestMem(t *testing.T) {
	m := fsdiff.NewMem()
	m.Add(fsdiff.Entry{Path: "d/b", Size: 2, Content: fsdiff.Bytes([]byte("hi"))})
	m.Add(fsdiff.Entry{Path: "d", Mode: fs.ModeDir | 0o700})
	m.Whiteout("d/a")
	l, err := m.ReadDir("d")
	if err != nil || len(l) != 2 || !l[0].Whiteout || l[1].Path != "d/b" {
		t.Errorf("ReadDir = %v, %v", l, err)
	}
	v := fsdiff.NewView(fsdiff.NewView(nil, fsdiff.Dir(tree(t, "d/a=low", "d/c=low"))), m)
	if got, want := list(t, v, ""), "/ /d /d/b=hi /d/c=low"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestContentSeesChange(t *testing.T) {
	root := tree(t, "f=one", "g=one")
	h, err := fsdiff.Host(t.Context(), root, fsdiff.HostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f, _ := h.Lookup("f")
	r, err := f.Content.Open()
	if err != nil {
		t.Fatal(err)
	}
	put(t, root, "f=changed")
	if _, err := io.ReadAll(r); !errors.Is(err, fsdiff.ErrChanged) || !strings.Contains(err.Error(), filepath.Join(root, "f")) {
		t.Errorf("read while it changes: %v", err)
	}
	if err := r.Close(); !errors.Is(err, fsdiff.ErrChanged) {
		t.Errorf("close after it changed: %v", err)
	}
	if _, err := f.Content.Open(); !errors.Is(err, fsdiff.ErrChanged) {
		t.Errorf("open after it changed: %v", err)
	}
	g, _ := h.Lookup("g")
	os.Remove(filepath.Join(root, "g"))
	if err := os.Symlink("/etc/passwd", filepath.Join(root, "g")); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Content.Open(); !errors.Is(err, fsdiff.ErrChanged) {
		t.Errorf("open what became a link out: %v", err)
	}
}

func TestSame(t *testing.T) {
	whole, frac := time.Unix(1000, 0), time.Unix(1000, 5)
	file := func(edit func(*fsdiff.Entry)) *fsdiff.Entry {
		e := &fsdiff.Entry{Path: "f", Mode: 0o644, Size: 2, ModTime: whole, Content: fsdiff.Bytes([]byte("ab"))}
		edit(e)
		return e
	}
	none := func(*fsdiff.Entry) {}
	for name, c := range map[string]struct {
		a, b func(*fsdiff.Entry)
		want bool
	}{
		"equal":          {none, none, true},
		"bytes":          {none, func(e *fsdiff.Entry) { e.Content = fsdiff.Bytes([]byte("ac")) }, false},
		"mode":           {none, func(e *fsdiff.Entry) { e.Mode = 0o600 }, false},
		"owner":          {none, func(e *fsdiff.Entry) { e.UID = 1 }, false},
		"size":           {none, func(e *fsdiff.Entry) { e.Size = 3 }, false},
		"second":         {none, func(e *fsdiff.Entry) { e.ModTime = time.Unix(1001, 0) }, false},
		"fraction":       {none, func(e *fsdiff.Entry) { e.ModTime = frac }, false},
		"user attribute": {none, func(e *fsdiff.Entry) { e.Xattrs = map[string][]byte{"user.x": nil} }, true},
		"capability":     {none, func(e *fsdiff.Entry) { e.Xattrs = map[string][]byte{"security.capability": {1}} }, false},
		"times with bytes": {
			func(e *fsdiff.Entry) { e.ModTime = frac },
			func(e *fsdiff.Entry) { e.ModTime = frac; e.Content = fsdiff.Bytes([]byte("zz")) }, true,
		},
		"link target": {
			func(e *fsdiff.Entry) { *e = fsdiff.Entry{Mode: fs.ModeSymlink | 0o777, Linkname: "a", ModTime: whole} },
			func(e *fsdiff.Entry) { *e = fsdiff.Entry{Mode: fs.ModeSymlink | 0o777, Linkname: "b", ModTime: whole} }, false,
		},
		"directory time": {
			func(e *fsdiff.Entry) { *e = fsdiff.Entry{Mode: fs.ModeDir | 0o755, ModTime: whole} },
			func(e *fsdiff.Entry) { *e = fsdiff.Entry{Mode: fs.ModeDir | 0o755, ModTime: frac} }, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := fsdiff.Same(file(c.a), file(c.b))
			if err != nil || got != c.want {
				t.Errorf("Same = %v, %v; want %v", got, err, c.want)
			}
		})
	}
}

func TestDeepChain(t *testing.T) {
	var v *fsdiff.View
	var want []string
	for i := range 200 {
		m := fsdiff.NewMem()
		m.Add(fsdiff.Entry{Path: "d", Mode: fs.ModeDir | 0o755})
		m.Add(fsdiff.Entry{Path: fmt.Sprintf("d/%03d", i)})
		if i > 0 {
			m.Whiteout(fmt.Sprintf("d/%03d", i-1))
		}
		v = fsdiff.NewView(v, m)
	}
	want = []string{"d/199"}
	l, err := v.ReadDir("d")
	var got []string
	for _, e := range l {
		got = append(got, e.Path)
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("ReadDir = %v, %v; want %v", got, err, want)
	}
}
