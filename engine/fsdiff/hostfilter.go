package fsdiff

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/tonistiigi/fsutil"
)

// A filter decides which paths of a host tree belong to the Diff: those that
// an include pattern matches, if there are any, and no exclude pattern does.
// A pattern that matches a directory matches what is below it; later patterns
// win; "!" turns one round. It serves one goroutine.
type filter struct {
	include, exclude *patternmatcher.PatternMatcher // nil: no patterns

	// The plain beginnings of the patterns that can bring something in below
	// a directory that is out itself; nil, with the bool set, when there is a
	// pattern whose beginning is not plain, so that all has to be walked.
	within       []string
	withinAll    bool
	exceptions   []string
	exceptionAll bool
}

// A verdict is what the filter says of one path, and of what is below it.
type verdict struct {
	in      bool
	descend bool // for a directory: something below may be in
	inc     patternmatcher.MatchInfo
	exc     patternmatcher.MatchInfo
}

// includes returns the include patterns, with the symbolic links on the way
// to FollowPaths and their targets among them.
func (o *HostOptions) includes(root string) ([]string, error) {
	if len(o.FollowPaths) == 0 {
		return o.Include, nil
	}
	tree, err := fsutil.NewFS(root)
	if err != nil {
		return nil, err
	}
	targets, err := fsutil.FollowLinks(tree, o.FollowPaths)
	if err != nil {
		return nil, fmt.Errorf("follow links: %w", err)
	}
	if targets == nil { // one of them is the root
		return o.Include, nil
	}
	return dropNested(append(slices.Clone(o.Include), targets...)), nil
}

// dropNested leaves out a path that the one kept before it contains, and
// returns nil, which is no filter, when one is the root. An absolute path in
// the first place is left out too, as it is by BuildKit.
func dropNested(paths []string) []string {
	var kept []string
	last := ""
	for _, p := range paths {
		if p == "." {
			return nil
		}
		if strings.HasPrefix(p, last+"/") {
			continue
		}
		kept = append(kept, p)
		last = p
	}
	return kept
}

func newFilter(include, exclude []string) (*filter, error) {
	f := &filter{}
	var err error
	if len(include) > 0 {
		if f.include, err = patternmatcher.New(include); err != nil {
			return nil, fmt.Errorf("include patterns %q: %w", include, err)
		}
		f.within, f.withinAll = plainStarts(f.include, false)
	}
	if len(exclude) > 0 {
		if f.exclude, err = patternmatcher.New(exclude); err != nil {
			return nil, fmt.Errorf("exclude patterns %q: %w", exclude, err)
		}
		f.exceptions, f.exceptionAll = plainStarts(f.exclude, true)
	}
	return f, nil
}

func plainStarts(m *patternmatcher.PatternMatcher, exclusion bool) (starts []string, all bool) {
	for _, p := range m.Patterns() {
		if p.Exclusion() != exclusion {
			continue
		}
		s := strings.TrimSuffix(strings.TrimSuffix(p.String(), "/**"), "/*")
		if strings.ContainsAny(s, `*[]?^\`) {
			return nil, true
		}
		starts = append(starts, s+"/")
	}
	return starts, false
}

// judge tells about path, whose parent directory got the verdict up.
func (f *filter) judge(path string, isDir bool, up verdict) (verdict, error) {
	v := verdict{in: true, descend: true}
	if f.include != nil {
		m, info, err := f.include.MatchesUsingParentResults(path, up.inc)
		if err != nil {
			return v, fmt.Errorf("match include patterns: %w", err)
		}
		v.inc = info
		if !m {
			v.in = false
			if isDir && !f.withinAll && !leadsTo(f.within, path) {
				v.descend = false
				return v, nil
			}
		}
	}
	if f.exclude != nil {
		m, info, err := f.exclude.MatchesUsingParentResults(path, up.exc)
		if err != nil {
			return v, fmt.Errorf("match exclude patterns: %w", err)
		}
		v.exc = info
		if m {
			v.in = false
			if isDir && !f.exceptionAll && !leadsTo(f.exceptions, path) {
				v.descend = false
			}
		}
	}
	return v, nil
}

func leadsTo(starts []string, dir string) bool {
	return slices.ContainsFunc(starts, func(s string) bool { return strings.HasPrefix(s, dir+"/") })
}
