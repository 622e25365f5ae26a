// Command mayfly builds container images in one process that lives for one
// job.
//
//	arguments, environment ──▶ cmd/mayfly ──engine.Request──▶ engine
//	stdout: the result; stderr: the progress
//
// This is the only place that reads flags and environment variables.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	rundebug "runtime/debug"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/mayfly-build/mayfly/engine/executor/runc"
)

// version is set by the linker.
var version = "dev"

// gcPercent bounds the garbage beside the buffers that layers travel in, which
// are most of what is in memory: a runner's memory is for the steps. At 50 an
// import of 1 GiB took 14 % less of it than at Go's 100, and no more time.
const gcPercent = 50

func main() {
	if runc.IsInit() {
		runc.Init()
	}
	if _, ok := os.LookupEnv("GOGC"); !ok {
		rundebug.SetGCPercent(gcPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := Main(ctx, os.Args[1:], os.LookupEnv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// The exit codes, as the README says them.
const (
	exitOK     = 0
	exitFailed = 1 // the build failed
	exitUsage  = 2 // the command cannot be understood
)

// A usageError is a command that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// world is what a command may touch of the process it runs in.
type world struct {
	getenv         func(string) (string, bool)
	stdin          io.Reader
	stdout, stderr io.Writer

	keychain authn.Keychain // credentials of registries; nil means those of $DOCKER_CONFIG
}

func (w world) env(name string) string {
	v, _ := w.getenv(name)
	return v
}

const usage = `mayfly builds container images for CI jobs.

Usage:
  mayfly build [OPTIONS] PATH|URL|-    build an image from a Dockerfile
  mayfly merge [OPTIONS] SOURCE...     make one index of the images that several jobs pushed
  mayfly meta get FILE KEY             print a value of a metadata file
  mayfly cache ls|show|verify|prune|copy CACHE
                                       look after a remote cache
  mayfly debug why [STEP]              why the steps of a build ran
  mayfly action                        build what the inputs of a step of GitHub Actions say
  mayfly version                       print the version

"mayfly COMMAND --help" lists the options of a command.
`

// Main runs one command and returns its exit code. When ctx is done the
// command stops what it started and cleans up.
func Main(ctx context.Context, args []string, getenv func(string) (string, bool), stdin io.Reader, stdout, stderr io.Writer) int {
	w := world{getenv: getenv, stdin: stdin, stdout: stdout, stderr: stderr}
	err := run(ctx, w, args)
	if err == nil {
		return exitOK
	}
	var text strings.Builder
	printError(&text, err)
	_, _ = io.WriteString(stderr, quoted(w, text.String())) // nobody is left to tell
	var u usageError
	if errors.As(err, &u) {
		return exitUsage
	}
	return exitFailed
}

func run(ctx context.Context, w world, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(w.stderr, usage)
		return usagef("no command is given")
	}
	switch args[0] {
	case "build":
		return build(ctx, w, args[1:])
	case "merge":
		return mergeCommand(ctx, w, args[1:])
	case "meta":
		return meta(w, args[1:])
	case "cache":
		return cache(ctx, w, args[1:])
	case "debug":
		return debug(ctx, w, args[1:])
	case "action":
		return actionCommand(ctx, w, args[1:])
	case "version", "--version":
		_, err := fmt.Fprintln(w.stdout, "mayfly", version)
		return err
	case "help", "--help", "-h":
		_, err := fmt.Fprint(w.stdout, usage)
		return err
	}
	return usagef("unknown command %q: the commands are build, merge, meta, cache, debug, action and version", args[0])
}
