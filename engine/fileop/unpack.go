package fileop

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

// impliedMode is the mode of directories that an archive has no header for.
const impliedMode = 0o755

// unpack copies what is in the archive src to the directory dest. It reports
// false, having done nothing, when src is no archive.
func (c *copying) unpack(src, dest string) (done bool, err error) {
	from, err := c.src.Resolve(src, true)
	if err != nil {
		return false, err
	}
	e, err := c.src.Lookup(from)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !e.IsRegular() || e.Content == nil {
		return false, nil
	}
	if is, err := isArchive(e); err != nil || !is {
		return false, err
	}
	top, err := c.dst.resolve(dest, true)
	if err != nil {
		return false, err
	}
	if _, err := c.dst.mkdirAll(top, impliedMode, c.who, c.at); err != nil {
		return false, err
	}
	if c.files == nil {
		if c.tempDir == nil {
			return false, errors.New("there is no place for its files")
		}
		dir, err := c.tempDir()
		if err != nil {
			return false, err
		}
		if c.files, err = newUnpackDir(dir); err != nil {
			return false, err
		}
	}
	r, err := openArchive(e)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	u := &unpacking{t: c.dst, top: top, who: c.who, files: c.files}
	return true, u.run(tar.NewReader(r), c)
}

// An unpacking puts an archive into a directory, as a process would whose root
// that is: no path and no link leads out of it.
type unpacking struct {
	t     *tree
	top   string // the directory, resolved
	who   *owner // owns all that is unpacked; nil: as the archive says
	files *unpackDir
	dirs  []*tar.Header
}

func (u *unpacking) run(r *tar.Reader, c *copying) error {
	for {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := u.entry(h, r); err != nil {
			return err
		}
	}
	for _, h := range u.dirs { // what came into them gave them the time of now
		p, err := u.t.resolveIn(u.top, h.Name, true)
		if err != nil {
			return err
		}
		n, err := u.t.lstat(p)
		if err != nil || n == nil {
			return fmt.Errorf("set time of %q: %w", "/"+p, errOr(err, fs.ErrNotExist))
		}
		u.t.copyUp(n)
		n.ino.ModTime = boundTime(h.ModTime)
	}
	return nil
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func (u *unpacking) entry(h *tar.Header, r io.Reader) error {
	h.Name = path.Clean(h.Name)
	if err := u.implied(h.Name); err != nil {
		return err
	}
	p, err := u.t.resolveIn(u.top, path.Join("/", h.Name), false)
	if err != nil {
		return err
	}
	n, err := u.t.lstat(p)
	if err != nil {
		return pathError("lstat", p, err)
	}
	if n != nil {
		if n.isDir() && h.Name == "." {
			return nil // the directory keeps what it has
		}
		if !n.isDir() || h.Typeflag != tar.TypeDir {
			if p == u.top {
				return pathError("unpack", p, syscall.EBUSY)
			}
			u.t.unlink(n)
			n = nil
		}
	}
	if n, err = u.create(n, p, h, r); err != nil {
		return err
	}
	u.t.copyUp(n)
	who := owner{uint32(h.Uid), uint32(h.Gid)}
	if u.who != nil {
		who = *u.who
	}
	n.ino.chown(who.uid, who.gid)
	n.ino.addXattrs(archiveXattrs(h))
	if h.Typeflag == tar.TypeLink && !u.plainTarget(h) {
		return nil
	}
	if h.Typeflag != tar.TypeSymlink {
		n.ino.chmod(h.FileInfo().Mode())
	}
	n.ino.ModTime = boundTime(h.ModTime)
	if h.Typeflag == tar.TypeDir {
		u.dirs = append(u.dirs, h)
	}
	return nil
}

// implied makes the directories above name that the archive did not.
func (u *unpacking) implied(name string) error {
	if strings.HasSuffix(name, "/") {
		return nil
	}
	parent := path.Join("/", path.Dir(name))
	p, err := u.t.resolveIn(u.top, parent, false)
	if err != nil {
		return err
	}
	if n, err := u.t.lstat(p); err != nil || n != nil {
		return nil // what is wrong with it shows when the entry is made
	}
	_, err = u.t.mkdirAll(p, impliedMode, &owner{}, nil)
	return err
}

// create makes the entry of h at p, where only a directory may be: n, or nil.
func (u *unpacking) create(n *node, p string, h *tar.Header, r io.Reader) (*node, error) {
	if n != nil {
		return n, nil
	}
	dir, err := u.t.dirOf("create", p)
	if err != nil {
		return nil, err
	}
	e := fsdiff.Entry{ModTime: u.t.now, Mode: h.FileInfo().Mode() & modeBits}
	switch h.Typeflag {
	case tar.TypeDir:
		e.Mode |= fs.ModeDir
	case tar.TypeReg:
		e.Size = h.Size
		if h.Size > 0 {
			if e.Content, err = u.files.add(r); err != nil {
				return nil, fmt.Errorf("unpack %q: %w", h.Name, err)
			}
		}
	case tar.TypeBlock:
		e.Mode |= fs.ModeDevice
		e.Devmajor, e.Devminor = uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeChar:
		e.Mode |= fs.ModeDevice | fs.ModeCharDevice
		e.Devmajor, e.Devminor = uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeFifo:
		e.Mode |= fs.ModeNamedPipe
	case tar.TypeSymlink:
		e.Mode = fs.ModeSymlink | fs.ModePerm
		e.Linkname = h.Linkname
	case tar.TypeLink:
		return u.link(p, dir, h)
	default:
		return nil, fmt.Errorf("%q has type %q, which is not known", h.Name, h.Typeflag)
	}
	return u.t.put(dir, path.Base(p), &inode{Entry: e}), nil
}

// link makes p another name of what h links to; a symbolic link may be meant.
func (u *unpacking) link(p string, dir *node, h *tar.Header) (*node, error) {
	target, err := u.t.resolveIn(u.top, path.Join("/", h.Linkname), false)
	if err != nil {
		return nil, err
	}
	old, err := u.t.lstat(target)
	switch {
	case err != nil:
		return nil, pathError("link", target, err)
	case old == nil:
		return nil, fmt.Errorf("link %q: %w", path.Join("/", h.Name), notFound(clean(h.Linkname)))
	case old.isDir():
		return nil, pathError("link", target, syscall.EPERM)
	}
	return u.t.link(old, dir, path.Base(p)), nil
}

// plainTarget says whether h, a hard link, is of something else than a
// symbolic link.
func (u *unpacking) plainTarget(h *tar.Header) bool {
	target, err := u.t.resolveIn(u.top, h.Linkname, false)
	if err != nil {
		return false
	}
	n, err := u.t.lstat(target)
	return err == nil && n != nil && !n.ino.IsSymlink()
}

func archiveXattrs(h *tar.Header) map[string][]byte {
	var attrs map[string][]byte
	for k, v := range h.PAXRecords {
		k, ok := strings.CutPrefix(k, "SCHILY.xattr.")
		// Those of overlayfs mean something else where we keep files.
		if !ok || strings.HasPrefix(k, "trusted.overlay.") || strings.HasPrefix(k, "user.overlay.") {
			continue
		}
		if attrs == nil {
			attrs = map[string][]byte{}
		}
		attrs[k] = []byte(v)
	}
	return attrs
}

// boundTime is t, or 1970 when a file cannot have that time.
func boundTime(t time.Time) time.Time {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64)) {
		return time.Unix(0, 0)
	}
	return t
}
