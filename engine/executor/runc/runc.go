// Package runc runs the processes of the executor in containers, through
// libcontainer in our own binary or through an external OCI runtime.
//
//	op/exec ──executor.Process──▶ runc ──▶ our binary as "init" ──execve──▶ the process
//	                               └──bundle──▶ crun, runc (Config.Runtime)
//
// In: a process and its mounted root. Out: its output, its exit status, and a
// host that looks as before. A container does not outlive the binary.
package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/mayfly-build/mayfly/engine/executor"
)

// Config says where and with what an Executor runs processes.
type Config struct {
	// StateDir holds what running containers need. It is made when missing
	// and may be shared by several processes; required.
	StateDir string

	// Runtime is the name or path of an OCI runtime such as crun; "" means
	// libcontainer in this binary, which then has to call Init.
	Runtime string

	// RuntimeArgs are global options of Runtime.
	RuntimeArgs []string
}

// An Executor runs processes in containers. It is safe for use by several
// goroutines.
type Executor struct {
	state   string
	runtime string // path; "" means libcontainer
	args    []string
	home    cgroupHome

	// Made once, on first use: the syscall filter (nil when there is none)
	// and our binary as containers may see it.
	filter, exe func() (*os.File, error)
	warm        sync.WaitGroup
}

// New returns an Executor, after a look at what it needs: the external runtime
// has to exist, the embedded one to be linked in.
func New(c Config) (*Executor, error) {
	if c.StateDir == "" {
		return nil, errors.New("container executor: no state directory given")
	}
	state, err := filepath.Abs(c.StateDir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(state, 0o711); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	if state, err = filepath.EvalSymlinks(state); err != nil {
		return nil, err
	}
	sweepState(state)
	e := &Executor{state: state, args: c.RuntimeArgs}
	if c.Runtime != "" {
		if e.runtime, err = exec.LookPath(c.Runtime); err != nil {
			return nil, fmt.Errorf("find OCI runtime: %w", err)
		}
		return e, nil
	}
	if !embedded {
		return nil, errors.New("this binary was built without cgo and has no container runtime; name an external one")
	}
	e.home = findCgroupHome()
	e.home.sweep()
	e.filter = sync.OnceValues(filterProgram)
	e.exe = sync.OnceValues(func() (*os.File, error) { return sealedExe(state) })
	// Compiling the filter takes longer than starting a container.
	e.warm.Go(func() { _, _ = e.filter() })
	return e, nil
}

// Close releases the descriptors the Executor holds. Nothing runs any more.
func (e *Executor) Close() error {
	if e.runtime != "" {
		return nil
	}
	e.warm.Wait()
	filter, _ := e.filter()
	exe, _ := e.exe()
	closeAll([]*os.File{filter, exe})
	return nil
}

// Run implements [executor.Executor].
func (e *Executor) Run(ctx context.Context, p executor.Process) (retErr error) {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := checkID(p.ID); err != nil {
		return err
	}
	dir, unlock, err := e.lockedDir(p.ID)
	if err != nil {
		return err
	}
	defer unlock()
	b, err := executor.Prepare(p, dir, e.runtime != "")
	if err != nil {
		return fmt.Errorf("prepare container: %w", err)
	}
	defer func() { retErr = join(retErr, b.Close()) }()
	if e.runtime != "" {
		return e.runExternal(ctx, p, b, dir)
	}
	return e.runEmbedded(ctx, p, b)
}

// checkID keeps an ID from being a path.
func checkID(id string) error {
	for _, c := range id {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '+', c == '-', c == '.':
		default:
			return fmt.Errorf("container ID %q has characters other than [a-zA-Z0-9_+.-]", id)
		}
	}
	if id == "" || id == "." || id == ".." {
		return fmt.Errorf("container ID %q cannot name a directory", id)
	}
	return nil
}
