package main

import (
	"context"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mayfly-build/mayfly/action"
	"github.com/mayfly-build/mayfly/engine/source/git"
)

// A workTree is a directory that git may know.
type workTree struct {
	dir  string
	env  []string
	root string // of the repository, once it is located
	head string // its commit; "" when there is none yet
}

// newWorkTree returns the work tree that a directory may be in. Git runs with
// the configuration that says which directories it trusts.
func newWorkTree(w world, dir string) *workTree {
	t := &workTree{dir: dir, env: git.Environ(w.getenv)}
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_COUNT", "GIT_CONFIG_KEY_0", "GIT_CONFIG_VALUE_0"} {
		if v, ok := w.getenv(name); ok {
			t.env = append(t.env, name+"="+v)
		}
	}
	return t
}

// locate asks git for root and head. The error wraps exec.ErrNotFound where
// there is no git.
func (t *workTree) locate(ctx context.Context) error {
	out, err := t.git(ctx, "rev-parse", "--show-toplevel", "HEAD")
	root, head, _ := strings.Cut(out, "\n")
	if root == "" {
		return err
	}
	t.root = root
	if err == nil {
		t.head = head
	}
	return nil
}

func (t *workTree) git(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", t.dir}, args...)...)
	cmd.Env = t.env
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// revision returns the commit, "" when there is none. With
// BUILDX_GIT_CHECK_DIRTY it ends in -dirty when files have changed.
func (t *workTree) revision(ctx context.Context, w world) string {
	if check, _ := strconv.ParseBool(w.env("BUILDX_GIT_CHECK_DIRTY")); t.head == "" || !check {
		return t.head
	}
	if out, err := t.git(ctx, "status", "--porcelain"); err != nil || out != "" {
		return t.head + "-dirty"
	}
	return t.head
}

// remote returns the URL that the work tree was cloned from, without user and
// password: images and attestations are for everybody.
func (t *workTree) remote(ctx context.Context) string {
	for _, name := range []string{"origin", "upstream"} {
		if url, err := t.git(ctx, "remote", "get-url", name); err == nil && url != "" {
			return strings.Replace(action.WithoutUser(url), "***@", "", 1)
		}
	}
	return ""
}

// dockerfileOf returns the path of the Dockerfile, "" when it is no file here.
func dockerfileOf(o buildOptions) string {
	switch {
	case o.file == "-", o.context == "-", isURL(o.context):
		return ""
	case o.file != "":
		return o.file
	}
	return filepath.Join(o.context, "Dockerfile")
}

// below returns the path of a file in a directory, with slashes; false when it
// is not there.
func below(dir, file string) (string, bool) {
	if dir == "" || file == "" {
		return "", false
	}
	dir, err := resolved(dir)
	if err != nil {
		return "", false
	}
	if file, err = resolved(file); err != nil {
		return "", false
	}
	rel, err := filepath.Rel(dir, file)
	if err != nil || !filepath.IsLocal(rel) {
		return "", false
	}
	return filepath.ToSlash(rel), true
}

// resolved returns an absolute path without links in its directories: git
// tells such paths.
func resolved(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}
