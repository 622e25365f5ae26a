package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/moby/buildkit/client"

	"github.com/mayfly-build/mayfly/action"
	"github.com/mayfly-build/mayfly/ci"
	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/solver"
	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/report"
)

// A reporter follows one build for --report. A nil one does nothing.
type reporter struct {
	w       world
	o       buildOptions
	rec     *report.Recorder
	redact  *redactor
	traffic *registry.Client // nil before there is one
}

// newReporter returns nil when no report is asked for. The error is that of a
// place where none can be written.
func newReporter(w world, o buildOptions) (*reporter, error) {
	if o.report == "" {
		return nil, nil
	}
	dir := filepath.Dir(o.report)
	fi, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, hint.With(usagef("--report %s: there is no directory %s", o.report, dir), "make the directory before the build")
	case err != nil:
		return nil, usagef("--report %s: %w", o.report, err)
	case !fi.IsDir():
		return nil, usagef("--report %s: %s is not a directory", o.report, dir)
	}
	if fi, err := os.Stat(o.report); err == nil && fi.IsDir() {
		return nil, hint.With(usagef("--report %s is a directory", o.report), "name the file")
	}
	r := &reporter{w: w, o: o, redact: newRedactor(w, o)}
	r.redact.learnFlags(o)
	r.redact.learnVariables(w)
	r.rec = report.NewRecorder(report.Config{Began: time.Now(), Redact: r.redact.text})
	return r, nil
}

// world returns the world of a build whose registry credentials are known to
// the redactor.
func (r *reporter) world(w world) world {
	if r != nil {
		w.keychain = watchedKeychain{authn.DefaultKeychain, r.redact}
	}
	return w
}

// follow makes a request one whose build is reported.
func (r *reporter) follow(req *engine.Request) {
	if r != nil {
		r.traffic = req.Registry
		req.Secrets = r.redact.watch(req.Secrets)
	}
}

func (r *reporter) sinks() []func(*client.SolveStatus) {
	if r == nil {
		return nil
	}
	return []func(*client.SolveStatus){r.rec.Event}
}

// finish writes the report of a build that is over, whatever came of it: res
// is nil when there is none. A report that cannot be written is a warning.
func (r *reporter) finish(ctx context.Context, res *engine.Result, err error) {
	if r == nil {
		return
	}
	if err := r.write(ctx, res, err); err != nil && talks(r.o) {
		fmt.Fprintf(r.w.stderr, "warning: report: %s\n", r.redact.text(err.Error()))
	}
}

func (r *reporter) write(ctx context.Context, res *engine.Result, failed error) error {
	job := ci.Detect(r.w.env, os.ReadFile)
	b := report.Build{
		Ended: time.Now(), Title: r.title(res), Version: version, CI: job, Commit: job.SHA,
		Result: res, Failure: failureOf(ctx, failed),
	}
	if b.Commit == "" {
		b.Commit = commitOf(ctx, r.w, r.o.context)
	}
	if r.traffic != nil {
		s := r.traffic.Stats()
		b.BytesIn, b.BytesOut = s.BytesIn, s.BytesOut
	}
	var page bytes.Buffer
	if err := r.rec.Page(b).Write(&page); err != nil {
		return err
	}
	return writeWhole(r.o.report, page.Bytes())
}

// title says what was built: the image, or else the context.
func (r *reporter) title(res *engine.Result) string {
	switch {
	case res != nil && len(res.Names) > 0:
		return res.Names[0]
	case len(r.o.tags) > 0:
		name, _, _ := strings.Cut(r.o.tags[0], ",")
		return name
	case isURL(r.o.context):
		return action.WithoutUser(r.o.context)
	case r.o.context == "-":
		return "a build from standard input"
	}
	if dir, err := filepath.Abs(r.o.context); err == nil {
		return filepath.Base(dir)
	}
	return r.o.context
}

// failureOf tells of an error what Main prints of it; nil for none.
func failureOf(ctx context.Context, err error) *report.Failure {
	if err == nil {
		return nil
	}
	f := &report.Failure{Text: strings.TrimSpace(stepText(err)), Hint: hint.Of(err), Stopped: ctx.Err() != nil}
	if p, ok := placeOf(err); ok {
		f.Place = report.Place{File: p.info.GetFilename(), Start: p.start, End: p.end, Source: p.info.GetData()}
	}
	if se, ok := errors.AsType[*solver.StepError](err); ok {
		f.Step = se.Vertex.Digest
		if f.Place.Start > 0 { // the page shows the instruction
			f.Text = strings.TrimSpace(se.Err.Error())
		}
	}
	return f
}

// commitTimeout bounds what git is asked for a report.
const commitTimeout = 2 * time.Second

// commitOf returns the commit that a directory is checked out at, "" where
// there is none, or git will not say.
func commitOf(ctx context.Context, w world, dir string) string {
	if dir == "-" || isURL(dir) {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	sha, err := newWorkTree(w, dir).git(ctx, "rev-parse", "HEAD")
	if err != nil {
		return ""
	}
	return sha
}

// watchedKeychain gives credentials that are known to the redactor before
// anybody else has them.
type watchedKeychain struct {
	authn.Keychain
	r *redactor
}

func (k watchedKeychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), target)
}

// ResolveContext is Resolve within ctx.
func (k watchedKeychain) ResolveContext(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	auth, err := authn.Resolve(ctx, k.Keychain, target)
	if err != nil {
		return nil, err
	}
	cfg, err := authn.Authorization(ctx, auth)
	if err != nil {
		return nil, err
	}
	for _, v := range []string{cfg.Password, cfg.Auth, cfg.IdentityToken, cfg.RegistryToken} {
		k.r.learn([]byte(v))
	}
	return authn.FromConfig(*cfg), nil
}
