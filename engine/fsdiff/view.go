package fsdiff

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
)

// maxLinks is how many symbolic links a path may lead through; BuildKit's and
// Linux's path walks give up there as well.
const maxLinks = 255

// ErrTooManyLinks is returned for a path with a loop of symbolic links.
var ErrTooManyLinks = errors.New("too many symbolic links")

// A View is a stack of Diffs read as one root file system. Nothing is mounted
// and nothing is copied. All methods may be called from several goroutines at
// once. What it has looked up it remembers.
type View struct {
	parent *View
	diff   Diff

	mu   sync.RWMutex
	dirs map[string]*viewDir // nil: not a directory
}

// A viewDir is a directory of a View: the Diffs that have a part of it, the
// topmost first. Views of one chain share it until a Diff touches it.
type viewDir struct {
	owner  *View // the lowest View that has it
	entry  *Entry
	layers []Diff

	once sync.Once
	list []*Entry
	err  error
}

// NewView puts d on top of parent, which is nil for the empty root. The root
// directory of an empty View is 0755 and belongs to 0:0.
func NewView(parent *View, d Diff) *View {
	return &View{parent: parent, diff: d, dirs: map[string]*viewDir{}}
}

// Diffs returns what the View consists of, the lowest first.
func (v *View) Diffs() []Diff {
	var all []Diff
	for ; v != nil; v = v.parent {
		all = append(all, v.diff)
	}
	slices.Reverse(all)
	return all
}

// Parent returns the View below the topmost Diff; nil is the empty root.
func (v *View) Parent() *View { return v.parent }

// Lookup returns the entry at path, which is clean and relative, "" being the
// root. Symbolic links are not followed, also not those on the way. The error
// is fs.ErrNotExist when there is nothing. Equal calls return the same *Entry.
func (v *View) Lookup(path string) (*Entry, error) {
	if path == "" {
		d, err := v.dir("")
		if err != nil {
			return nil, err
		}
		if d == nil { // of the nil View
			return nil, fs.ErrNotExist
		}
		return d.entry, nil
	}
	d, err := v.dir(parentOf(path))
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, fs.ErrNotExist
	}
	e, err := d.find(path)
	if err != nil {
		return nil, err
	}
	if e.Opaque { // its entry in the View is another, kept with the directory
		d, err := v.dir(path)
		if err != nil {
			return nil, err
		}
		return d.entry, nil
	}
	return e, nil
}

func (d *viewDir) find(path string) (*Entry, error) {
	for _, l := range d.layers {
		e, err := l.Lookup(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if e.Whiteout {
			break
		}
		return e, nil
	}
	return nil, fs.ErrNotExist
}

// dir returns the directory at p, or nil when there is none.
func (v *View) dir(p string) (*viewDir, error) {
	if v == nil {
		return nil, nil
	}
	v.mu.RLock()
	d, ok := v.dirs[p]
	v.mu.RUnlock()
	if ok {
		return d, nil
	}
	d, err := v.makeDir(p)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if have, ok := v.dirs[p]; ok {
		return have, nil
	}
	v.dirs[p] = d
	return d, nil
}

func (v *View) makeDir(p string) (*viewDir, error) {
	through := true // the parent View's directory is to be seen
	if p != "" {
		up, err := v.dir(parentOf(p))
		if err != nil || up == nil {
			return nil, err
		}
		if up.owner != v { // this Diff has nothing hereabouts
			return v.parent.dir(p)
		}
		// One Diff alone: it is opaque there, or it is the first to have it.
		through = len(up.layers) > 1
	}
	e, err := v.diff.Lookup(p)
	switch {
	case errors.Is(err, fs.ErrNotExist) && p == "":
		e = nil
	case errors.Is(err, fs.ErrNotExist):
		if !through {
			return nil, nil
		}
		return v.parent.dir(p)
	case err != nil:
		return nil, err
	case !e.IsDir():
		return nil, nil
	}
	d := &viewDir{owner: v, entry: e, layers: []Diff{v.diff}}
	if through && (e == nil || !e.Opaque) {
		lower, err := v.parent.dir(p)
		if err != nil {
			return nil, err
		}
		if lower != nil {
			d.layers = append(d.layers, lower.layers...)
			d.entry = cmp.Or(d.entry, lower.entry)
		}
	}
	if d.entry == nil {
		d.entry = &Entry{Mode: fs.ModeDir | 0o755}
	}
	if d.entry.Opaque {
		clear := *d.entry
		clear.Opaque = false
		d.entry = &clear
	}
	return d, nil
}

// ReadDir returns the entries of the directory dir, sorted by name; none when
// dir is not a directory. The caller does not change the slice.
func (v *View) ReadDir(dir string) ([]*Entry, error) {
	d, err := v.dir(dir)
	if err != nil || d == nil {
		return nil, err
	}
	d.once.Do(func() { d.list, d.err = v.merge(d, dir) })
	return d.list, d.err
}

func (v *View) merge(d *viewDir, dir string) ([]*Entry, error) {
	if len(d.layers) == 1 {
		list, err := d.layers[0].ReadDir(dir)
		if err != nil || !slices.ContainsFunc(list, func(e *Entry) bool { return e.Whiteout || e.Opaque }) {
			return list, err
		}
	}
	seen := map[string]bool{}
	var merged []*Entry
	for _, l := range d.layers {
		list, err := l.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			if seen[e.Path] {
				continue
			}
			seen[e.Path] = true
			if e.Whiteout {
				continue
			}
			if e.Opaque {
				if e, err = v.Lookup(e.Path); err != nil {
					return nil, err
				}
			}
			merged = append(merged, e)
		}
	}
	slices.SortFunc(merged, func(a, b *Entry) int { return cmp.Compare(a.Path, b.Path) })
	return merged, nil
}

// Walk calls fn for the entry at dir and for everything below it, a directory
// before its contents, names of one directory in order. fn may return
// fs.SkipDir and fs.SkipAll as in fs.WalkDir.
func (v *View) Walk(dir string, fn func(*Entry) error) error {
	e, err := v.Lookup(dir)
	if err != nil {
		return fmt.Errorf("walk %q: %w", "/"+dir, err)
	}
	if err = v.walk(e, fn); errors.Is(err, fs.SkipAll) || errors.Is(err, fs.SkipDir) {
		return nil
	}
	return err
}

func (v *View) walk(e *Entry, fn func(*Entry) error) error {
	err := fn(e)
	if !e.IsDir() {
		return err
	}
	if errors.Is(err, fs.SkipDir) {
		return nil
	}
	if err != nil {
		return err
	}
	list, err := v.ReadDir(e.Path)
	if err != nil {
		return err
	}
	for _, c := range list {
		if err := v.walk(c, fn); errors.Is(err, fs.SkipDir) {
			return nil // of a file: the rest of its directory is skipped
		} else if err != nil {
			return err
		}
	}
	return nil
}

// Resolve follows the symbolic links of p as a process does whose root this
// is, and returns the clean relative path where p really is. The last
// component is followed only when followLast is set. Names that do not exist
// are kept, so that p may be a path yet to be made.
func (v *View) Resolve(p string, followLast bool) (string, error) {
	cur, rest, links := "", p, 0
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			cur = parentOf(cur)
			continue
		}
		next := join(cur, name)
		e, err := v.Lookup(next)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("resolve %q: %w", p, err)
		}
		last := strings.Trim(rest, "/") == ""
		if err != nil || !e.IsSymlink() || last && !followLast {
			cur = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("resolve %q: %w", p, ErrTooManyLinks)
		}
		if path.IsAbs(e.Linkname) {
			cur = ""
		}
		rest = e.Linkname + "/" + rest
	}
	return cur, nil
}

// Stat is Lookup of where Resolve leads.
func (v *View) Stat(p string) (*Entry, error) {
	r, err := v.Resolve(p, true)
	if err != nil {
		return nil, err
	}
	return v.Lookup(r)
}

// ReadFile returns the bytes of the regular file at p, links followed. It is
// an error when there are more than limit.
func (v *View) ReadFile(p string, limit int64) ([]byte, error) {
	b, err := v.readFile(p, limit)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", p, err)
	}
	return b, nil
}

func (v *View) readFile(p string, limit int64) (_ []byte, err error) {
	e, err := v.Stat(p)
	if err != nil {
		return nil, err
	}
	if !e.IsRegular() {
		return nil, fmt.Errorf("not a regular file: %v", e.Mode)
	}
	if e.Size > limit {
		return nil, fmt.Errorf("%d bytes, more than the %d allowed", e.Size, limit)
	}
	if e.Content == nil {
		return nil, nil
	}
	r, err := e.Content.Open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	b := make([]byte, e.Size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	return b, nil
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
