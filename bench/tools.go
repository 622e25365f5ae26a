package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// A tool builds. Its calls come in the order: trash the directory that state
// names, start, build any number of times, stop.
type tool interface {
	name() string
	state() string // the state directory, which start may find missing

	// start makes the tool ready, such as by booting a daemon.
	start() error
	build(ctx context.Context, j job) error
	// stop ends what start began and returns the peak memory since, in bytes.
	stop() (int64, error)
}

// A job is one build.
type job struct {
	context string
	base    string   // the argument BASE
	push    string   // reference to push to; "" makes an image without pushing it
	from    string   // cache to import, as both tools spell it: "type=registry,ref=…"; "" means none
	to      string   // cache to export, with mode=max
	args    []string // more build arguments
	bare    bool     // make no image: the result stays in the state directory
}

func (j job) buildArgs() []string { return append([]string{"BASE=" + j.base}, j.args...) }

// output is where the result goes, as both tools spell it.
func (j job) output() string {
	switch {
	case j.bare:
		return ""
	case j.push != "":
		return "type=image,push=true,name=" + j.push
	}
	return "type=image"
}

type buildkit struct {
	root string
	d    *services.Buildkitd
}

func (t *buildkit) name() string  { return "buildkit" }
func (t *buildkit) state() string { return t.root }

func (t *buildkit) start() (err error) {
	t.d, err = services.StartBuildkitd(services.BuildkitdConfig{Root: t.root})
	return err
}

func (t *buildkit) stop() (int64, error) {
	peak, err := t.d.PeakRSS()
	if e := t.d.Close(); err == nil {
		err = e
	}
	return peak, err
}

func (t *buildkit) build(ctx context.Context, j job) error {
	in := services.Build{Context: j.context}
	if o := j.output(); o != "" {
		in.Outputs = []string{o}
	}
	for _, a := range j.buildArgs() {
		in.Opts = append(in.Opts, "build-arg:"+a)
	}
	if j.from != "" {
		in.Import = []string{j.from}
	}
	if j.to != "" {
		in.Export = []string{j.to}
	}
	_, err := t.d.Build(ctx, in)
	return err
}

type mayfly struct {
	bin, root string
	peak      int64
}

func (t *mayfly) name() string  { return "mayfly" }
func (t *mayfly) state() string { return t.root }
func (t *mayfly) start() error  { t.peak = 0; return nil }

func (t *mayfly) stop() (int64, error) { return t.peak, nil }

func (t *mayfly) build(ctx context.Context, j job) error {
	// The same progress as buildctl writes, so that neither saves work.
	// buildctl attests nothing unless it is told to.
	args := []string{"build", "--root", t.root, "--progress", "rawjson", "--provenance=false"}
	for _, a := range j.buildArgs() {
		args = append(args, "--build-arg", a)
	}
	if o := j.output(); o != "" {
		args = append(args, "-o", o)
	}
	if j.from != "" {
		args = append(args, "--cache-from", j.from)
	}
	if j.to != "" {
		args = append(args, "--cache-to", j.to)
	}
	cmd := exec.CommandContext(ctx, t.bin, append(args, j.context)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	var log bytes.Buffer
	cmd.Stderr = &log
	err := cmd.Run()
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		t.peak = max(t.peak, u.Maxrss<<10)
	}
	if err != nil {
		steps, plain, _ := services.ReadProgress(&log)
		return fmt.Errorf("mayfly %s: %w: %s%s", strings.Join(args, " "), err, services.Failed(steps), plain)
	}
	return nil
}
