package fsdiff

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Dir returns the Diff that lies unpacked in the directory root: a character
// device 0:0 is a whiteout, and a directory whose attribute
// trusted.overlay.opaque or user.overlay.opaque is "y" is opaque. It is read
// when it is asked for, each path once; nothing may change below root
// meanwhile. The error of a root that is missing comes with the first read.
func Dir(root string) Diff {
	d := &dir{listings: map[string][]*Entry{}, entries: map[string]*Entry{}}
	d.open = sync.OnceValues(func() (*rootDir, error) {
		r, err := openRoot(root)
		if err != nil {
			return nil, fmt.Errorf("open layer directory: %w", err)
		}
		return r, nil
	})
	return d
}

type dir struct {
	open func() (*rootDir, error)

	mu       sync.RWMutex
	listings map[string][]*Entry
	entries  map[string]*Entry // nil: known to be absent
}

// Lookup implements Diff.
func (d *dir) Lookup(p string) (*Entry, error) {
	d.mu.RLock()
	e, known := d.entries[p]
	d.mu.RUnlock()
	if known {
		if e == nil {
			return nil, fs.ErrNotExist
		}
		return e, nil
	}
	root, err := d.open()
	if err != nil {
		return nil, err
	}
	// A parent that is absent here makes everything below it absent, without
	// a system call and a cached miss for each.
	parent, name := path.Split(p)
	if parent != "" {
		pe, err := d.Lookup(parent[:len(parent)-1])
		if err != nil {
			return nil, err
		}
		if !pe.IsDir() {
			return nil, fs.ErrNotExist
		}
	}
	e, err = d.read(root, parent, name)
	if err != nil && !absent(err) {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if have, ok := d.entries[p]; ok {
		e = have // somebody was faster
	}
	d.entries[p] = e
	if e == nil {
		return nil, fs.ErrNotExist
	}
	return e, nil
}

func (d *dir) read(root *rootDir, parent, name string) (*Entry, error) {
	if name == "" {
		name = "."
	}
	fd, err := root.open(path.Clean(parent+"."), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return readLayerEntry(root, fd, parent, name)
}

// readLayerEntry reads the entry name of the open directory dir, whose path,
// with a slash at its end unless it is the root's, is parent.
func readLayerEntry(root *rootDir, dir int, parent, name string) (*Entry, error) {
	st, err := fstatat(dir, name)
	if err != nil {
		return nil, err
	}
	e := &Entry{Path: parent + name}
	if name == "." {
		e.Path = ""
	}
	e.fill(&st)
	if e.Mode&fs.ModeCharDevice != 0 && e.Devmajor == 0 && e.Devminor == 0 {
		return &Entry{Path: e.Path, Whiteout: true}, nil
	}
	if st.Nlink > 1 && !e.IsDir() { // a layer has links of links and of devices too
		e.Inode = inode(&st)
	}
	if e.Mode&fs.ModeSymlink != 0 {
		if e.Linkname, err = readlinkat(dir, name); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	if e.Xattrs, e.Opaque, err = root.attrs.read(dir, e.Path, name); err != nil {
		return nil, fmt.Errorf("%s: %w", e.Path, err)
	}
	e.Opaque = e.Opaque && e.Mode.IsDir()
	if e.Mode.IsRegular() {
		e.Content = &File{root: root, path: e.Path, id: fileID(&st)}
	}
	return e, nil
}

// ReadDir implements Diff.
func (d *dir) ReadDir(p string) ([]*Entry, error) {
	d.mu.RLock()
	list, ok := d.listings[p]
	d.mu.RUnlock()
	if ok {
		return list, nil
	}
	switch e, err := d.Lookup(p); {
	case absent(err):
		return nil, nil
	case err != nil:
		return nil, err
	case !e.IsDir():
		return nil, nil
	}
	list, err := d.readDir(p)
	if err != nil {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if have, ok := d.listings[p]; ok {
		return have, nil
	}
	for i, e := range list {
		if have := d.entries[e.Path]; have != nil {
			list[i] = have
		} else {
			d.entries[e.Path] = e
		}
	}
	d.listings[p] = list
	return list, nil
}

func (d *dir) readDir(p string) ([]*Entry, error) {
	root, err := d.open()
	if err != nil {
		return nil, err
	}
	fd, err := root.open(p, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path.Join(root.path, p))
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	parent := p
	if parent != "" {
		parent += "/"
	}
	list := make([]*Entry, 0, len(names))
	for _, name := range names {
		e, err := readLayerEntry(root, fd, parent, name)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *Entry) int { return cmp.Compare(a.Path, b.Path) })
	return list, nil
}
