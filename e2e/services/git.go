package services

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Git serves the bare repositories of a directory.
type Git struct {
	URL string // of the directory: URL + "/name.git" is a repository

	stop func() error
}

// Close stops the server.
func (g *Git) Close() error { return g.stop() }

// StartGitDaemon serves the repositories below dir with the git protocol.
func StartGitDaemon(dir string) (*Git, error) {
	bin, err := Tool("git")
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, fmt.Errorf("find a port for git daemon: %w", err)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(bin, "daemon", "--export-all", "--reuseaddr", "--listen="+host, "--port="+port, "--base-path="+dir, dir)
	p, err := start(cmd, func() bool {
		c, err := net.Dial("tcp", addr)
		return err == nil && c.Close() == nil
	})
	if err != nil {
		return nil, err
	}
	return &Git{URL: "git://" + addr, stop: p.stop}, nil
}

// StartGitHTTP serves the repositories below dir with git http-backend. When
// token is set, every request needs it as the password of basic auth.
func StartGitHTTP(ctx context.Context, dir, token string) (*Git, error) {
	bin, err := Tool("git")
	if err != nil {
		return nil, err
	}
	libexec, err := run(ctx, bin, "--exec-path")
	if err != nil {
		return nil, err
	}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(libexec)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pw, ok := r.BasicAuth(); token != "" && (!ok || pw != token) {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "authentication required", http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	return &Git{URL: s.URL, stop: func() error { s.Close(); return nil }}, nil
}

// GitRepo makes the bare repository bare from the files of the directory tree:
// one commit on branch main, tagged v1. The commit is the same for the same
// files. It returns the commit's hash.
func GitRepo(ctx context.Context, tree, bare string) (string, error) {
	bin, err := Tool("git")
	if err != nil {
		return "", err
	}
	work, err := os.MkdirTemp("", "mayfly-git-")
	if err != nil {
		return "", fmt.Errorf("make a git directory: %w", err)
	}
	const who = "mayfly"
	const when = "2026-01-01T00:00:00Z"
	gitDir := filepath.Join(work, ".git")
	var out []byte
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"},
		{"add", "-A", "-f"},
		{"commit", "-q", "--allow-empty", "-m", "files"},
		{"tag", "v1"},
		{"clone", "-q", "--bare", gitDir, bare},
		{"rev-parse", "HEAD"},
	} {
		cmd := exec.CommandContext(ctx, bin, args...)
		cmd.Dir = tree
		if args[0] != "clone" {
			cmd.Env = append(cmd.Env, "GIT_DIR="+gitDir, "GIT_WORK_TREE="+tree)
		}
		cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"), "HOME="+work, "GIT_CONFIG_NOSYSTEM=1",
			"GIT_AUTHOR_NAME="+who, "GIT_AUTHOR_EMAIL="+who+"@localhost", "GIT_AUTHOR_DATE="+when,
			"GIT_COMMITTER_NAME="+who, "GIT_COMMITTER_EMAIL="+who+"@localhost", "GIT_COMMITTER_DATE="+when)
		var msg strings.Builder
		cmd.Stderr = &msg
		if out, err = cmd.Output(); err != nil {
			return "", errors.Join(fmt.Errorf("git %s: %w: %s", args[0], err, msg.String()), os.RemoveAll(work))
		}
	}
	return strings.TrimSpace(string(out)), os.RemoveAll(work)
}
