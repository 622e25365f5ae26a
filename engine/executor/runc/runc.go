// Package runc runs the processes of the executor in containers, through
// libcontainer in our own binary or through an external OCI runtime.
//
//	op/exec ──executor.Process──▶ runc ──▶ our binary as "init" ──execve──▶ the process
//	                               └──bundle──▶ crun, runc (Config.Runtime)
//
// In: a process and its mounted root. Out: its output, its exit status, and a
// host that looks as before.
package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/mayfly-build/mayfly/engine/executor"
)

// Config says where and with what an Executor runs processes.
type Config struct {
	// StateDir holds the state of running containers. It is made when
	// missing and may be shared by several processes; required.
	StateDir string

	// Runtime is the name or path of an OCI runtime such as crun; "" means
	// libcontainer in this binary, which then has to call Init.
	Runtime string
}

// An Executor runs processes in containers. It is safe for use by several
// goroutines.
type Executor struct {
	state   string
	runtime string // path; "" means libcontainer
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
	e := &Executor{state: state}
	switch {
	case c.Runtime != "":
		if e.runtime, err = exec.LookPath(c.Runtime); err != nil {
			return nil, fmt.Errorf("find OCI runtime: %w", err)
		}
	case !embedded:
		return nil, errors.New("this binary was built without cgo and has no container runtime; name an external one")
	}
	return e, nil
}

// Run implements [executor.Executor].
func (e *Executor) Run(ctx context.Context, p executor.Process) (retErr error) {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	dir := filepath.Join(e.state, p.ID)
	b, err := executor.Prepare(p, dir, e.runtime != "" || filtering)
	if err != nil {
		return fmt.Errorf("prepare container: %w", err)
	}
	defer func() { retErr = errors.Join(retErr, b.Close()) }()
	if e.runtime != "" {
		return e.runExternal(ctx, p, b, dir)
	}
	return e.runEmbedded(ctx, p, b, dir)
}
