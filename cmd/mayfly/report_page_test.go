package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/solver"
	"github.com/mayfly-build/mayfly/internal/hint"
)

func TestReporterPlace(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"": "", filepath.Join(dir, "new.html"): "", file: "",
		filepath.Join(dir, "no", "new.html"): "there is no directory",
		filepath.Join(file, "new.html"):      "not a directory",
		dir:                                  "is a directory",
	} {
		_, err := newReporter(worldOf(nil, ""), buildOptions{report: path})
		var usage usageError
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", path, err)
		case want != "" && (err == nil || !errors.As(err, &usage) || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "--report ")):
			t.Errorf("%s: %v is no usage error about %q", path, err, want)
		}
	}
}

// TestNoReporter: without --report nothing is watched.
func TestNoReporter(t *testing.T) {
	r, err := newReporter(worldOf(nil, ""), buildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var req engine.Request
	r.follow(&req)
	r.finish(t.Context(), nil, nil)
	if r.sinks() != nil || req.Secrets != nil || r.world(worldOf(nil, "")).keychain != nil {
		t.Error("a build without a report is watched")
	}
}

// TestReporterWrites writes the report of a build that failed, in a work tree
// of git.
func TestReporterWrites(t *testing.T) {
	dir := t.TempDir()
	commit := func() string {
		out, err := exec.Command("sh", "-c", "cd "+dir+` && git init -q && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && git rev-parse HEAD`).Output()
		if err != nil {
			t.Skip("needs git:", err)
		}
		return strings.TrimSpace(string(out))
	}()
	o := buildOptions{
		report: filepath.Join(dir, "build.html"), context: dir, progress: "plain", buildArgs: []string{"API_TOKEN=hidden-value"},
		cacheTo: []string{"type=s3,bucket=b,secret_access_key=hidden-key"},
	}
	r, err := newReporter(worldOf(map[string]string{"HOME": dir, "GITHUB_TOKEN": "hidden-token"}, ""), o)
	if err != nil {
		t.Fatal(err)
	}
	v := &llb.Vertex{Name: "[1/1] RUN x", Digest: digest.FromString("v"), Sources: []*llb.SourceRange{{
		Info: &pb.SourceInfo{Filename: "Dockerfile", Data: []byte("FROM a\nRUN x\n")}, Ranges: lines(2, 2),
	}}}
	for _, sink := range r.sinks() {
		sink(&client.SolveStatus{
			Vertexes: []*client.Vertex{{Digest: v.Digest, Name: v.Name}},
			Logs:     []*client.VertexLog{{Vertex: v.Digest, Data: []byte("hidden-value hidden-key hidden-token seen\n")}},
		})
	}
	failed := hint.With(fmt.Errorf("solve: %w", &solver.StepError{Vertex: v, Err: errors.New("exit status 9 of hidden-value")}), "look at it")
	r.finish(t.Context(), nil, failed)
	data, err := os.ReadFile(o.report)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{commit, "exit status 9 of ***", "Error at Dockerfile:2", "look at it", "*** *** *** seen", filepath.Base(dir)} {
		if !strings.Contains(string(data), want) {
			t.Errorf("the report has no %q", want)
		}
	}
	if strings.Contains(string(data), "hidden-") {
		t.Error("the report has a credential")
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".build*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestReporterStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if f := failureOf(ctx, errors.New("x")); f.Stopped || f.Text != "x" {
		t.Errorf("%+v", f)
	}
	cancel()
	if f := failureOf(ctx, errors.New("x")); !f.Stopped {
		t.Errorf("%+v", f)
	}
	if failureOf(ctx, nil) != nil {
		t.Error("nothing is a failure")
	}
}

func TestReportTitle(t *testing.T) {
	for _, tt := range []struct {
		o    buildOptions
		res  *engine.Result
		want string
	}{
		{buildOptions{context: "/src/app", tags: []string{"a/b"}}, &engine.Result{Names: []string{"docker.io/a/b:latest"}}, "docker.io/a/b:latest"},
		{buildOptions{context: "/src/app", tags: []string{"a/b,c/d"}}, nil, "a/b"},
		{buildOptions{context: "/src/app"}, &engine.Result{}, "app"},
		{buildOptions{context: "https://ci:pw@git.test/app.git"}, nil, "https://***@git.test/app.git"},
		{buildOptions{context: "-"}, nil, "a build from standard input"},
	} {
		if got := (&reporter{o: tt.o}).title(tt.res); got != tt.want {
			t.Errorf("%+v is %q", tt.o, got)
		}
	}
}

type oneKeychain authn.AuthConfig

func (k oneKeychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(k)), nil
}

// TestWatchedKeychain: credentials are given as they are, and known.
func TestWatchedKeychain(t *testing.T) {
	r := newRedactor(worldOf(nil, ""), buildOptions{})
	auth, err := watchedKeychain{oneKeychain{Username: "ann", Password: "p4ssw0rd"}, r}.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := auth.Authorization()
	if err != nil || cfg.Username != "ann" || cfg.Password != "p4ssw0rd" {
		t.Errorf("%+v, %v", cfg, err)
	}
	if got := r.text("ann p4ssw0rd"); got != "ann ***" {
		t.Errorf("%q", got)
	}
}

func TestLearnFlags(t *testing.T) {
	r := newRedactor(worldOf(nil, ""), buildOptions{})
	r.learnFlags(buildOptions{
		cacheFrom: []string{"ghcr.io/acme/app:cache", "type=gha,token=gha-t0ken"}, cacheTo: []string{`type=s3,bucket=acme,"secret_access_key=s3,key"`},
		context: "https://ann:git-pw@host.test/acme.git",
	})
	r.learnUserOf("https://a-token-in-place-of-a-name@host.test/x")
	r.learnUserOf("https://acme@host.test/x")
	r.learnUserOf("git@github.com:acme/app.git")
	for text, want := range map[string]string{
		"gha-t0ken": "***", "s3,key": "***", "git-pw": "***", "a-token-in-place-of-a-name": "***", "acme host ann git@github.com": "acme host ann git@github.com",
	} {
		if got := r.text(text); got != want {
			t.Errorf("%s is %s", text, got)
		}
	}
}
