package action

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func ownerOf(t *testing.T, path string) int {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return int(st.Uid)
}

// TestClaim: what a build of root leaves for a user, and what it does not.
func TestClaim(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it changes owners")
	}
	const user, other = 4711, 4712
	top := t.TempDir()
	in := func(name string) string { return filepath.Join(top, name) }
	write := func(name string, uid int) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(in(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(in(name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Lchown(in(name), uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	write("old/kept", 0)
	write("roots/f", 0)
	if err := os.Chown(in("old"), user, user); err != nil {
		t.Fatal(err)
	}
	time.Sleep(slack + 100*time.Millisecond)
	claim := Owner{user, user}.Claim([]Place{
		{Path: in("cache/mayfly"), Only: []string{"blobs"}},
		{Path: in("old")}, {Path: in("roots")}, {Path: in("out.tar")}, {Path: in("never/made")},
	})
	write("cache/mayfly/blobs/sha256/b", 0)
	write("cache/mayfly/layers/l/fs/etc/passwd", 0)
	write("cache/mayfly/state", 0)
	write("old/sub/new", other)
	write("roots/g", 0)
	write("out.tar", 0)
	if err := os.Symlink("/etc/hostname", in("old/link")); err != nil {
		t.Fatal(err)
	}
	hostname := ownerOf(t, "/etc/hostname")
	if err := claim.Settle(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{
		"cache": user, "cache/mayfly": user, "cache/mayfly/state": user,
		"cache/mayfly/blobs": user, "cache/mayfly/blobs/sha256/b": user,
		"cache/mayfly/layers": user, "cache/mayfly/layers/l": 0, "cache/mayfly/layers/l/fs/etc/passwd": 0,
		"old/kept": 0, "old/sub": user, "old/sub/new": user, "old/link": user,
		"roots": 0, "roots/f": 0, "roots/g": 0, "out.tar": user,
	} {
		if got := ownerOf(t, in(name)); got != want {
			t.Errorf("%s belongs to %d, not %d", name, got, want)
		}
	}
	if got := ownerOf(t, "/etc/hostname"); got != hostname {
		t.Errorf("the target of a link belongs to %d", got)
	}
}

func TestOwnerOf(t *testing.T) {
	for name, tt := range map[string]struct {
		uid, gid string
		want     bool
	}{"sudo": {"1001", "118", true}, "none": {"", "", false}, "root by sudo": {"0", "0", false}, "half": {"1001", "", false}} {
		o, ok := OwnerOf(lookup(map[string]string{"SUDO_UID": tt.uid, "SUDO_GID": tt.gid}))
		if ok != tt.want || ok && o != (Owner{1001, 118}) {
			t.Errorf("%s: %v, %v", name, o, ok)
		}
	}
}
