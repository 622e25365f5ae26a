package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/action"
	"github.com/mayfly-build/mayfly/ci"
	"github.com/mayfly-build/mayfly/engine/source/git"
	"github.com/mayfly-build/mayfly/internal/hint"
)

// dockerfileLabel is docker's label for the Dockerfile's path in the
// repository.
const dockerfileLabel = "com.docker.image.source.entrypoint"

// sourceLabels adds labels that tell where the image comes from: those of the
// CI job where --ci-labels asks for them, those of the work tree where
// BUILDX_GIT_LABELS does. The job's come first, and --label before both.
func sourceLabels(ctx context.Context, w world, o buildOptions, opts map[string]string) error {
	var labels []ci.Label
	if o.ciLabels {
		job := ci.Detect(w.env, os.ReadFile)
		if job.Provider == ci.None {
			return hint.With(usagef("--ci-labels: this is no CI job that mayfly knows"), "give labels with --label outside of CI")
		}
		labels = job.Labels()
	}
	fromGit, err := gitLabels(ctx, w, o)
	if err != nil {
		return err
	}
	for _, l := range append(labels, fromGit...) {
		if _, ok := opts["label:"+l.Key]; !ok {
			opts["label:"+l.Key] = l.Value
		}
	}
	return nil
}

// gitLabels are docker buildx's: the commit and the Dockerfile's path with
// BUILDX_GIT_LABELS=1, and the remote's URL with full. A context that is no
// work tree has none.
func gitLabels(ctx context.Context, w world, o buildOptions) ([]ci.Label, error) {
	v := w.env("BUILDX_GIT_LABELS")
	full := v == "full"
	if on, err := strconv.ParseBool(v); !full {
		if v != "" && err != nil {
			return nil, usagef("BUILDX_GIT_LABELS: %q is none of full, true, false", v)
		}
		if !on {
			return nil, nil
		}
	}
	if o.context == "-" || isURL(o.context) {
		return nil, nil
	}
	t := newWorkTree(w, o.context)
	root, err := t.git(ctx, "rev-parse", "--show-toplevel")
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, hint.With(fmt.Errorf("BUILDX_GIT_LABELS: %w", err), "install git, or unset BUILDX_GIT_LABELS")
	case err != nil || root == "":
		if _, err := os.Stat(filepath.Join(o.context, ".git")); err == nil {
			return nil, hint.With(fmt.Errorf("BUILDX_GIT_LABELS: git does not take %s for a work tree", o.context),
				"its owner may be another user: `git config --global --add safe.directory` with its path, or unset BUILDX_GIT_LABELS")
		}
		return nil, nil
	}
	var labels []ci.Label
	if sha, err := t.git(ctx, "rev-parse", "HEAD"); err == nil {
		if dirty, _ := strconv.ParseBool(w.env("BUILDX_GIT_CHECK_DIRTY")); dirty && t.isDirty(ctx) {
			sha += "-dirty"
		}
		labels = append(labels, ci.Label{Key: ocispec.AnnotationRevision, Value: sha})
	}
	if file, ok := below(root, dockerfileOf(o)); ok {
		labels = append(labels, ci.Label{Key: dockerfileLabel, Value: file})
	}
	if full {
		if remote := t.remote(ctx); remote != "" {
			labels = append(labels, ci.Label{Key: ocispec.AnnotationSource, Value: remote})
		}
	}
	return labels, nil
}

// A workTree is a directory that git may know.
type workTree struct {
	dir string
	env []string
}

// newWorkTree returns the work tree that git runs in, with the configuration
// that says which directories it trusts.
func newWorkTree(w world, dir string) workTree {
	t := workTree{dir: dir, env: git.Environ(w.getenv)}
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_COUNT", "GIT_CONFIG_KEY_0", "GIT_CONFIG_VALUE_0"} {
		if v, ok := w.getenv(name); ok {
			t.env = append(t.env, name+"="+v)
		}
	}
	return t
}

func (t workTree) git(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", t.dir}, args...)...)
	cmd.Env = t.env
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// remote returns the URL that the work tree was cloned from, without user and
// password: an image is for everybody.
func (t workTree) remote(ctx context.Context) string {
	for _, name := range []string{"origin", "upstream"} {
		if url, err := t.git(ctx, "remote", "get-url", name); err == nil && url != "" {
			return strings.Replace(action.WithoutUser(url), "***@", "", 1)
		}
	}
	return ""
}

func (t workTree) isDirty(ctx context.Context) bool {
	out, err := t.git(ctx, "status", "--porcelain", "--ignored=no")
	return err != nil || out != ""
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
