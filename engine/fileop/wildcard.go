package fileop

import (
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

// A lister is a root file system that patterns can be matched in: a View or a
// tree.
type lister interface {
	Lookup(path string) (*fsdiff.Entry, error)
	ReadDir(dir string) ([]*fsdiff.Entry, error)
	Resolve(path string, followLast bool) (string, error)
}

// cleanKeepSlash cleans p but keeps a slash or "/." at its end, which say that
// a destination is a directory.
func cleanKeepSlash(p string) string {
	c := path.Join("/", p)
	switch {
	case strings.HasSuffix(p, "/.") && c == "/":
		return "/."
	case strings.HasSuffix(p, "/."):
		return c + "/."
	case strings.HasSuffix(p, "/") && c != "/":
		return c + "/"
	}
	return c
}

// resolveWildcards returns the paths that match p, in the order of a walk;
// what is below a match is not looked at. Without a wildcard that is p, be it
// there or not. Links are followed before the first component with a wildcard,
// the last of them only if followLinks is set.
func resolveWildcards(l lister, p string, followLinks bool) ([]string, error) {
	parts := strings.Split(path.Clean("/"+p), "/")[1:]
	i := slices.IndexFunc(parts, hasWildcard)
	if i < 0 {
		return []string{path.Clean("/" + p)}, nil
	}
	plain, pattern := strings.Join(parts[:i], "/"), strings.Join(parts[i:], "/")
	base, err := l.Resolve(plain, followLinks)
	if err != nil {
		return nil, err
	}
	top, err := l.Lookup(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFound(plain)
	}
	if err != nil {
		return nil, err
	}
	m := &matcher{l: l, base: base, pattern: pattern}
	if top.IsDir() {
		err = m.dir(base)
	}
	return m.found, err
}

func hasWildcard(name string) bool {
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}

type matcher struct {
	l             lister
	base, pattern string
	found         []string
}

func (m *matcher) dir(p string) error {
	list, err := m.l.ReadDir(p)
	if err != nil {
		return err
	}
	for _, e := range list {
		rel := strings.TrimPrefix(strings.TrimPrefix(e.Path, m.base), "/")
		if ok, _ := filepath.Match(m.pattern, rel); ok { // a bad pattern matches nothing
			m.found = append(m.found, e.Path)
			continue
		}
		// Only a class can match a slash, so that no more components match
		// than the pattern has.
		deeper := strings.Count(rel, "/") < strings.Count(m.pattern, "/") || strings.Contains(m.pattern, "[")
		if e.IsDir() && deeper {
			if err := m.dir(e.Path); err != nil {
				return err
			}
		}
	}
	return nil
}
