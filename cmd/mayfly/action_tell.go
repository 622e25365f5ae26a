package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/action"
	"github.com/mayfly-build/mayfly/engine/progress/steplog"
	"github.com/mayfly-build/mayfly/engine/solver"
	"github.com/mayfly-build/mayfly/internal/hint"
)

// tell sets the outputs, annotates, and writes the summary, of a build that
// went well or not.
func (s *step) tell(failed error) error {
	errs := []error{
		s.log.Output("imageid", "ImageID", s.imageID()),
		s.log.Output("digest", "Digest", s.digest()),
		s.log.Output("metadata", "Metadata", s.metadata(failed)),
	}
	for name, value := range s.platformDigests() {
		errs = append(errs, s.log.Set(name, value))
	}
	if s.plan.Annotate {
		for _, w := range s.steps.Warnings() {
			s.log.Lint(w, s.plan.Dockerfile)
		}
	}
	if s.result != nil {
		for _, c := range s.result.Caches {
			if c.Outcome == "failed" || c.Outcome == "partial" {
				s.log.Note(action.Note{Level: action.Warning, Text: fmt.Sprintf("cache %s: %s: %s", c.Name, c.Outcome, c.Reason)})
			}
		}
	}
	r := action.Report{Image: s.plan.Image, Result: s.result, Steps: s.explained(), Elapsed: time.Since(s.began)}
	if failed != nil {
		r.Result, r.Error = nil, s.errorText(failed)
		if se, ok := errors.AsType[*solver.StepError](failed); ok {
			r.Failed = se.Vertex.Digest
		}
	}
	if s.plan.Summary {
		errs = append(errs, s.log.Summary(r.Markdown()))
	}
	return errors.Join(errs...)
}

// platformDigests returns an output for each platform, so that the jobs of a
// matrix, whose outputs are one set, do not overwrite each other's digest: that
// of the manifest, or of what has its attestations too where the image is for
// one platform only.
func (s *step) platformDigests() map[string]string {
	out := map[string]string{}
	if s.result == nil {
		return out
	}
	for _, i := range s.result.Images {
		d := i.Digest
		if len(s.result.Images) == 1 {
			d = s.result.Digest
		}
		out["digest-"+strings.ReplaceAll(platforms.Format(i.Platform), "/", "-")] = d.String()
	}
	return out
}

// explained returns the steps with why they ran: what the result says of them,
// or else the lines of the log so far.
func (s *step) explained() []steplog.Step {
	all := s.steps.Steps()
	if s.result == nil {
		return all
	}
	why := map[digest.Digest]string{}
	for _, st := range s.result.Steps {
		if st.Reason != nil {
			why[st.Digest] = st.Reason.Told()
		}
	}
	for i := range all {
		if w := why[all[i].Digest]; w != "" {
			all[i].Why = w
		}
	}
	return all
}

// imageID returns what the build wrote; "" when it did not.
func (s *step) imageID() string {
	if s.plan.IIDFile == "" {
		return ""
	}
	dt, err := os.ReadFile(s.plan.IIDFile)
	if err != nil {
		return "" // there is no image
	}
	return strings.TrimSpace(string(dt))
}

func (s *step) digest() string {
	if s.result == nil {
		return ""
	}
	return s.result.Digest.String()
}

// metadata returns the metadata file, or of a build that failed what became of
// its steps.
func (s *step) metadata(failed error) string {
	if dt, err := os.ReadFile(s.plan.MetadataFile); err == nil {
		return strings.TrimSpace(string(dt))
	}
	m := map[string]any{"mayfly.seconds": time.Since(s.began).Seconds()}
	if failed != nil {
		m["mayfly.error"] = s.errorText(failed)
	}
	list := []stepEntry{}
	for _, st := range s.steps.Steps() {
		list = append(list, stepEntry{Name: st.Name, Digest: st.Digest.String(), Cached: st.Cached, Seconds: st.Spent.Seconds()})
	}
	m["mayfly.steps"] = list
	dt, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return ""
	}
	return string(dt)
}

// errorText is what printError says of an error, in one line, of inputs.
func (s *step) errorText(err error) string {
	text := err.Error()
	if p, ok := placeOf(err); ok {
		text = p.String() + ": " + stepText(err)
	} else if s.plan != nil {
		text = s.plan.Words(text)
	}
	return strings.TrimSpace(text)
}

// explain shows what failed, last of all: the end of the step's log, and an
// annotation at its place in the repository. Main prints the error itself.
func (s *step) explain(err error) {
	a := action.Annotation{Title: "mayfly", Text: s.errorText(err)}
	if h := hint.Of(err); h != "" {
		a.Text += "\nhint: " + h
	}
	if p, ok := placeOf(err); ok && s.plan != nil {
		a.Title, a.Text = titleOf(err), stepText(err)
		a.Start, a.End = p.start, p.end
		a.File = steplog.FileOf(p.info.GetFilename(), s.plan.Dockerfile)
	}
	var se *solver.StepError
	if errors.As(err, &se) {
		for _, st := range s.steps.Steps() {
			if st.Digest == se.Vertex.Digest {
				s.log.Tail(st)
			}
		}
	}
	s.log.Error(a)
	s.log.Quote("") // the rest is for people, and has lines of the Dockerfile
}

// titleOf returns the instruction that failed.
func titleOf(err error) string {
	var se *solver.StepError
	if !errors.As(err, &se) {
		return "Dockerfile"
	}
	name := se.Vertex.Name
	if _, rest, ok := strings.Cut(name, "] "); ok && strings.HasPrefix(name, "[") {
		name = rest
	}
	name, _, _ = strings.Cut(name, "\n")
	return name
}

// errStdinEnded says that whoever started the build is gone, or wants it to
// end.
var errStdinEnded = errors.New("the runner ended the step")

// stdinEnvironment makes what stands on standard input the environment of this
// process. The context it returns ends with standard input.
func stdinEnvironment(ctx context.Context, stdin io.Reader) (context.Context, context.CancelFunc, error) {
	r := bufio.NewReader(stdin)
	keep := map[string]string{}
	for _, name := range []string{"SUDO_UID", "SUDO_GID"} { // sudo's own word on who asked
		if v, ok := os.LookupEnv(name); ok {
			keep[name] = v
		}
	}
	os.Clearenv()
	for {
		entry, err := r.ReadString(0)
		if err != nil {
			return nil, nil, fmt.Errorf("read the environment from standard input: %w", err)
		}
		entry = strings.TrimSuffix(entry, "\x00")
		if entry == "" {
			break
		}
		name, value, ok := strings.Cut(entry, "=")
		if !ok || name == "" {
			return nil, nil, errors.New("read the environment from standard input: an entry is not NAME=VALUE")
		}
		if strings.HasPrefix(name, "SUDO_") {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return nil, nil, fmt.Errorf("read the environment from standard input: %w", err)
		}
	}
	for name, value := range keep {
		if err := os.Setenv(name, value); err != nil {
			return nil, nil, err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	// It ends with standard input, or with the process: a read cannot be
	// interrupted.
	go func() {
		_, _ = io.Copy(io.Discard, r)
		cancel(errStdinEnded)
	}()
	return ctx, func() { cancel(nil) }, nil
}
