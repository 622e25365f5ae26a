package executor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// makeRoot makes files in a new root: "name" or "name -> target" or "dir/".
func makeRoot(t *testing.T, entries ...string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	must(t, os.Mkdir(root, 0o755))
	for _, e := range entries {
		name, target, link := strings.Cut(e, " -> ")
		path := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		switch {
		case link:
			must(t, os.Symlink(target, path))
		case strings.HasSuffix(name, "/"):
			must(t, os.MkdirAll(path, 0o755))
		default:
			must(t, os.WriteFile(path, nil, 0o644))
		}
	}
	return root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLookupUser(t *testing.T) {
	root := makeRoot(t, "etc/")
	must(t, os.WriteFile(root+"/etc/passwd", []byte("root:x:0:0::/:/bin/sh\nann:x:1000:1001::/:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(root+"/etc/group", []byte("root:x:0:\nann:x:1001:\nwheel:x:10:ann\nbuild:x:20:ann,bob\n"), 0o644))
	empty := makeRoot(t)
	outside := filepath.Join(t.TempDir(), "passwd")
	must(t, os.WriteFile(outside, []byte("evil:x:666:666::/:/bin/sh\n"), 0o644))
	escape := makeRoot(t, "etc/passwd -> ../../../../../../.."+outside, "etc/group -> "+outside)
	inside := makeRoot(t, "etc/passwd -> /lib/passwd", "lib/")
	must(t, os.WriteFile(inside+"/lib/passwd", []byte("ann:x:7:8::/:/bin/sh\n"), 0o644))
	fifo := makeRoot(t, "etc/")
	must(t, syscall.Mkfifo(fifo+"/etc/passwd", 0o644))

	for _, c := range []struct{ root, user, want string }{
		{root, "", "0:0 [0]"},
		{root, "ann", "1000:1001 [1001 10 20]"},
		{root, "1000", "1000:1001 [1001 10 20]"},
		{root, "ann:wheel", "1000:10 [10]"},
		{root, "1000:1001", "1000:1001 [1001]"},
		{root, "5:root", "5:0 [0]"},
		{root, "5", "5:0 [0]"},
		{root, "bob", "error"},
		{root, "ann:nogroup", "error"},
		{root, "-1", "error"},
		{root, "4294967296:0", "error"},
		{empty, "", "0:0 [0]"},
		{empty, "5:6", "5:6 [6]"},
		{empty, "ann", "error"},
		{escape, "evil", "error"},
		{inside, "ann", "7:8 [8]"},
		{fifo, "ann", "error"},
		{fifo, "", "0:0 [0]"},
	} {
		u, err := LookupUser(c.root, c.user)
		got := fmt.Sprintf("%d:%d %v", u.UID, u.GID, u.AdditionalGids)
		if err != nil {
			got = "error"
		}
		if got != c.want {
			t.Errorf("%s, user %q: got %s (%v), want %s", filepath.Base(filepath.Dir(c.root)), c.user, got, err, c.want)
		}
	}
}

func TestLookupUserBoundsFiles(t *testing.T) {
	root := makeRoot(t, "etc/")
	must(t, os.WriteFile(root+"/etc/passwd", []byte(strings.Repeat("x:x:1:1::/:/x\n", maxUserFile/14+10)), 0o644))
	if _, err := LookupUser(root, "ann"); err == nil || !strings.Contains(err.Error(), "/etc/passwd") {
		t.Errorf("got %v, want an error that names the file", err)
	}
}

func TestStubs(t *testing.T) {
	root := makeRoot(t, "etc/", "real/", "link -> /real", "out -> ../../..", "full/file")
	past := time.Unix(1e9, 5)
	s := findStubs(root, []string{"/etc/hosts", "/link/x", "/new/deep", "/full", "/full/file", "/out/x", "/replaced"}, false)
	// What a runtime would make, and a process that puts links in the way.
	for _, dir := range []string{"real/x", "new/deep", "x"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	must(t, os.WriteFile(root+"/etc/hosts", nil, 0o644))
	outside := filepath.Join(filepath.Dir(root), "outside")
	must(t, os.WriteFile(outside, nil, 0o644))
	must(t, os.Symlink("../outside", root+"/replaced"))
	for _, dir := range []string{"", "etc", "real", "new"} {
		must(t, os.Chtimes(filepath.Join(root, dir), past, past))
	}
	s.remove()
	for name, want := range map[string]bool{
		"etc/hosts": false, "real/x": false, "new/deep": false, "x": false,
		"new": true, "full/file": true, "real": true, "../outside": true,
	} {
		if _, err := os.Lstat(filepath.Join(root, name)); (err == nil) != want {
			t.Errorf("%s exists: %v, want %v", name, err == nil, want)
		}
	}
	for _, dir := range []string{"", "etc", "real", "new"} {
		fi, err := os.Stat(filepath.Join(root, dir))
		must(t, err)
		if !fi.ModTime().Equal(past) {
			t.Errorf("/%s has the time %v, want %v", dir, fi.ModTime(), past)
		}
	}
}

func TestMakeCwd(t *testing.T) {
	root := makeRoot(t, "a/", "link -> /a", "up -> ../../../b", "file", "dangling -> /made")
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	for cwd, want := range map[string]string{
		"/":             "",
		"/a":            "a",
		"/link/b/c":     "a/b/c",
		"/up/x":         "b/x",
		"/dangling/y":   "made/y",
		"/../../escape": "escape",
		"/file/x":       "error",
	} {
		err := makeCwd(root, cwd, uid, gid)
		if (err != nil) != (want == "error") {
			t.Errorf("%s: error %v", cwd, err)
		}
		if fi, err := os.Lstat(filepath.Join(root, want)); want != "error" && (err != nil || !fi.IsDir() || fi.Mode().Perm() != 0o755) {
			t.Errorf("%s: %v, %v", want, fi, err)
		}
	}
}
