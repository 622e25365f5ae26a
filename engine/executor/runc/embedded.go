package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	_ "github.com/opencontainers/cgroups/devices" // device rules
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/executor"
)

// runEmbedded runs p with libcontainer.
func (e *Executor) runEmbedded(ctx context.Context, p executor.Process, b *executor.Bundle, dir string) error {
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName: p.ID,
		Spec:       b.Spec,
	})
	if err != nil {
		return fmt.Errorf("convert container spec: %w", err)
	}
	process, err := newProcess(b.Spec.Process)
	if err != nil {
		return err
	}
	streams, err := openStreams(p)
	if err != nil {
		return err
	}
	process.Stdin, process.Stdout, process.Stderr = streams.stdin, streams.stdout, streams.stderr

	// The container's parent is the thread that forks it, and its end kills
	// the container (see Init): this thread has to outlive it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	container, err := libcontainer.Create(filepath.Join(dir, "state"), p.ID, config)
	if err != nil {
		return errors.Join(fmt.Errorf("create container: %w", err), streams.abort())
	}
	runErr := e.start(ctx, container, process, streams)
	if err := container.Destroy(); err != nil && runErr == nil {
		return err
	}
	return runErr
}

// start runs process as the first of container and waits for its end.
func (e *Executor) start(ctx context.Context, container *libcontainer.Container, process *libcontainer.Process, streams *streams) error {
	if err := container.Run(process); err != nil {
		return errors.Join(fmt.Errorf("start container: %w", err), streams.abort())
	}
	streams.started()
	stop := context.AfterFunc(ctx, func() {
		// Killing the first process of a PID namespace kills all of it.
		_ = container.Signal(unix.SIGKILL)
	})
	state, waitErr := process.Wait()
	stop()
	ioErr := streams.wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := exitError(state, waitErr); err != nil {
		return err
	}
	return ioErr
}

// exitError is nil when the process succeeded.
func exitError(state *os.ProcessState, waitErr error) error {
	var exit *exec.ExitError
	if state == nil || waitErr != nil && !errors.As(waitErr, &exit) {
		return fmt.Errorf("wait for container: %w", waitErr)
	}
	status, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return fmt.Errorf("wait for container: unknown state %v", state)
	case status.Signaled():
		return &executor.ExitError{Status: 128 + int(status.Signal()), Signal: status.Signal()}
	case status.ExitStatus() != 0:
		return &executor.ExitError{Status: status.ExitStatus()}
	}
	return nil
}

// newProcess is the process part of a spec in libcontainer's words.
func newProcess(p *specs.Process) (*libcontainer.Process, error) {
	lp := &libcontainer.Process{
		Args: p.Args,
		Env:  p.Env,
		UID:  int(p.User.UID),
		GID:  int(p.User.GID),
		Cwd:  p.Cwd,
		Init: true,
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	for _, r := range p.Rlimits {
		typ, ok := rlimitTypes()[r.Type]
		if !ok {
			return nil, fmt.Errorf("unknown ulimit %q", r.Type)
		}
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: typ, Hard: r.Hard, Soft: r.Soft})
	}
	return lp, nil
}

func rlimitTypes() map[string]int {
	return map[string]int{
		"RLIMIT_AS":         unix.RLIMIT_AS,
		"RLIMIT_CORE":       unix.RLIMIT_CORE,
		"RLIMIT_CPU":        unix.RLIMIT_CPU,
		"RLIMIT_DATA":       unix.RLIMIT_DATA,
		"RLIMIT_FSIZE":      unix.RLIMIT_FSIZE,
		"RLIMIT_LOCKS":      unix.RLIMIT_LOCKS,
		"RLIMIT_MEMLOCK":    unix.RLIMIT_MEMLOCK,
		"RLIMIT_MSGQUEUE":   unix.RLIMIT_MSGQUEUE,
		"RLIMIT_NICE":       unix.RLIMIT_NICE,
		"RLIMIT_NOFILE":     unix.RLIMIT_NOFILE,
		"RLIMIT_NPROC":      unix.RLIMIT_NPROC,
		"RLIMIT_RSS":        unix.RLIMIT_RSS,
		"RLIMIT_RTPRIO":     unix.RLIMIT_RTPRIO,
		"RLIMIT_RTTIME":     unix.RLIMIT_RTTIME,
		"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
		"RLIMIT_STACK":      unix.RLIMIT_STACK,
	}
}
