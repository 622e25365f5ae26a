package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/ci"
	"github.com/mayfly-build/mayfly/internal/hint"
)

// dockerfileLabel is docker's label for the Dockerfile's path in the
// repository.
const dockerfileLabel = "com.docker.image.source.entrypoint"

// sourceOptions adds what is known of where the image comes from: labels of the
// CI job where --ci-labels asks for them, and of the work tree that the context
// is in where BUILDX_GIT_LABELS does, after them and after --label; and, for
// provenance, the options vcs:* unless BUILDX_GIT_INFO=false.
func sourceOptions(ctx context.Context, w world, o buildOptions, opts map[string]string) error {
	var labels []ci.Label
	if o.ciLabels {
		job := ci.Detect(w.env, os.ReadFile)
		if job.Provider == ci.None {
			return hint.With(usagef("--ci-labels: this is no CI job that mayfly knows"), "give labels with --label outside of CI")
		}
		labels = job.Labels()
	}
	fromGit, err := gitOptions(ctx, w, o, opts)
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

// gitWants is what docker buildx's variables ask of git.
type gitWants struct {
	labels bool // the commit and the Dockerfile's path
	remote bool // and the remote's URL
	info   bool // all of it for provenance
}

func readGitWants(w world) (want gitWants, err error) {
	switch v := w.env("BUILDX_GIT_LABELS"); v {
	case "":
	case "full":
		want.labels, want.remote = true, true
	default:
		if want.labels, err = strconv.ParseBool(v); err != nil {
			return want, usagef("BUILDX_GIT_LABELS: %q is none of full, true, false", v)
		}
	}
	want.info = true
	if v := w.env("BUILDX_GIT_INFO"); v != "" {
		if want.info, err = strconv.ParseBool(v); err != nil {
			return want, usagef("BUILDX_GIT_INFO: %q is not true or false", v)
		}
	}
	return want, nil
}

// gitOptions asks git, sets the options vcs:* and returns labels. A context
// that is in no work tree has none.
func gitOptions(ctx context.Context, w world, o buildOptions, opts map[string]string) ([]ci.Label, error) {
	want, err := readGitWants(w)
	if err != nil || !want.labels && !want.info || o.context == "-" || isURL(o.context) {
		return nil, err
	}
	t := newWorkTree(w, o.context)
	if err := t.locate(ctx); t.root == "" {
		if want.labels {
			return nil, noWorkTree(o.context, err)
		}
		return nil, nil
	}
	revision, remote := t.revision(ctx, w), ""
	if want.info || want.remote {
		remote = t.remote(ctx)
	}
	if want.info {
		vcsOptions(t, o, revision, remote, opts)
	}
	var labels []ci.Label
	add := func(wanted bool, key, value string) {
		if wanted && value != "" {
			labels = append(labels, ci.Label{Key: key, Value: value})
		}
	}
	file, _ := below(t.root, dockerfileOf(o))
	add(want.labels, ocispec.AnnotationRevision, revision)
	add(want.labels, dockerfileLabel, file)
	add(want.remote, ocispec.AnnotationSource, remote)
	return labels, nil
}

// vcsOptions sets the options of which BuildKit's provenance has vcs.
func vcsOptions(t *workTree, o buildOptions, revision, remote string, opts map[string]string) {
	set := func(key, value string) {
		if value != "" {
			opts["vcs:"+key] = value
		}
	}
	set("revision", revision)
	set("source", remote)
	dir, _ := below(t.root, o.context)
	set("localdir:context", dir)
	if file := dockerfileOf(o); file != "" {
		dir, _ = below(t.root, filepath.Dir(file))
		set("localdir:dockerfile", dir)
	}
}

// noWorkTree returns why there are no labels of git, nil when a context is just
// a directory.
func noWorkTree(dir string, err error) error {
	if errors.Is(err, exec.ErrNotFound) {
		return hint.With(fmt.Errorf("BUILDX_GIT_LABELS: %w", err), "install git, or unset BUILDX_GIT_LABELS")
	}
	if _, err := os.Stat(filepath.Join(dir, ".git")); err != nil {
		return nil
	}
	return hint.With(fmt.Errorf("BUILDX_GIT_LABELS: git does not take %s for a work tree", dir),
		"its owner may be another user: `git config --global --add safe.directory` with its path, or unset BUILDX_GIT_LABELS")
}
