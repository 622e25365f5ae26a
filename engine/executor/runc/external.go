package runc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-build/mayfly/engine/executor"
)

// runExternal runs p with the OCI runtime of the Config, whose bundle is dir.
func (e *Executor) runExternal(ctx context.Context, p executor.Process, b *executor.Bundle, dir string) error {
	config, err := json.Marshal(b.Spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err != nil {
		return err
	}
	streams, err := openStreams(p)
	if err != nil {
		return err
	}
	state, log := filepath.Join(dir, "state"), filepath.Join(dir, "runtime.log")
	cmd := e.command(state, "--log", log, "--log-format", "json", "run", "--bundle", dir, p.ID)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = streams.stdin, streams.stdout, streams.stderr
	// The runtime passes a terminal's signals on to the container; those of
	// our own terminal are not meant for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		streams.abort()
		return fmt.Errorf("start %s: %w", e.runtime, err)
	}
	streams.started()
	waited := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ctx.Done():
			e.stop(state, p.ID, cmd, waited)
		case <-waited:
		}
	}()
	waitErr := cmd.Wait()
	close(waited)
	<-stopped
	ioErr := streams.wait()
	// Most runtimes have deleted it; one that was killed has not.
	if _, err := os.Stat(filepath.Join(state, p.ID)); err == nil {
		_ = e.command(state, "delete", "--force", p.ID).Run()
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if cmd.ProcessState == nil {
		return fmt.Errorf("wait for %s: %w", e.runtime, waitErr)
	}
	err = exitError(cmd.ProcessState, false)
	if exit := new(executor.ExitError); errors.As(err, &exit) {
		if msg := runtimeError(log); msg != "" {
			return fmt.Errorf("start container: %s", msg)
		}
		// A runtime ends with 128 plus the signal that ended the process.
		if exit.Signal == 0 && exit.Status > 128 && exit.Status <= 128+64 {
			exit.Signal = syscall.Signal(exit.Status - 128)
		}
	}
	if err != nil {
		return err
	}
	return ioErr
}

// command is the runtime with its global options.
func (e *Executor) command(state string, args ...string) *exec.Cmd {
	return exec.Command(e.runtime, append(append(e.args[:len(e.args):len(e.args)], "--root", state), args...)...)
}

// stop kills the container, and when it cannot be killed through the runtime
// (it may just be starting) the runtime itself.
func (e *Executor) stop(state, id string, cmd *exec.Cmd, ended <-chan struct{}) {
	const grace = time.Second
	deadline := time.After(grace)
	for {
		_ = e.command(state, "kill", id, "KILL").Run()
		select {
		case <-ended:
			return
		case <-deadline:
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its process group
			_ = e.command(state, "delete", "--force", id).Run()
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// runtimeError is the last error in a runtime's JSON log; "" when there is
// none, so that what failed was the process.
func runtimeError(log string) string {
	data, err := os.ReadFile(log)
	if err != nil {
		return ""
	}
	var msg string
	for line := range bytes.Lines(data) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "fatal") {
			msg = entry.Msg
		}
	}
	return strings.TrimSpace(msg)
}
