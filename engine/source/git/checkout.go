package git

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Checkout fills dir, which is there and empty, with the tree p pins. With
// KeepGitDir there is a .git in it, as a shallow clone of the commit.
func (s *Source) Checkout(ctx context.Context, id Identifier, p Pinned, dir string) error {
	err := s.checkout(ctx, id, p, dir)
	if err != nil {
		return explain(fmt.Errorf("check out %s: %w", id.Name(), err), err, id)
	}
	return nil
}

func (s *Source) checkout(ctx context.Context, id Identifier, p Pinned, dir string) error {
	r, done, err := s.runner(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	st, err := s.openStore(ctx, &r, id.Remote, len(p.Commit) == 64)
	if err != nil {
		return err
	}
	defer func() { st.close() }()
	c := checkout{s: s, r: r, id: id, p: p, store: st.dir, dir: dir}
	fetched := st.has(ctx, r, p.Commit)
	if err = c.from(ctx, st); err == nil || !fetched || ctx.Err() != nil || !isExit(err) {
		return err
	}
	// What an earlier build fetched may be broken: the machine may have gone
	// down with the bytes unwritten. Once more, from nothing.
	if err := st.drop(); err != nil {
		return err
	}
	if err := empty(dir); err != nil {
		return err
	}
	if err := st.init(ctx, r, cleanRemote(id.Remote), len(p.Commit) == 64); err != nil {
		return err
	}
	return c.from(ctx, st)
}

func isExit(err error) bool {
	_, ok := errors.AsType[*exitError](err)
	return ok
}

func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// A checkout makes one tree out of a store that is locked.
type checkout struct {
	s     *Source
	r     runner
	id    Identifier
	p     Pinned
	store string
	dir   string
}

func (c checkout) from(ctx context.Context, st *store) error {
	if err := st.fetch(ctx, c.r, c.id, c.p); err != nil {
		return err
	}
	if err := c.verify(ctx); err != nil {
		return err
	}
	if c.id.KeepGitDir && c.id.Subdir == "" {
		if err := c.clone(ctx); err != nil {
			return err
		}
	} else if err := c.tree(ctx); err != nil {
		return err
	}
	if !c.id.CommitMTime {
		return nil
	}
	out, err := c.r.with(c.store, "").line(ctx, "log", "-1", "--format=%ct", c.p.Commit+"^{commit}")
	if err != nil {
		return err
	}
	sec, err := strconv.ParseInt(out, 10, 64)
	if err != nil {
		return fmt.Errorf("read the commit's time: %w", err)
	}
	return setTimes(c.dir, time.Unix(sec, 0))
}

// verify checks the checksum against what was fetched: a tag object or the
// commit it points to.
func (c checkout) verify(ctx context.Context) error {
	if c.id.Checksum == "" || strings.HasPrefix(c.p.Commit, c.id.Checksum) {
		return nil
	}
	peeled, err := c.r.with(c.store, "").line(ctx, "rev-parse", c.p.Commit+"^{}")
	if err != nil {
		return err
	}
	if !strings.HasPrefix(peeled, c.id.Checksum) {
		return fmt.Errorf("%s is commit %s, not %s as its checksum says", c.p.Ref, peeled, c.id.Checksum)
	}
	return nil
}

// tree writes the files without a .git. The git dir that does it is a
// throwaway which borrows the store's objects, so that neither index nor
// submodules change the store.
func (c checkout) tree(ctx context.Context) error {
	work := c.dir
	if c.id.Subdir != "" {
		tmp, err := os.MkdirTemp(c.dir, "checkout")
		if err != nil {
			return err
		}
		work = tmp
	}
	gitDir, err := os.MkdirTemp(c.s.cfg.Dir, "checkout")
	if err != nil {
		return err
	}
	defer os.RemoveAll(gitDir)
	args := []string{"init", "--quiet", "--bare"}
	if len(c.p.Commit) == 64 {
		args = append(args, "--object-format=sha256")
	}
	if _, err := c.r.with("", "").run(ctx, append(args, gitDir)...); err != nil {
		return err
	}
	alternates := filepath.Join(gitDir, "objects", "info", "alternates")
	if err := os.WriteFile(alternates, []byte(filepath.Join(c.store, "objects")+"\n"), 0o600); err != nil {
		return err
	}
	// Submodules with relative URLs are relative to this.
	if _, err := c.r.with(gitDir, "").run(ctx, "config", "remote.origin.url", cleanRemote(c.id.Remote)); err != nil {
		return err
	}
	r := c.r.with(gitDir, work)
	if _, err := r.run(ctx, "checkout", "--quiet", "--force", "--detach", c.p.Commit+"^{commit}"); err != nil {
		return err
	}
	if err := c.submodules(ctx, r, work); err != nil {
		return err
	}
	if c.id.Subdir == "" {
		return nil
	}
	return hoist(c.dir, work, c.id.Subdir)
}

func (c checkout) submodules(ctx context.Context, r runner, work string) error {
	if c.id.SkipSubmodules {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(work, ".gitmodules")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	_, err := r.run(ctx, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
	return err
}

// hoist moves what is in the directory sub of work into dir, and removes the
// rest. A symbolic link on the way is an error: it may lead anywhere.
func hoist(dir, work, sub string) error {
	root, err := os.OpenRoot(work)
	if err != nil {
		return err
	}
	defer root.Close()
	p := ""
	for _, part := range strings.Split(filepath.Clean(sub), "/") {
		p = filepath.Join(p, part)
		fi, err := root.Lstat(p)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the repository has no directory %s", sub)
		}
		if err != nil {
			return fmt.Errorf("subdirectory %s: %w", sub, err)
		}
		if !fi.IsDir() {
			return fmt.Errorf("subdirectory %s: %s is not a directory", sub, p)
		}
	}
	entries, err := os.ReadDir(filepath.Join(work, p))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(work, p, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(work)
}

// clone makes dir a repository whose HEAD is the commit.
func (c checkout) clone(ctx context.Context) error {
	gitDir := filepath.Join(c.dir, ".git")
	r := c.r.with(gitDir, c.dir)
	args := []string{"init", "--quiet"}
	if len(c.p.Commit) == 64 {
		args = append(args, "--object-format=sha256")
	}
	if _, err := r.run(ctx, args...); err != nil {
		return err
	}
	kind, err := c.r.with(c.store, "").line(ctx, "cat-file", "-t", c.p.Commit)
	if err != nil {
		return err
	}
	spec := keepRef(c.p.Commit)
	if to := c.localRef(kind == "tag"); to != "" {
		spec += ":" + to
	}
	// A file URL, not a path: a path would link the store's own files.
	for _, args := range [][]string{
		{"remote", "add", "origin", "file://" + c.store},
		{"fetch", "--quiet", "-u", "--depth=1", "--", "origin", spec},
		{"checkout", "--quiet", "FETCH_HEAD"},
		{"remote", "set-url", "origin", redactURL(c.id.Remote)},
		{"reflog", "expire", "--all", "--expire=now"},
	} {
		if _, err := r.run(ctx, args...); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(gitDir, "FETCH_HEAD")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return c.submodules(ctx, r, c.dir)
}

// localRef is the ref the clone has for its commit, "" for none.
func (c checkout) localRef(isTag bool) string {
	ref := c.id.Ref
	if ref == "" {
		ref = strings.TrimPrefix(c.p.Ref, "refs/heads/")
	}
	switch {
	case isCommit(ref):
		return ""
	case c.id.FetchByCommit:
		return c.p.Ref
	case strings.HasPrefix(ref, "refs/") && !isTag:
		return ref
	}
	// BuildKit's clone has branches as tags, too.
	return "refs/tags/" + strings.TrimPrefix(ref, "refs/tags/")
}

// setTimes gives everything in dir, and dir, the modification time t.
func setTimes(dir string, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	var dirs []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			dirs = append(dirs, p)
			return nil
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return err
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, dirs[i], []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	return nil
}
