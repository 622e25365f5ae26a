//go:build linux && cgo && !gccgo

package runc

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/specconv"

	"github.com/mayfly-build/mayfly/engine/executor"
)

// runEmbedded runs p with libcontainer.
func (e *Executor) runEmbedded(ctx context.Context, p executor.Process, b *executor.Bundle) (retErr error) {
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{Spec: b.Spec})
	if err != nil {
		return fmt.Errorf("convert container spec: %w", err)
	}
	if p.CgroupParent == "" {
		config.Cgroups.Path = ""
	}
	l := &launch{}
	if l.config, err = newInitConfig(p.ID, config, b.Spec.Process); err != nil {
		return err
	}
	if p.Security == pb.SecurityMode_SANDBOX {
		if l.filter, err = e.filter(); err != nil {
			return err
		}
	}
	if l.exe, err = e.exe(); err != nil {
		return err
	}
	group, err := e.home.new(p.ID, config.Cgroups)
	if err != nil {
		return err
	}
	defer func() { retErr = join(retErr, group.remove()) }()
	config.Mounts = group.mounts(config.Mounts)
	// The process sets up no cgroup, and reading its configuration takes time.
	config.Cgroups = &cgroups.Cgroup{Resources: &cgroups.Resources{}}
	if group.home.unified && len(group.dirs) > 0 {
		l.config.Cgroup2Path = group.dirs[0]
	}
	streams, err := openStreams(p)
	if err != nil {
		return err
	}

	// A goroutine for a thread: see runOnThread.
	done := make(chan error)
	go func() { done <- runOnThread(ctx, l, group, streams) }()
	return <-done
}

// runOnThread starts the container and waits for its end. It keeps its thread:
// the one that forks a process is its parent, whose end kills it (see Init),
// and for a moment it is in the container's cgroups.
func runOnThread(ctx context.Context, l *launch, group *cgroup, streams *streams) error {
	runtime.LockOSThread()
	defer func() {
		if !group.stuck { // else the thread ends with this goroutine
			runtime.UnlockOSThread()
		}
	}()
	defer l.close()

	process, err := startContainer(ctx, l, group, streams)
	if err != nil {
		streams.abort()
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return fmt.Errorf("start container: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = process.Kill() })
	defer stop()
	streams.started()
	state, err := process.Wait()
	ioErr := streams.wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		return fmt.Errorf("wait for container: %w", err)
	}
	return join(exitError(state, group.oom()), ioErr)
}

// startContainer returns the first process of the container, about to exec or
// past it.
func startContainer(ctx context.Context, l *launch, group *cgroup, streams *streams) (*os.Process, error) {
	stdio := []*os.File{streams.stdin, streams.stdout, streams.stderr}
	first, err := group.start(func(sys *syscall.SysProcAttr) (*os.Process, error) { return l.start(stdio, sys) })
	if err != nil {
		if first != nil {
			kill(first)
		}
		return nil, err
	}
	process, err := l.enter(first)
	if err != nil {
		return nil, l.because(err)
	}
	// Killing the first process of a PID namespace kills all of it.
	stop := context.AfterFunc(ctx, func() { _ = process.Kill() })
	defer stop()
	if err := l.configure(process.Pid); err != nil {
		kill(process)
		return nil, l.because(err)
	}
	return process, nil
}
