package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// A bench is the place where measurements happen.
type bench struct {
	options
	log   io.Writer
	state string // the tools' state directories
	trash string // what they were before; removed at the end
	work  string // contexts

	registry *services.Registry
	proxy    *httptest.Server // delays requests; nil without -delay
	host     string           // of the registry, or of the proxy before it
	moved    int
	multi    bool // the image of W8 is there
}

func newBench(ctx context.Context, o options, log io.Writer) (_ *bench, err error) {
	b := &bench{options: o, log: log, state: filepath.Join(o.dir, "state"), trash: filepath.Join(o.dir, "trash"), work: filepath.Join(o.dir, "work")}
	for _, d := range []string{b.state, b.trash, filepath.Join(o.dir, "bin")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	data := filepath.Join(o.dir, "registry")
	if err := b.discard(data); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(data, 0o755); err != nil {
		return nil, err
	}
	if b.registry, err = services.StartRegistry(services.RegistryConfig{Dir: data}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	b.host = b.registry.Addr
	if o.delay > 0 {
		target := &url.URL{Scheme: "http", Host: b.registry.Addr}
		h := httputil.NewSingleHostReverseProxy(target)
		b.proxy = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(o.delay)
			h.ServeHTTP(w, r)
		}))
		b.host = strings.TrimPrefix(b.proxy.URL, "http://")
	}
	gen := filepath.Join(o.dir, "bin", "gen")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", gen, "github.com/mayfly-build/mayfly/bench/gen")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build gen: %w: %s", err, out)
	}
	bin, err := os.ReadFile(gen)
	if err != nil {
		return nil, err
	}
	if err := services.Base(ctx, b.registry.Addr+"/bench/base", services.File{Path: "bin/gen", Mode: 0o755, Data: bin}); err != nil {
		return nil, err
	}
	fmt.Fprintln(log, "making the contexts in", b.work)
	return b, writeContexts(b.work)
}

// close stops the registry and removes what the measurements left. The
// contexts stay for the next run.
func (b *bench) close() error {
	if b.proxy != nil {
		b.proxy.Close()
	}
	return errors.Join(b.registry.Close(), os.RemoveAll(filepath.Join(b.dir, "registry")), os.RemoveAll(b.trash), os.RemoveAll(b.state))
}

func (b *bench) ref(repo string) string { return b.host + "/bench/" + repo }

// leastFree is the disk space below which a measurement is refused, in bytes:
// the largest workload writes some 2 GB.
const leastFree = 5 << 30

// discard moves a directory out of the way. Removing it at once would slow
// what is measured next: ext4 steps over freshly deleted inodes one by one,
// and makes files up to nine times slower for some seconds.
func (b *bench) discard(dir string) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(b.dir, &fs); err != nil {
		return fmt.Errorf("look for free space in %s: %w", b.dir, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < leastFree {
		return fmt.Errorf("%s has only %d MiB free", b.dir, free>>20)
	}
	b.moved++
	err := os.Rename(dir, filepath.Join(b.trash, fmt.Sprintf("%d-%d", os.Getpid(), b.moved)))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// fresh gives t an empty machine: no state, everything written back, no other
// load (or b.quiet waited for that).
func (b *bench) fresh(ctx context.Context, t tool) error {
	if err := b.discard(t.state()); err != nil {
		return err
	}
	return b.settle(ctx)
}

func (b *bench) settle(ctx context.Context) error {
	syscall.Sync()
	const window = 700 * time.Millisecond
	for end := time.Now().Add(b.quiet); time.Now().Before(end); {
		before, err := busy()
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(window):
		}
		after, err := busy()
		if err != nil {
			return err
		}
		if cores := (after - before).Seconds() / window.Seconds(); cores < 0.25 {
			return nil
		}
	}
	return nil
}

// busy is the processor time that all cores have spent on work since boot.
func busy() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	var user, nice, system, idle, iowait, irq, softirq int64
	if _, err := fmt.Sscanf(string(b), "cpu %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &iowait, &irq, &softirq); err != nil {
		return 0, fmt.Errorf("read /proc/stat: %w", err)
	}
	return time.Duration(user+nice+system+irq+softirq) * 10 * time.Millisecond, nil // USER_HZ is 100 on Linux
}

// A sample is one measurement.
type sample struct {
	row      string
	took     time.Duration
	requests int   // to the registry; 0 when not counted
	down     int64 // bytes that the registry sent
	peak     int64 // bytes of memory; 0 when not measured
}

// whole measures a job from an empty machine to the end of the tool: boot,
// build and stop.
func (b *bench) whole(ctx context.Context, t tool, row string, j job) (sample, error) {
	s := sample{row: row}
	if err := b.fresh(ctx, t); err != nil {
		return s, err
	}
	before, err := b.registry.Requests()
	if err != nil {
		return s, err
	}
	begin := time.Now()
	if err := t.start(); err != nil {
		return s, err
	}
	buildErr := t.build(ctx, j)
	s.peak, err = t.stop()
	s.took = time.Since(begin)
	if err := errors.Join(buildErr, err); err != nil {
		return s, err
	}
	after, err := b.registry.Requests()
	if err != nil {
		return s, err
	}
	for _, q := range after[len(before):] {
		s.requests++
		if q.Method == http.MethodGet {
			s.down += q.Bytes
		}
	}
	return s, nil
}

// builds measures jobs one after another on one state directory that is empty
// at first, each without boot and stop. before, when not nil, runs ahead of
// each job and is not measured.
func (b *bench) builds(ctx context.Context, t tool, rows []string, jobs []job, before func(int) error) (out []sample, err error) {
	if err := b.fresh(ctx, t); err != nil {
		return nil, err
	}
	if err := t.start(); err != nil {
		return nil, err
	}
	defer func() {
		peak, e := t.stop()
		err = errors.Join(err, e)
		if len(out) > 0 {
			out[0].peak = peak
		}
	}()
	for i, j := range jobs {
		if before != nil {
			if err := before(i); err != nil {
				return nil, err
			}
		}
		begin := time.Now()
		if err := t.build(ctx, j); err != nil {
			return nil, err
		}
		out = append(out, sample{row: rows[i], took: time.Since(begin)})
	}
	return out, nil
}
