package layertar

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

// smallFile is the size in bytes up to which a file is read into memory and
// written by a worker; larger ones are written as they are read.
const smallFile = 1 << 20

// Unpack makes the overlay-format directory of the layer tar r in dir, which
// exists and is empty. It never writes outside dir, whatever the tar says:
// paths are resolved, links included, as if dir were the root directory.
// Later entries replace earlier ones of the same path; attributes that
// overlayfs keeps for itself are left out; directories get their times at the
// end. The attributes of the root directory are not taken from the tar.
//
// parent returns the file system below the layer, nil for the empty root. It
// is called at most once, and only for a tar that has no header for a
// directory, which then looks as below, or that has a hard link to a file
// below, which is then copied up. r is read to its end. After an error dir
// holds a part of the layer.
func Unpack(ctx context.Context, r io.Reader, dir string, parent func(ctx context.Context) (*fsdiff.View, error)) (Stats, error) {
	t, err := newTree(ctx, dir)
	if err != nil {
		return Stats{}, fmt.Errorf("unpack layer: %w", err)
	}
	u := &unpacker{resolver: resolver{tree: t, lower: parent}}
	br := bufio.NewReaderSize(r, copyBuffer)
	err = u.run(tar.NewReader(br))
	if err == nil {
		_, err = io.Copy(io.Discard, br)
	}
	if err = t.close(err); err != nil {
		return Stats{}, fmt.Errorf("unpack layer: %w", err)
	}
	return u.stats, nil
}

type unpacker struct {
	resolver
	stats Stats
	bufs  sync.Pool // *[]byte
	large []byte    // buffer for files that are streamed
}

func (u *unpacker) run(tr *tar.Reader) error {
	for {
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		u.stats.Entries++
		if err := u.entry(hdr, tr); err != nil {
			return fmt.Errorf("%q: %w", hdr.Name, err)
		}
	}
}

func (u *unpacker) entry(hdr *tar.Header, r io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	p := path.Clean("/" + hdr.Name)[1:]
	if p == "" {
		return nil
	}
	p, err := u.real(p, boundTime(hdr.ModTime))
	if err != nil {
		return err
	}
	if dir, name := path.Split(p); strings.HasPrefix(name, whiteoutPrefix) {
		dir = strings.TrimSuffix(dir, "/")
		if name == opaqueMarker {
			return u.setOpaque(dir)
		}
		switch name = name[len(whiteoutPrefix):]; name {
		case "", ".", "..":
			return errors.New("whiteout of no name")
		}
		return u.whiteout(path.Join(dir, name))
	}
	n, err := nodeFor(hdr, p)
	if err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeReg:
		u.stats.Size += hdr.Size
		return u.regular(n, hdr.Size, r)
	case tar.TypeLink:
		return u.hardlink(n, hdr)
	default:
		return u.put(n)
	}
}

// nodeFor returns what hdr says is at p; the type of a hard link is left open.
func nodeFor(hdr *tar.Header, p string) (node, error) {
	if hdr.Uid < 0 || hdr.Gid < 0 || hdr.Uid >= math.MaxUint32 || hdr.Gid >= math.MaxUint32 {
		return node{}, fmt.Errorf("owner %d:%d is not possible", hdr.Uid, hdr.Gid)
	}
	n := node{
		path: p,
		mode: uint32(hdr.Mode & 0o7777),
		uid:  uint32(hdr.Uid), gid: uint32(hdr.Gid),
		rdev:  unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor)),
		atime: boundTime(hdr.AccessTime), mtime: boundTime(hdr.ModTime),
	}
	switch hdr.Typeflag {
	case tar.TypeReg:
		n.mode |= unix.S_IFREG
	case tar.TypeDir:
		n.mode |= unix.S_IFDIR
	case tar.TypeSymlink:
		n.mode |= unix.S_IFLNK
		n.target = hdr.Linkname
	case tar.TypeFifo:
		n.mode |= unix.S_IFIFO
	case tar.TypeChar:
		n.mode |= unix.S_IFCHR
	case tar.TypeBlock:
		n.mode |= unix.S_IFBLK
	case tar.TypeLink:
	default:
		return node{}, fmt.Errorf("tar entry has type %q, which a layer cannot have", hdr.Typeflag)
	}
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok || ours(name) {
			continue
		}
		if n.xattrs == nil {
			n.xattrs = map[string][]byte{}
		}
		n.xattrs[name] = []byte(value)
	}
	return n, nil
}

// boundTime makes times that do not fit into nanoseconds since 1970 the start
// of 1970, as containerd does.
func boundTime(t time.Time) time.Time {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64)) {
		return time.Unix(0, 0)
	}
	return t
}

func (u *unpacker) regular(n node, size int64, r io.Reader) error {
	if size == 0 {
		return u.put(n)
	}
	if err := u.clear(n.path); err != nil {
		return err
	}
	if size > smallFile {
		if err := u.await(n.path); err != nil {
			return err
		}
		return u.file(n, func(fd int) error { return u.stream(fd, r) })
	}
	if err := u.bytes.Acquire(u.ctx, size); err != nil {
		return context.Cause(u.ctx)
	}
	buf, _ := u.bufs.Get().(*[]byte)
	if buf == nil || int64(cap(*buf)) < size {
		b := make([]byte, max(size, 16<<10))
		buf = &b
	}
	if _, err := io.ReadFull(r, (*buf)[:size]); err != nil {
		return err
	}
	return u.do(n.path, func() error {
		err := u.file(n, func(fd int) error { return writeAll(fd, (*buf)[:size]) })
		u.bufs.Put(buf)
		u.bytes.Release(size)
		return err
	})
}

func (u *unpacker) stream(fd int, r io.Reader) error {
	if u.large == nil {
		u.large = make([]byte, copyBuffer)
	}
	for {
		n, err := r.Read(u.large)
		if werr := writeAll(fd, u.large[:n]); werr != nil {
			return werr
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
	}
}

func writeAll(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if err != nil && err != unix.EINTR {
			return err
		}
		p = p[max(n, 0):]
	}
	return nil
}

// hardlink makes n a link of what hdr names, which may be a file of the layers
// below: that one is copied up first, as overlayfs would.
func (u *unpacker) hardlink(n node, hdr *tar.Header) error {
	target, err := u.find(path.Clean("/" + hdr.Linkname)[1:], boundTime(hdr.ModTime))
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", hdr.Linkname, err)
	}
	if target == n.path {
		return errors.New("hard link to itself")
	}
	if err := u.clear(n.path); err != nil {
		return err
	}
	if err := u.await(target); err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstatat(u.root, at(target), &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = unix.EISDIR
	}
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", hdr.Linkname, err)
	}
	if err := u.await(n.path); err != nil {
		return err
	}
	if err := u.link(target, n.path); err != nil {
		return fmt.Errorf("hard link to %q: %w", hdr.Linkname, err)
	}
	n.mode |= st.Mode & unix.S_IFMT
	if err := u.setAttrs(&n); err != nil {
		return err
	}
	return u.setTimes(n.path, n.atime, n.mtime)
}

// find returns where the hard link target p is in this tree, after copying it
// up when only the layers below have it.
func (u *unpacker) find(p string, mtime time.Time) (string, error) {
	dir, name := path.Split(p)
	dir, err := u.dir(strings.TrimSuffix(dir, "/"), nil)
	if err == nil {
		here := path.Join(dir, name)
		if err := u.await(here); err != nil {
			return "", err
		}
		var st unix.Stat_t
		if err = unix.Fstatat(u.root, at(here), &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			return here, nil
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	v, err := u.lowerView()
	if err != nil {
		return "", err
	}
	if v == nil {
		return "", fs.ErrNotExist
	}
	below, err := v.Resolve(p, false)
	if err != nil {
		return "", err
	}
	e, err := v.Lookup(below)
	if err != nil {
		return "", err
	}
	here, err := u.real(below, mtime)
	if err != nil {
		return "", err
	}
	return here, u.copyUp(here, e)
}

func (u *unpacker) copyUp(p string, e *fsdiff.Entry) error {
	n := nodeOf(e)
	n.path = p
	switch {
	case e.IsDir():
		return unix.EISDIR
	case e.IsRegular() && e.Size > 0:
		return u.file(n, func(fd int) error { return copyFile(fd, e, make([]byte, copyBuffer)) })
	}
	return u.make(n)
}
