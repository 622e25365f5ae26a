package layertar

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

// headers turns changes into tar headers: parent directories come before what
// is in them even when they did not change, and the first of several hard
// links is the file. Its facts are those of containerd's change writer, which
// BuildKit uses.
type headers struct {
	diff fsdiff.Diff
	base *fsdiff.View

	dirs  map[string]bool     // directories that have a header
	files map[uint64]string   // inode → the name that has the bytes
	waits map[uint64][]string // inode → unchanged names, until the file is seen

	// emit takes the next header; e has the bytes when hdr.Size is not 0.
	emit func(hdr *tar.Header, e *fsdiff.Entry) error
}

func newHeaders(d fsdiff.Diff, base *fsdiff.View, emit func(*tar.Header, *fsdiff.Entry) error) *headers {
	return &headers{
		diff: d, base: base, emit: emit,
		dirs: map[string]bool{}, files: map[uint64]string{}, waits: map[uint64][]string{},
	}
}

func (h *headers) change(k kind, p string, e *fsdiff.Entry) error {
	if k == deleted {
		return h.send(whiteout(p), nil)
	}
	if e.Mode&fs.ModeSocket != 0 {
		return nil
	}
	hdr, err := header(p, e)
	if err != nil {
		return err
	}
	if e.Inode == 0 || e.IsDir() {
		if k == unchanged {
			return nil
		}
		return h.send(hdr, e)
	}
	if file, ok := h.files[e.Inode]; ok {
		link(hdr, file)
		return h.send(hdr, nil)
	}
	if k == unchanged {
		h.waits[e.Inode] = append(h.waits[e.Inode], hdr.Name)
		return nil
	}
	h.files[e.Inode] = hdr.Name
	if err := h.send(hdr, e); err != nil {
		return err
	}
	for _, name := range h.waits[e.Inode] {
		also := *hdr
		also.Name = name
		link(&also, hdr.Name)
		if err := h.send(&also, nil); err != nil {
			return err
		}
	}
	delete(h.waits, e.Inode)
	return nil
}

func link(hdr *tar.Header, to string) {
	hdr.Typeflag = tar.TypeLink
	hdr.Linkname = to
	hdr.Size = 0
}

// send emits hdr after the directories above it.
func (h *headers) send(hdr *tar.Header, e *fsdiff.Entry) error {
	name := strings.TrimSuffix(hdr.Name, "/")
	if dir := path.Dir(name); dir != "." && !h.dirs[dir] {
		h.dirs[dir] = true
		parent, err := h.lookup(dir)
		if err != nil {
			return fmt.Errorf("directory above %q: %w", name, err)
		}
		if err := h.change(put, dir, parent); err != nil {
			return err
		}
	}
	if hdr.Typeflag == tar.TypeDir {
		h.dirs[name] = true
	}
	return h.emit(hdr, e)
}

// lookup finds a directory that itself may not be part of the Diff.
func (h *headers) lookup(dir string) (*fsdiff.Entry, error) {
	e, err := h.diff.Lookup(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return h.base.Lookup(dir)
	}
	return e, err
}

func whiteout(p string) *tar.Header {
	zero := time.Unix(0, 0).UTC()
	return &tar.Header{
		Typeflag:   tar.TypeReg,
		Name:       path.Join(path.Dir(p), whiteoutPrefix+path.Base(p)),
		ModTime:    zero,
		AccessTime: zero,
		ChangeTime: zero,
	}
}

func header(p string, e *fsdiff.Entry) (*tar.Header, error) {
	hdr := &tar.Header{
		Name: p,
		Mode: int64(e.Mode.Perm()),
		Uid:  int(e.UID),
		Gid:  int(e.GID),
		// Without PAX the tar writer would round the time up.
		ModTime: e.ModTime.Truncate(time.Second),
		Format:  tar.FormatPAX,
	}
	if e.Mode&fs.ModeSetuid != 0 {
		hdr.Mode |= 0o4000
	}
	if e.Mode&fs.ModeSetgid != 0 {
		hdr.Mode |= 0o2000
	}
	if e.Mode&fs.ModeSticky != 0 {
		hdr.Mode |= 0o1000
	}
	switch t := e.Mode.Type(); t {
	case 0:
		hdr.Typeflag, hdr.Size = tar.TypeReg, e.Size
	case fs.ModeDir:
		hdr.Typeflag = tar.TypeDir
		hdr.Name += "/"
	case fs.ModeSymlink:
		hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, e.Linkname
	case fs.ModeNamedPipe:
		hdr.Typeflag = tar.TypeFifo
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		hdr.Typeflag = tar.TypeBlock
		if t&fs.ModeCharDevice != 0 {
			hdr.Typeflag = tar.TypeChar
		}
		hdr.Devmajor, hdr.Devminor = int64(e.Devmajor), int64(e.Devminor)
	default:
		return nil, fmt.Errorf("%q: a layer cannot hold a file of type %v", p, t)
	}
	if c := e.Xattrs[capability]; len(c) > 0 {
		hdr.PAXRecords = map[string]string{xattrPrefix + capability: string(c)}
	}
	return hdr, nil
}
