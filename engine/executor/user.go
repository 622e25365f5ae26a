package executor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxUserFile bounds /etc/passwd and /etc/group, in bytes: both come from the
// image. BuildKit has the same bound.
const maxUserFile = 10 << 20

// LookupUser resolves "user", "uid", "user:group", "uid:gid" and their mixes
// against /etc/passwd and /etc/group below root. Numbers need no entry; "" is
// root. The additional groups begin with the primary one and hold the user's
// groups of /etc/group only when name gives no group.
func LookupUser(root, name string) (specs.User, error) {
	u, err := lookupUser(root, name)
	if err != nil {
		return specs.User{}, err
	}
	if !slices.Contains(u.AdditionalGids, u.GID) {
		u.AdditionalGids = append([]uint32{u.GID}, u.AdditionalGids...)
	}
	return u, nil
}

func lookupUser(root, name string) (specs.User, error) {
	if uid, gid, ok := numericUser(name); ok {
		return specs.User{UID: uid, GID: gid}, nil
	}
	isDefault := name == ""
	if isDefault {
		name = "0"
	}

	// A file that is missing or no regular file counts as empty.
	var passwd, group io.Reader
	if f, err := openInRoot(root, "etc/passwd"); err == nil {
		defer f.Close()
		passwd = &boundedReader{r: f, left: maxUserFile, name: "/etc/passwd"}
	}
	if f, err := openInRoot(root, "etc/group"); err == nil {
		defer f.Close()
		group = &boundedReader{r: f, left: maxUserFile, name: "/etc/group"}
	}
	found, err := user.GetExecUser(name, nil, passwd, group)
	if isDefault && err != nil {
		return specs.User{}, nil
	}
	if err != nil {
		return specs.User{}, err
	}
	u := specs.User{UID: uint32(found.Uid), GID: uint32(found.Gid)}
	for _, g := range found.Sgids {
		u.AdditionalGids = append(u.AdditionalGids, uint32(g))
	}
	return u, nil
}

// numericUser is the case that needs no file: both halves are numbers or
// "root".
func numericUser(name string) (uid, gid uint32, ok bool) {
	u, g, ok := strings.Cut(name, ":")
	if !ok {
		return 0, 0, false
	}
	uid, okUID := numericID(u)
	gid, okGID := numericID(g)
	return uid, gid, okUID && okGID
}

func numericID(s string) (uint32, bool) {
	if s == "root" {
		return 0, true
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}

// openInRoot opens the regular file name, relative to root, for reading. Links
// resolve inside root.
func openInRoot(root, name string) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	// O_NONBLOCK: a FIFO in the image must not block us.
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(err, fmt.Errorf("%s is not a regular file", name))
	}
	return f, nil
}

// A boundedReader errs, rather than ends, after left bytes.
type boundedReader struct {
	r    io.Reader
	left int
	name string
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= n; b.left < 0 {
		return n, fmt.Errorf("%s has more than %d bytes", b.name, maxUserFile)
	}
	return n, err
}
