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
	if err = c.from(ctx, st); err == nil || ctx.Err() != nil || !st.broken(err) {
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
	if err := st.init(ctx, r, len(p.Commit) == 64); err != nil {
		return err
	}
	return c.from(ctx, st)
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
	gitDir := c.store + ".work" // one at a time: the store is locked
	if err := os.RemoveAll(gitDir); err != nil {
		return err
	}
	defer os.RemoveAll(gitDir)
	if err := c.borrow(gitDir); err != nil {
		return err
	}
	r := c.r.with(gitDir, work)
	if _, err := r.run(ctx, "checkout", "--quiet", "--force", "--detach", c.p.Commit+"^{commit}"); err != nil {
		return err
	}
	if err := c.submodules(ctx, r, work); err != nil {
		return err
	}
	if err := dropGitLinks(work); err != nil {
		return err
	}
	if c.id.Subdir == "" {
		return nil
	}
	return hoist(c.dir, work, c.id.Subdir)
}

// borrow makes a git dir out of the store's objects: the few files git wants
// to see, as `git init` would make them. Submodules with relative URLs are
// relative to its origin.
func (c checkout) borrow(gitDir string) error {
	config := "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
	if len(c.p.Commit) == 64 {
		config = "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectformat = sha256\n"
	}
	config += "[remote \"origin\"]\n\turl = " + quote(cleanRemote(c.id.Remote)) + "\n"
	for _, d := range []string{"objects/info", "refs"} {
		if err := os.MkdirAll(filepath.Join(gitDir, d), 0o700); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"HEAD":                    "ref: refs/heads/master\n",
		"config":                  config,
		"objects/info/alternates": filepath.Join(c.store, "objects") + "\n",
	} {
		if err := os.WriteFile(filepath.Join(gitDir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// quote makes a value of a git configuration file.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(s) + `"`
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

// dropGitLinks removes the .git of each submodule: it points into the git dir
// that goes away. Nothing else of that name comes out of git.
func dropGitLinks(work string) error {
	if _, err := os.Lstat(filepath.Join(work, ".gitmodules")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return filepath.WalkDir(work, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == ".git" && d.Type().IsRegular() {
			err = os.Remove(p)
		}
		return err
	})
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
	fetch := []string{"fetch", "--quiet", "-u", "--depth=1", "--no-tags", "--", "origin"}
	for _, to := range c.localRefs(kind == "tag") {
		fetch = append(fetch, keepRef(c.p.Commit)+to)
	}
	// A file URL, not a path: a path would link the store's own files.
	for _, args := range [][]string{
		{"remote", "add", "origin", "file://" + c.store},
		fetch,
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

// localRefs returns where the clone puts its commit, as ends of refspecs. They
// are those of BuildKit's clones, in which a branch is a tag as well.
func (c checkout) localRefs(isTag bool) []string {
	ref := c.id.Ref
	if ref == "" {
		ref = strings.TrimPrefix(c.p.Ref, "refs/heads/")
	}
	switch {
	case isTag:
		return []string{":refs/tags/" + strings.TrimPrefix(ref, "refs/tags/")}
	case c.id.FetchByCommit && !isCommit(c.p.Ref):
		return []string{":" + c.p.Ref}
	case isCommit(ref):
		return []string{""}
	case strings.HasPrefix(ref, "refs/"):
		return []string{":" + ref}
	}
	return []string{":refs/heads/" + ref, ":refs/tags/" + ref}
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
