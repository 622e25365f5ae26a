package fsdiff

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// HostOptions says which part of a directory of this machine is read, and how.
// The patterns are those of BuildKit's local source.
type HostOptions struct {
	Include     []string // patterns; none means everything
	Exclude     []string // patterns, as a .dockerignore has them
	FollowPaths []string // paths and wildcards; they and the links on their way are included
	KeepOwner   bool     // otherwise all belongs to 0:0, as in a build context

	// Parallel is how many directories are read at once; 0 means the number
	// of CPUs.
	Parallel int
}

// A HostTree is a directory of this machine as Host found it.
type HostTree struct {
	root *Entry
	dirs map[string][]*Entry // listings of all directories but the empty ones

	files int
	bytes int64
}

// Host walks the directory root and returns what the options let through. The
// bytes stay where they are: what changes between the walk and the read is an
// ErrChanged. Sockets appear as empty files, as they do to BuildKit. The root
// entry is 0755, belongs to 0:0 and is of now, whatever the directory's is, as
// where BuildKit receives a context.
//
// A directory that vanishes during the walk is left out; one that may not be
// read is an error unless the patterns exclude it.
func Host(ctx context.Context, root string, opt HostOptions) (*HostTree, error) {
	t, err := host(ctx, root, opt)
	if err != nil {
		return nil, fmt.Errorf("read directory %s: %w", root, err)
	}
	return t, nil
}

func host(ctx context.Context, root string, opt HostOptions) (*HostTree, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	r, err := openRoot(abs)
	if err != nil {
		return nil, err
	}
	s := &scan{root: r, opt: opt}
	include, err := opt.includes(abs)
	if err != nil {
		return nil, err
	}
	first, err := newFilter(include, opt.Exclude)
	if err != nil {
		return nil, err
	}
	s.filters.New = func() any {
		f, _ := newFilter(include, opt.Exclude) // the same patterns were fine above
		return f
	}

	n := opt.Parallel
	if n == 0 {
		n = runtime.GOMAXPROCS(0)
	}
	s.slots = make(chan struct{}, n-1)
	top := &hostDir{node: &hostNode{}, verdict: verdict{descend: true}}
	g, ctx := errgroup.WithContext(ctx)
	s.spawn = g.Go
	g.Go(func() error { return s.dir(ctx, top, first) })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	t := &HostTree{
		root: &Entry{Mode: fs.ModeDir | 0o755, ModTime: time.Now()},
		dirs: map[string][]*Entry{},
	}
	t.collect(top)
	return t, nil
}

// A scan is one walk. Directories are read side by side while slots are free,
// and one below the other when they are not.
type scan struct {
	root    *rootDir
	opt     HostOptions
	filters sync.Pool // of *filter, one for each goroutine
	slots   chan struct{}
	spawn   func(func() error)
}

type hostDir struct {
	node    *hostNode
	verdict verdict
	nodes   []hostNode // what was found, before the directories are pruned
}

type hostNode struct {
	Entry
	file File
	in   bool     // the filter says so; a directory may come in by its contents
	dir  *hostDir // set when the walk went down
	gone bool
}

// statChunk is how many files of one directory a goroutine takes at a time.
const statChunk = 1024

func (s *scan) dir(ctx context.Context, d *hostDir, f *filter) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	found, fd, err := s.list(d)
	if err != nil || found == nil {
		return err
	}
	defer found.Close()
	names, err := found.ReadDir(-1)
	if err != nil && !absent(err) {
		return err
	}
	slices.SortFunc(names, func(a, b os.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	d.nodes = make([]hostNode, len(names))

	var g errgroup.Group
	for lo := 0; lo < len(names); lo += statChunk {
		hi := min(lo+statChunk, len(names))
		if hi < len(names) && s.acquire() {
			g.Go(func() error {
				defer s.release()
				own := s.filters.Get().(*filter)
				defer s.filters.Put(own)
				return s.stat(d, fd, names[lo:hi], d.nodes[lo:hi], own)
			})
			continue
		}
		if err := s.stat(d, fd, names[lo:hi], d.nodes[lo:hi], f); err != nil {
			return errors.Join(err, g.Wait())
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	found.Close() // a deep tree does not hold a descriptor per level

	for i := range d.nodes {
		sub := d.nodes[i].dir
		if sub == nil {
			continue
		}
		if !s.acquire() {
			if err := s.dir(ctx, sub, f); err != nil {
				return err
			}
			continue
		}
		s.spawn(func() error {
			defer s.release()
			own := s.filters.Get().(*filter)
			defer s.filters.Put(own)
			return s.dir(ctx, sub, own)
		})
	}
	return nil
}

func (s *scan) acquire() bool {
	select {
	case s.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *scan) release() { <-s.slots }

// list opens the directory; nil means that it is not there any more, or is
// closed to us and not wanted.
func (s *scan) list(d *hostDir) (*os.File, int, error) {
	path := d.node.Path
	fd, err := s.root.open(path, unix.O_RDONLY|unix.O_DIRECTORY)
	switch {
	case absent(err) && path != "":
		d.node.gone = true
		return nil, 0, nil
	case errors.Is(err, fs.ErrPermission) && path != "" && !d.verdict.in:
		return nil, 0, nil
	case err != nil:
		return nil, 0, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(s.root.path, path)), fd, nil
}

// stat fills nodes from names, which are entries of the open directory fd.
func (s *scan) stat(d *hostDir, fd int, names []os.DirEntry, nodes []hostNode, f *filter) error {
	parent := d.node.Path
	if parent != "" {
		parent += "/"
	}
	for i, de := range names {
		n := &nodes[i]
		n.Path = parent + de.Name()
		v, err := f.judge(n.Path, de.IsDir(), d.verdict)
		if err != nil {
			return err
		}
		n.in = v.in
		if !v.in && (!de.IsDir() || !v.descend) {
			n.gone = true
			continue
		}
		if err := s.read(n, fd, de.Name()); absent(err) {
			n.gone = true
			continue
		} else if err != nil {
			return fmt.Errorf("%s: %w", n.Path, err)
		}
		if n.Mode.IsDir() && v.descend {
			n.dir = &hostDir{node: n, verdict: v}
		}
	}
	return nil
}

func (s *scan) read(n *hostNode, fd int, name string) error {
	st, err := fstatat(fd, name)
	if err != nil {
		return err
	}
	n.fill(&st)
	if !s.opt.KeepOwner {
		n.UID, n.GID = 0, 0
	}
	switch {
	case n.Mode&fs.ModeSymlink != 0:
		if n.Linkname, err = readlinkat(fd, name); err != nil {
			return err
		}
	case n.Mode&fs.ModeSocket != 0:
		n.Mode &^= fs.ModeSocket
	case n.Mode.IsRegular():
		n.file = File{root: s.root, path: n.Path, id: fileID(&st)}
		n.Content = &n.file
	}
	attrs, _, err := s.root.attrs.read(fd, n.Path, name)
	for k := range attrs {
		if strings.HasPrefix(k, "com.apple.") {
			delete(attrs, k)
		}
	}
	if len(attrs) > 0 {
		n.Xattrs = attrs
	}
	return err
}

// collect makes the listings below d of what is in, and says whether there is
// anything: a directory is in when something below it is.
func (t *HostTree) collect(d *hostDir) bool {
	list := make([]*Entry, 0, len(d.nodes))
	for i := range d.nodes {
		n := &d.nodes[i]
		if n.gone {
			continue
		}
		if n.dir != nil && t.collect(n.dir) {
			n.in = true
		}
		if !n.in || n.gone {
			continue
		}
		list = append(list, &n.Entry)
		t.files++
		t.bytes += n.Size
	}
	if len(list) == 0 {
		return false
	}
	t.dirs[d.node.Path] = slices.Clip(list)
	return true
}

// IsContext implements Context.
func (t *HostTree) IsContext() bool { return true }

// Len returns the number of entries and the sum of their sizes in bytes.
func (t *HostTree) Len() (entries int, bytes int64) { return t.files, t.bytes }

// Lookup implements Diff.
func (t *HostTree) Lookup(path string) (*Entry, error) {
	if path == "" {
		return t.root, nil
	}
	return search(t.dirs[parentOf(path)], path)
}

// ReadDir implements Diff.
func (t *HostTree) ReadDir(dir string) ([]*Entry, error) { return t.dirs[dir], nil }

// search finds path in a listing of its directory.
func search(list []*Entry, path string) (*Entry, error) {
	i, ok := slices.BinarySearchFunc(list, path, func(e *Entry, p string) int { return cmp.Compare(e.Path, p) })
	if !ok {
		return nil, fs.ErrNotExist
	}
	return list[i], nil
}
