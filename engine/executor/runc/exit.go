package runc

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/mayfly-build/mayfly/engine/executor"
)

// exitError is nil when the process succeeded.
func exitError(state *os.ProcessState, oom bool) error {
	status, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return fmt.Errorf("wait for container: unknown state %v", state)
	case status.Signaled():
		return &executor.ExitError{Status: 128 + int(status.Signal()), Signal: status.Signal(), OOM: oom}
	case status.ExitStatus() != 0:
		return &executor.ExitError{Status: status.ExitStatus(), OOM: oom}
	}
	return nil
}

// join is errors.Join that leaves a lone error as it is.
func join(a, b error) error {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return errors.Join(a, b)
}
