package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/mayfly-build/mayfly/action"
	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/progress"
	"github.com/mayfly-build/mayfly/engine/progress/steplog"
	"github.com/mayfly-build/mayfly/engine/progress/steplog/sections"
	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache/gha"
)

const actionUsage = `Usage: mayfly action [--environment-stdin]

Builds what the inputs of a GitHub Actions step say: the environment variables
INPUT_*. It is what action.yml runs; docs/action.md lists the inputs.

  --environment-stdin   read the environment from standard input: NAME=VALUE,
                        each ended by a NUL, the last one by two. The build is
                        stopped when standard input ends.
`

// actionCommand builds as a step of GitHub Actions. Everything it says goes to
// standard output, whose lines the runner reads.
func actionCommand(ctx context.Context, w world, args []string) error {
	w.stderr = w.stdout
	switch {
	case len(args) == 0:
	case len(args) == 1 && args[0] == "--environment-stdin":
		var stop context.CancelFunc
		var err error
		if ctx, stop, err = stdinEnvironment(ctx, w.stdin); err != nil {
			return err
		}
		defer stop()
	case len(args) == 1 && (args[0] == "--help" || args[0] == "-h"):
		_, err := fmt.Fprint(w.stdout, actionUsage)
		return err
	default:
		return usagef("mayfly action takes its inputs from the environment, not %q", args)
	}
	s := &step{w: w, log: action.NewLog(w.stdout, w.getenv), began: time.Now()}
	err := s.run(ctx)
	if err != nil {
		s.explain(err)
	}
	return err
}

// A step is a step of a workflow being carried out.
type step struct {
	w     world
	log   *action.Log
	began time.Time
	plan  *action.Plan

	steps   steplog.Watcher
	result  *engine.Result
	claimed *action.Claim // nil: the job's user runs the build
}

func (s *step) run(ctx context.Context) error {
	tmp, err := os.MkdirTemp("", "mayfly-action-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if s.plan, err = action.New(s.config(tmp)); err != nil {
		return err
	}
	s.log.Mask(s.plan.Masks)
	s.log.Group("Inputs", s.inputs())
	for _, n := range s.plan.Notes {
		s.log.Note(n)
	}
	s.w.getenv = s.plan.Getenv(s.w.getenv)
	o, err := parseBuild(s.w, s.plan.Args)
	if err != nil {
		return err
	}
	o.progress = string(sections.GitHub)
	if err := s.canLoad(); err != nil {
		return err
	}
	s.claim(o)
	err = s.build(ctx, o)
	return errors.Join(err, s.tell(err), s.settle())
}

func (s *step) config(tmp string) action.Config {
	var variables []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		variables = append(variables, name)
	}
	return action.Config{
		Getenv: s.w.getenv, Variables: variables, ReadFile: os.ReadFile, Tmp: tmp,
		Exists: func(path string) bool { _, err := os.Stat(path); return err == nil },
		Gha: func() error {
			cfg, err := gha.Config{}.FromEnvironment(s.w.env)
			if err == nil {
				_, err = gha.New(cfg)
			}
			return err
		},
	}
}

// inputs lists what was given, and the command that does the same.
func (s *step) inputs() string {
	var b strings.Builder
	for _, in := range s.plan.Inputs {
		if len(in.Values) == 1 {
			fmt.Fprintf(&b, "%s: %s\n", in.Name, shown(in.Values[0]))
			continue
		}
		fmt.Fprintf(&b, "%s:\n", in.Name)
		for _, v := range in.Values {
			fmt.Fprintf(&b, "  %s\n", shown(v))
		}
	}
	b.WriteString("\nmayfly build")
	for i := 0; i < len(s.plan.Args); i++ {
		switch a := s.plan.Args[i]; a {
		case "--iidfile", "--metadata-file":
			i++ // are read by the action itself
		default:
			b.WriteString(" " + shellQuoted(shown(a)))
		}
	}
	return b.String()
}

// shown returns what may be shown of an input.
func shown(s string) string { return action.WithoutUser(redact(s)) }

// shellQuoted returns an argument as a shell takes it.
func shellQuoted(s string) string {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_=./:,@%+", c)
	}
	if s != "" && strings.IndexFunc(s, func(c rune) bool { return !plain(c) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// build builds and, where that is asked for, hands the image to docker.
func (s *step) build(ctx context.Context, o buildOptions) error {
	r, err := newReporter(s.w, o)
	if err != nil {
		return err
	}
	t := newTracer(s.w, o)
	err = s.traced(ctx, o, t, r)
	t.finish(ctx, s.result, err)
	r.finish(ctx, s.result, err)
	return err
}

func (s *step) traced(ctx context.Context, o buildOptions, t *tracer, r *reporter) error {
	req, cleanup, err := request(ctx, r.world(s.w), o)
	if err != nil {
		return err
	}
	defer cleanup()
	t.follow(&req)
	r.follow(&req)
	quiet := s.w
	quiet.stdout = io.Discard // the digest is an output of the step
	shown := sections.New(s.w.stdout, sections.GitHub)
	req.Progress = progress.New(slices.Concat(t.sinks(), r.sinks(), []func(*client.SolveStatus){s.steps.Read, shown.Read})...)
	res, err := engine.Build(ctx, req)
	shown.End("") // what failed is told last
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("build stopped: %w", context.Cause(ctx))
		}
		return err
	}
	s.result = res
	s.log.Quote("")
	err = finish(quiet, o, req, res)
	s.log.Unquote()
	if err != nil {
		return err
	}
	return s.load(ctx)
}

func (s *step) canLoad() error {
	if len(s.plan.Load) == 0 {
		return nil
	}
	if _, err := exec.LookPath("docker"); err != nil {
		return hint.With(fmt.Errorf("input load: %w", err), "load needs docker on the runner: push the image, or write it to a file with outputs: type=docker,dest=FILE")
	}
	return nil
}

// load hands images to docker.
func (s *step) load(ctx context.Context) error {
	for _, file := range s.plan.Load {
		s.log.Quote("docker load")
		cmd := exec.CommandContext(ctx, "docker", "load", "--input", file)
		cmd.Stdout, cmd.Stderr = s.w.stdout, s.w.stdout
		err := cmd.Run()
		s.log.Unquote()
		if err != nil {
			return fmt.Errorf("docker load: %w", err)
		}
	}
	return nil
}

// claim notes what the build leaves, for the job's user when sudo runs it.
func (s *step) claim(o buildOptions) {
	owner, ok := action.OwnerOf(s.w.getenv)
	if !ok || os.Getuid() != 0 {
		return
	}
	// Layers and cache mounts have the owners that the image's files have.
	places := []action.Place{{Path: o.root, Only: []string{"blobs", "keys", "builds"}}}
	for _, path := range s.plan.Left {
		places = append(places, action.Place{Path: path})
	}
	s.claimed = owner.Claim(places)
}

func (s *step) settle() error {
	if s.claimed == nil {
		return nil
	}
	return s.claimed.Settle()
}
