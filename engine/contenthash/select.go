package contenthash

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/moby/patternmatcher"
	"github.com/opencontainers/go-digest"
)

// A selection is what a Selector with a wildcard or patterns picks.
type selection struct {
	prefix string // of the paths; it does not count in the digest
	paths  []*selected
}

type selected struct {
	path    string // as the selector names it: with links of its prefix unresolved
	entry   *fsdiff.Entry
	follow  bool // a symbolic link counts as its target
	in      bool
	include patternmatcher.MatchInfo
	exclude patternmatcher.MatchInfo
}

// A selector walks a tree in the order of BuildKit's radix tree, which is that
// of a depth-first walk by name, and collects.
type selector struct {
	*Selector
	v        *fsdiff.View
	pattern  string // Path, "" for the root
	resolved string // where the walk starts
	asNamed  string // how the selector names it
	include  *patternmatcher.PatternMatcher
	exclude  *patternmatcher.PatternMatcher

	out     *selection
	parents []*selected // directories around the current path
	matched string      // what the wildcard matched last
}

func selectPaths(v *fsdiff.View, p string, sel *Selector) (*selection, error) {
	s := &selector{Selector: sel, v: v, pattern: p, out: &selection{}}
	var err error
	if len(sel.IncludePatterns) > 0 {
		if s.include, err = patternmatcher.New(sel.IncludePatterns); err != nil {
			return nil, fmt.Errorf("include patterns %q: %w", sel.IncludePatterns, err)
		}
	}
	if len(sel.ExcludePatterns) > 0 {
		if s.exclude, err = patternmatcher.New(sel.ExcludePatterns); err != nil {
			return nil, fmt.Errorf("exclude patterns %q: %w", sel.ExcludePatterns, err)
		}
	}
	if p == "/" {
		s.pattern = ""
	}
	start, follow := s.pattern, false
	if sel.Wildcard {
		var rest string
		start, rest = splitWildcards(s.pattern)
		if start == "/" {
			start = ""
		}
		follow = rest != "" && start != ""
	}
	s.asNamed, s.out.prefix = start, start
	at, err := v.Resolve(start, follow)
	if err != nil {
		return nil, err
	}
	if at != "" {
		s.resolved = "/" + at
	}
	if e, err := v.Lookup(at); err == nil {
		if err := s.walk(e); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, required := range sel.RequiredPaths {
		if !slices.ContainsFunc(s.out.paths, func(f *selected) bool { return strings.HasPrefix(f.path, required) }) {
			return nil, notFound(required)
		}
	}
	return s.out, nil
}

// splitWildcards cuts p before the first component that has a wildcard.
func splitWildcards(p string) (plain, wild string) {
	parts := strings.Split(path.Clean("/"+p), "/")[1:]
	i := slices.IndexFunc(parts, hasWildcard)
	if i < 0 {
		return p, ""
	}
	return "/" + strings.Join(parts[:i], "/"), strings.Join(parts[i:], "/")
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

func (s *selector) walk(e *fsdiff.Entry) error {
	name := s.asNamed
	if e.Path != "" {
		name += ("/" + e.Path)[len(s.resolved):]
	}
	descend, err := s.visit(e, name)
	if err != nil || !descend || !e.IsDir() {
		return err
	}
	list, err := s.v.ReadDir(e.Path)
	if err != nil {
		return err
	}
	for _, c := range list {
		if err := s.walk(c); err != nil {
			return err
		}
	}
	return nil
}

// visit judges one entry and says whether anything below it can be selected.
func (s *selector) visit(e *fsdiff.Entry, name string) (descend bool, err error) {
	for len(s.parents) > 0 && !strings.HasPrefix(name+"/", s.parents[len(s.parents)-1].path+"/") {
		s.parents = s.parents[:len(s.parents)-1]
	}
	var parent *selected
	if len(s.parents) > 0 {
		parent = s.parents[len(s.parents)-1]
	}
	if s.pattern == "" && name == "" { // the root's own header never counts
		return true, nil
	}
	base := s.pattern
	if s.Wildcard {
		if s.pattern != "" && (s.matched == "" || !strings.HasPrefix(name, s.matched+"/")) {
			ok, err := path.Match(s.pattern, name)
			if err != nil {
				return false, fmt.Errorf("match %q: %w", s.pattern, err)
			}
			if !ok {
				return s.deeper(name), nil
			}
			s.matched = name
		}
		base = s.matched
	}
	f := &selected{path: name, entry: e, follow: parent == nil && s.FollowLinks}
	f.in, err = s.judge(strings.TrimSuffix(strings.TrimPrefix(name+"/", base+"/"), "/"), f, parent)
	if err != nil {
		return false, err
	}
	if f.in {
		for _, up := range s.parents {
			if !up.in {
				up.in = true
				s.out.paths = append(s.out.paths, up)
			}
		}
		s.out.paths = append(s.out.paths, f)
	}
	if e.IsDir() {
		s.parents = append(s.parents, f)
	}
	return true, nil
}

// deeper says whether the wildcard may match below name, which it does not
// match itself. Only a class as "[^a]" can match a slash.
func (s *selector) deeper(name string) bool {
	return strings.Contains(s.pattern, "[") || strings.Count(name, "/") < strings.Count(s.pattern, "/")
}

// judge applies the patterns to name, and leaves in f what the patterns said
// for the entries below it.
func (s *selector) judge(name string, f, parent *selected) (bool, error) {
	var up selected
	if parent != nil {
		up = *parent
	}
	if s.include != nil {
		ok, info, err := s.include.MatchesUsingParentResults(name, up.include)
		if err != nil {
			return false, fmt.Errorf("match include patterns: %w", err)
		}
		f.include = info
		if !ok {
			return false, nil
		}
	}
	if s.exclude != nil {
		out, info, err := s.exclude.MatchesUsingParentResults(name, up.exclude)
		if err != nil {
			return false, fmt.Errorf("match exclude patterns: %w", err)
		}
		f.exclude = info
		if out {
			return false, nil
		}
	}
	return true, nil
}

// selected returns the digests of what was selected, in order.
func (h *Hasher) selected(ctx context.Context, v *fsdiff.View, found *selection) ([]digest.Digest, error) {
	entries := make([]*fsdiff.Entry, len(found.paths))
	for i, f := range found.paths {
		entries[i] = f.entry
	}
	sums, err := h.digests(ctx, v, entries)
	if err != nil {
		return nil, err
	}
	for i, f := range found.paths {
		if f.follow && f.entry.IsSymlink() {
			if sums[i], err = h.tree(ctx, v, f.path, true); err != nil {
				return nil, err
			}
		}
	}
	return sums, nil
}
