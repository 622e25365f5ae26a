package fsdiff

import (
	"cmp"
	"io/fs"
	"path"
	"slices"
	"sync"
)

// A Mem is a Diff made of entries in memory. It is filled by one goroutine and
// then no longer changed; from the first read on any number may read it.
type Mem struct {
	entries map[string]*Entry

	once sync.Once
	dirs map[string][]*Entry
}

// NewMem returns a Diff that changes nothing.
func NewMem() *Mem { return &Mem{entries: map[string]*Entry{}} }

// Add puts e at e.Path, in the place of what Add or Whiteout put there before.
// The directories above it are added by the caller too, in any order: without
// them the entry is not seen in a View.
func (m *Mem) Add(e Entry) { m.entries[e.Path] = &e }

// AddShared is Add for an entry that another Diff holds too.
func (m *Mem) AddShared(e *Entry) { m.entries[e.Path] = e }

// Whiteout says that path of the lower layers is gone.
func (m *Mem) Whiteout(path string) { m.entries[path] = &Entry{Path: path, Whiteout: true} }

// Len returns the number of entries, whiteouts included.
func (m *Mem) Len() int { return len(m.entries) }

// Lookup implements Diff.
func (m *Mem) Lookup(path string) (*Entry, error) {
	if e := m.entries[path]; e != nil {
		return e, nil
	}
	return nil, fs.ErrNotExist
}

// ReadDir implements Diff.
func (m *Mem) ReadDir(dir string) ([]*Entry, error) {
	m.once.Do(m.index)
	return m.dirs[dir], nil
}

func (m *Mem) index() {
	m.dirs = map[string][]*Entry{}
	for p, e := range m.entries {
		if p == "" {
			continue
		}
		d := parentOf(p)
		m.dirs[d] = append(m.dirs[d], e)
	}
	for _, list := range m.dirs {
		slices.SortFunc(list, func(a, b *Entry) int { return cmp.Compare(a.Path, b.Path) })
	}
}

// parentOf returns the path of the directory that holds p, "" for the root.
func parentOf(p string) string {
	if d := path.Dir(p); d != "." {
		return d
	}
	return ""
}
