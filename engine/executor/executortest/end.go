package executortest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-build/mayfly/engine/executor"
)

// alive counts the host's processes that have arg among their arguments.
func alive(arg string) int {
	n := 0
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil && bytes.Contains(data, []byte("\x00"+arg+"\x00")) {
			n++
		}
	}
	return n
}

func testBackground(f *fixture) {
	start := time.Now()
	out := f.script("sleep 31001 & (setsid sleep 31001 &) ; echo started")
	f.want("output", out, "started\n")
	if took := time.Since(start); took > 5*time.Second {
		f.Errorf("took %v", took)
	}
	if n := alive("31001"); n > 0 {
		f.Errorf("%d processes live on", n)
	}
}

func testCancel(f *fixture) {
	ctx, cancel := context.WithCancelCause(f.Context())
	defer cancel(nil)
	cause := errors.New("the user pressed Ctrl-C")
	p := f.process("trap '' TERM INT HUP; sleep 31002 & setsid sleep 31002 & echo started; while :; do sleep 31002; done")
	started := &waiter{want: "started"}
	started.Add(1)
	p.Stdout = started
	done := make(chan error, 1)
	go func() { done <- f.e.Run(ctx, p) }()
	started.Wait()
	cancel(cause)
	start := time.Now()
	if err := <-done; !errors.Is(err, cause) {
		f.Errorf("error is %v, want %v", err, cause)
	}
	if took := time.Since(start); took > 2*time.Second {
		f.Errorf("took %v to end", took)
	}
	if n := alive("31002"); n > 0 {
		f.Errorf("%d processes live on", n)
	}
}

// A waiter is done when want has been written.
type waiter struct {
	sync.WaitGroup
	want string
	seen bytes.Buffer
	done bool
}

func (w *waiter) Write(p []byte) (int, error) {
	w.seen.Write(p)
	if !w.done && strings.Contains(w.seen.String(), w.want) {
		w.done = true
		w.Done()
	}
	return len(p), nil
}

func testCancelBefore(f *fixture) {
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	if _, err := f.run(ctx, f.process("touch /ran")); !errors.Is(err, context.Canceled) {
		f.Errorf("error is %v, want %v", err, context.Canceled)
	}
	if _, err := os.Stat(f.path("ran")); err == nil {
		f.Error("the process ran")
	}
}

func testCancelEarly(f *fixture) {
	for i := range 20 {
		ctx, cancel := context.WithTimeout(f.Context(), time.Duration(i)*time.Millisecond)
		start := time.Now()
		_, err := f.run(ctx, f.process("sleep 31003"))
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			f.Errorf("after %d ms: error is %v, want %v", i, err, context.DeadlineExceeded)
		}
		if took := time.Since(start); took > 10*time.Second { // an external runtime may be slow to start
			f.Errorf("after %d ms: took %v", i, took)
		}
	}
	if n := alive("31003"); n > 0 {
		f.Errorf("%d processes live on", n)
	}
}

func testParallel(f *fixture) {
	const n = 30
	roots := make([]string, n)
	for i := range roots {
		roots[i] = newRoot(f.T, f.path("bin/busybox"))
	}
	var g sync.WaitGroup
	for i := range n {
		g.Go(func() {
			p := f.process(fmt.Sprintf("echo %d; hostname; exit %d", i, i%3))
			p.Root = roots[i]
			p.Hostname = fmt.Sprintf("h%d", i)
			out, err := f.run(f.Context(), p)
			if want := fmt.Sprintf("%d\nh%d\n", i, i); out != want {
				f.Errorf("got %q, want %q", out, want)
			}
			var exit *executor.ExitError
			if status := i % 3; (status == 0) != (err == nil) || status != 0 && (!errors.As(err, &exit) || exit.Status != status) {
				f.Errorf("exit %d gave %v", i%3, err)
			}
		})
	}
	g.Wait()
}
