package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/internal/hint"
)

// A setting is one of git's configuration. Settings go through the
// environment, not the arguments: other users of the machine see those.
type setting struct{ key, value string }

// A runner runs git commands that belong together.
type runner struct {
	env      []string
	settings []setting
	gitDir   string
	workTree string
	secrets  []string   // never in an error
	inherit  []*os.File // held open by each command
}

// stderrLimit bounds what is kept of a command's complaints, in bytes.
const stderrLimit = 64 << 10

// An exitError is a git command that failed.
type exitError struct {
	command string // its first word: "fetch"
	stderr  string
	err     error
}

func (e *exitError) Error() string {
	s := "git " + e.command + ": " + e.err.Error()
	if lines := e.complaint(); lines != "" {
		s = "git " + e.command + ": " + lines
	}
	return s
}

func (e *exitError) Unwrap() error { return e.err }

// complaint is the end of what git said, which is where it says why.
func (e *exitError) complaint() string {
	var out []string
	for line := range strings.Lines(e.stderr) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "hint:") {
			out = append(out, line)
		}
	}
	if len(out) > 8 {
		out = out[len(out)-8:]
	}
	return strings.Join(out, "; ")
}

func (r runner) with(gitDir, workTree string) runner {
	r.gitDir, r.workTree = gitDir, workTree
	return r
}

// run runs git and returns what it wrote.
func (r runner) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.Command("git")
	if r.gitDir != "" {
		cmd.Args = append(cmd.Args, "--git-dir", r.gitDir)
	}
	cmd.Dir = "/" // not where we are: that may be a repository with a configuration
	if r.workTree != "" {
		cmd.Args = append(cmd.Args, "--work-tree", r.workTree)
		cmd.Dir = r.workTree
	}
	cmd.Args = append(cmd.Args, args...)
	cmd.ExtraFiles = r.inherit
	cmd.Env = r.environ()
	var stdout bytes.Buffer
	stderr := &tail{limit: stderrLimit}
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	if errors.Is(cmd.Err, exec.ErrNotFound) {
		return "", hint.With(fmt.Errorf("git is not installed: %w", cmd.Err), "install git (apt-get install git), or check out before the build and give it the directory")
	}
	err := runGroup(ctx, cmd)
	if err == nil {
		return stdout.String(), nil
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	return "", &exitError{command: args[0], stderr: r.redact(stderr.String()), err: err}
}

// line is run for a command that writes one line.
func (r runner) line(ctx context.Context, args ...string) (string, error) {
	s, err := r.run(ctx, args...)
	return strings.TrimSpace(s), err
}

func (r runner) environ() []string {
	settings := append([]setting{
		// A repository must not name files of this machine as its submodules.
		{"protocol.file.allow", "user"},
		{"advice.detachedHead", "false"},
		{"init.defaultBranch", "master"},
		// Nothing goes on in the background after a command.
		{"gc.auto", "0"},
		{"maintenance.auto", "false"},
		{"checkout.workers", "0"}, // one for each CPU
		{"core.fsync", "none"},    // what a crash loses is fetched again
	}, r.settings...)
	env := append(slices.Clone(r.env),
		"GIT_TERMINAL_PROMPT=0", "GIT_ADVICE=0", "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "HOME="+os.DevNull, "GIT_CONFIG_GLOBAL="+os.DevNull,
		"GIT_CONFIG_COUNT="+strconv.Itoa(len(settings)))
	for i, s := range settings {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, s.key), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, s.value))
	}
	return env
}

func (r runner) redact(s string) string {
	for _, secret := range r.secrets {
		if secret != "" {
			s = strings.ReplaceAll(s, secret, masked)
		}
	}
	return s
}

// runGroup runs cmd in a process group of its own, which dies with ctx and
// with us, and with the umask 022 whatever ours is: modes are part of a tree.
func runGroup(ctx context.Context, cmd *exec.Cmd) error {
	done := make(chan error, 1)
	go func() {
		// The thread ends with the goroutine, and its umask with it.
		runtime.LockOSThread()
		if err := syscall.Unshare(syscall.CLONE_FS); err != nil {
			done <- fmt.Errorf("unshare: %w", err)
			return
		}
		syscall.Umask(0o022)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
		if err := cmd.Start(); err != nil {
			done <- err
			return
		}
		exited := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGTERM)
			select {
			case <-exited:
			case <-time.After(5 * time.Second):
				_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
			}
		})
		err := cmd.Wait()
		close(exited)
		stop()
		done <- err
	}()
	return <-done
}

// A tail keeps the last limit bytes written to it.
type tail struct {
	limit int
	buf   []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.limit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.buf) }
