package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/executor"
	"github.com/mayfly-build/mayfly/engine/executor/runc"
	"github.com/mayfly-build/mayfly/engine/progress"
	"github.com/mayfly-build/mayfly/engine/progress/steplog"
	"github.com/mayfly-build/mayfly/engine/source/git"
	"github.com/mayfly-build/mayfly/internal/registry"
)

func build(ctx context.Context, w world, args []string) error {
	o, err := parseBuild(w, args)
	if err != nil {
		if isHelp(err) {
			return nil
		}
		return err
	}
	r, err := newReporter(w, o)
	if err != nil {
		return err
	}
	t := newTracer(w, o)
	res, err := runBuild(ctx, r.world(w), o, t, r)
	t.finish(ctx, res, err)
	r.finish(ctx, res, err)
	return err
}

func runBuild(ctx context.Context, w world, o buildOptions, t *tracer, r *reporter) (*engine.Result, error) {
	req, cleanup, err := request(ctx, w, o)
	if err != nil {
		return nil, err
	}
	defer cleanup()
	t.follow(&req)
	r.follow(&req)
	var lint steplog.Watcher
	sinks := slices.Concat(t.sinks(), r.sinks())
	if o.codeQuality != "" {
		sinks = append(sinks, lint.Read)
	}
	stream, shown, err := display(w, o, sinks...)
	if err != nil {
		return nil, err
	}
	req.Progress = stream
	res, err := engine.Build(ctx, req)
	shown(err)
	err = errors.Join(err, writeCodeQuality(w, o, lint.Warnings()))
	if err != nil && ctx.Err() != nil {
		return res, fmt.Errorf("build stopped: %w", context.Cause(ctx))
	}
	if res == nil {
		return nil, err
	}
	return res, errors.Join(finish(w, o, req, res), err) // err is that of a cache or of a report
}

// request turns the options into the engine's Request. What it opened is
// closed by the function it returns.
func request(ctx context.Context, w world, o buildOptions) (_ engine.Request, cleanup func(), err error) {
	req := engine.Request{
		StateDir: o.root, Snapshotter: o.snapshotter, Parallel: o.parallel,
		Env:      git.Environ(w.getenv),
		Registry: registry.New(registry.Config{UserAgent: "mayfly/" + version, Insecure: insecureHosts(o), Keychain: w.keychain}),
		NewExecutor: func(dir string) (executor.Executor, error) {
			return runc.New(runc.Config{StateDir: dir, Runtime: o.runtime})
		},
	}
	if req.Secrets, err = secrets(w, o); err != nil {
		return req, nil, err
	}
	if req.Agents, err = agents(w, o); err != nil {
		return req, nil, err
	}
	if req.Allow, err = entitlements(o); err != nil {
		return req, nil, err
	}
	if req.Outputs, err = outputs(w, o); err != nil {
		return req, nil, err
	}
	if req.Record, err = recordMode(w, o); err != nil {
		return req, nil, err
	}
	if err := caches(newCacheOpener(w, req.Registry, o), o, &req); err != nil {
		return req, nil, err
	}
	c, err := openContext(ctx, w, o)
	if err != nil {
		return req, nil, err
	}
	err = frontendOptions(w, o, c.opts)
	if err == nil {
		err = sourceOptions(ctx, w, o, c.opts)
	}
	req.Frontend, req.Locals = c.opts, c.locals
	if err == nil {
		err = attestations(w, o, &req)
	}
	if err != nil {
		c.close()
		return req, nil, err
	}
	return req, c.close, nil
}

// display returns the stream of a build's events, also to sinks, and a function
// to call with the build's error when it is over: it waits until all of them
// are shown.
func display(w world, o buildOptions, sinks ...func(*client.SolveStatus)) (*progress.Stream, func(error), error) {
	if style, ok := sectionStyle(w, o); ok {
		stream, shown := folded(w, style, sinks)
		return stream, shown, nil
	}
	mode := progressui.DisplayMode(o.progress)
	if mode == progressui.TtyMode && !isTerminal(w.stderr) {
		mode = progressui.PlainMode // a terminal's progress needs a terminal
	}
	if o.progress == "quiet" {
		return progress.New(sinks...), func(error) {}, nil
	}
	out, ok := w.stderr.(*os.File)
	var d progressui.Display
	var err error
	if ok {
		d, err = progressui.NewDisplay(out, mode)
	} else {
		if mode == progressui.AutoMode || mode == progressui.TtyMode {
			mode = progressui.PlainMode
		}
		d, err = progressui.NewDisplay(w.stderr, mode)
	}
	if err != nil {
		return nil, nil, usagef("--progress %s: %v", o.progress, err)
	}
	ch := make(chan *client.SolveStatus, 64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The context is the display's own: what happened before a
		// cancellation is still to be seen.
		// What it cannot show is no failure of the build.
		_, _ = d.UpdateFrom(context.Background(), ch)
	}()
	stream := progress.New(append(sinks, func(st *client.SolveStatus) { ch <- st })...)
	return stream, func(error) { close(ch); <-done }, nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// talks reports whether standard error is for words beside the progress.
func talks(o buildOptions) bool { return o.progress != "quiet" && o.progress != "rawjson" }

// finish writes what the result is to the files that were asked for, and to
// standard output.
func finish(w world, o buildOptions, req engine.Request, res *engine.Result) error {
	if o.metadataFile != "" {
		if err := writeMetadata(o.metadataFile, res); err != nil {
			return fmt.Errorf("metadata file: %w", err)
		}
	}
	if id := cmp.Or(res.Config, res.Digest); o.iidFile != "" && id != "" { // an index has no config
		if err := writeWhole(o.iidFile, []byte(id)); err != nil {
			return fmt.Errorf("iidfile: %w", err)
		}
	}
	talk := talks(o)
	if err := writeDotenv(w, o, res); err != nil {
		return err
	}
	if len(req.Outputs) == 0 && talk {
		fmt.Fprintln(w.stderr, "warning: no output is given: the result stays in the state dir; name it with -t and push it with --push, or give -o")
	}
	for _, c := range res.Caches {
		if c.Outcome != "ok" && talk {
			fmt.Fprintf(w.stderr, "warning: cache %s: %s: %s\n", c.Name, c.Outcome, c.Reason)
			if c.Hint != "" {
				fmt.Fprintf(w.stderr, "hint:  %s\n", c.Hint)
			}
		}
	}
	if res.Digest != "" && !writesStdout(o) {
		_, err := fmt.Fprintln(w.stdout, res.Digest)
		return err
	}
	return nil
}

func writeWhole(path string, dt []byte) error {
	f, err := toFile(path)()
	if err != nil {
		return err
	}
	if _, err := f.Write(dt); err != nil {
		if w, ok := f.(*wholeFile); ok {
			w.Abandon()
		} else {
			_ = f.Close()
		}
		return err
	}
	return f.Close()
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func isHelp(err error) bool { return errors.Is(err, pflag.ErrHelp) }
