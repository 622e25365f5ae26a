package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/containerd/platforms"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/scope"
)

// scopeOf returns what a build is, as scope=auto sees it.
func scopeOf(o buildOptions) scope.Build {
	b := scope.Build{Target: o.target}
	if len(o.platforms) > 0 {
		b.Platforms = o.platforms
	} else {
		b.Platforms = []string{platforms.Format(platforms.Normalize(platforms.DefaultSpec()))}
	}
	// Paths of the checkout: a job has it somewhere else than the next.
	if o.context != "" && o.context != "-" && filepath.IsLocal(o.context) {
		b.Context = filepath.ToSlash(filepath.Clean(o.context))
		if b.Context == "." {
			b.Context = ""
		}
	}
	switch {
	case o.file == "" || o.file == "-":
		b.Dockerfile = filepath.ToSlash(filepath.Join(b.Context, "Dockerfile"))
	case filepath.IsLocal(o.file):
		b.Dockerfile = filepath.ToSlash(filepath.Clean(o.file))
	default:
		b.Dockerfile = filepath.Base(o.file)
	}
	return b
}

// scoped reads scope=auto, which names the refs of s after the build and the
// branch; prefix stands before them. Without it s has the refs that the user
// gave, which a job that is not trusted reads but does not write.
func (c *cacheOpener) scoped(a *attrs, s *store, prefix string) error {
	if isAuto, err := autoScope(a); err != nil || !isAuto {
		if !a.boolean("allow-untrusted", false) && !s.private {
			c.denyUntrusted(s)
		}
		return err
	}
	a.boolean("allow-untrusted", false) // the scope is the job's own
	refs := scope.Of(c.job, c.build, scope.Options{Repository: c.job.Repository != ""})
	s.ref, s.refs = prefix+refs.Write, nil
	for _, r := range refs.Read {
		s.refs = append(s.refs, prefix+r)
	}
	s.name += " " + s.ref
	if err := remotecache.CheckRef(s.ref); err != nil {
		return fmt.Errorf("scope=auto: %w", err)
	}
	return nil
}

// autoScope reads the attribute scope of backends that take only auto.
func autoScope(a *attrs) (bool, error) {
	switch v := a.str("scope", ""); v {
	case "":
		return false, nil
	case "auto":
		return true, nil
	default:
		return false, fmt.Errorf("scope=%s is not auto", v)
	}
}

// denyUntrusted makes s read-only for a job that builds what strangers wrote.
func (c *cacheOpener) denyUntrusted(s *store) {
	if c.job.Trusted || s.denied != nil {
		return
	}
	err := fmt.Errorf("this job is not trusted (%s), and others rely on the cache: %w", c.job.Why, remotecache.ErrReadOnly)
	s.denied = hint.With(err, "give the job a cache of its own with scope=auto, or say allow-untrusted=true")
}

// named makes s one that saves under several names and reads the first.
func named(s *store, refs []string) error {
	for _, r := range refs {
		if err := remotecache.CheckRef(r); err != nil {
			return err
		}
	}
	if len(refs) == 0 {
		return errors.New("name is empty")
	}
	s.ref, s.refs = refs[0], refs[:1]
	if len(refs) > 1 {
		s.backend = aliased{s.backend, refs[1:]}
	}
	return nil
}
