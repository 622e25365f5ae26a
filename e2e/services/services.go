// Package services starts the real counterparts that mayfly's tests, demo and
// benchmarks talk to.
//
//	e2e, bench, other packages' tests ──▶ services ──▶ docker-registry, buildkitd, jaeger,
//	                                                   git, HTTP file server
//
// Each Start function gives a running service with its address and a Close
// that stops it; Base and Debian put images made from Debian packages into a
// registry, since no image can be pulled where the tests run. The package
// knows nothing of mayfly's engine.
package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// DevDir is the directory of what hack/setup.sh made (bin/ with buildkitd,
// buildctl and golangci-lint) and of root file systems kept between runs:
// $MAYFLY_DEV, or mayfly-dev in the user's cache directory.
func DevDir() (string, error) {
	if d := os.Getenv("MAYFLY_DEV"); d != "" {
		return d, nil
	}
	c, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the directory of hack/setup.sh: %w", err)
	}
	return filepath.Join(c, "mayfly-dev"), nil
}

// Tool returns the path of a program, looked up in DevDir's bin and then in
// PATH. The error wraps exec.ErrNotFound.
func Tool(name string) (string, error) {
	d, err := DevDir()
	if err == nil {
		p := filepath.Join(d, "bin", name)
		if st, err := os.Stat(p); err == nil && !st.IsDir() {
			return p, nil
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find %s (run hack/setup.sh): %w", name, err)
	}
	return p, nil
}

// freeAddr returns a loopback address on which nobody listens at the moment.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// A process is a running service and what it said last on stderr.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended

	mu   sync.Mutex
	tail []byte // guarded by mu: the end of stderr
}

const tailSize = 4 << 10 // bytes of stderr kept for error messages

// Write keeps the end of what the process says.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tail = append(p.tail, b...)
	if n := len(p.tail) - tailSize; n > 0 {
		p.tail = p.tail[n:]
	}
	return len(b), nil
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(bytes.TrimSpace(p.tail))
}

// start runs cmd and waits until ready says so. A process that ends before is
// an error with what it said; so is one that is not ready in 20 seconds.
func start(cmd *exec.Cmd, ready func() bool) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	cmd.Stderr = p
	// A service must not outlive a test binary that panics or is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // how it ended does not matter: stop or ready reports it
	}()
	deadline := time.Now().Add(20 * time.Second)
	for !ready() {
		select {
		case <-p.done:
			return nil, fmt.Errorf("start %s: it ended at once: %s", cmd.Path, p.said())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("start %s: not ready after 20s: %s", cmd.Path, p.said()), p.stop())
		}
	}
	return p, nil
}

// stop asks the process to end, and kills it when it has not in 20 seconds
// (the time that BuildKit's own suites give a daemon).
func (p *process) stop() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.cmd.Path, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(20 * time.Second):
	}
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill %s: %w", p.cmd.Path, err)
	}
	<-p.done
	return fmt.Errorf("stop %s: still there 20s after SIGTERM; killed", p.cmd.Path)
}

// run runs a short command and returns its stdout; an error has its stderr.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	var out, msg bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &msg
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(name), err, bytes.TrimSpace(msg.Bytes()))
	}
	return out.Bytes(), nil
}
