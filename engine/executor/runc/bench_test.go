package runc_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-build/mayfly/engine/executor"
)

// BenchmarkTrue is the cost of a container in which nothing happens. Beside
// the mean it tells the shortest and the processor time, which a busy machine
// changes less.
func BenchmarkTrue(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		b.Skip("needs busybox (package busybox-static)")
	}
	for _, runtime := range []string{"", "runc", "crun"} {
		name := runtime
		if runtime == "" {
			name = "embedded"
		}
		b.Run(name, func(b *testing.B) {
			if _, err := exec.LookPath(runtime); runtime != "" && err != nil {
				b.Skip(err)
			}
			benchTrue(b, busybox, externalRuntime(b, runtime))
		})
	}
}

func benchTrue(b *testing.B, busybox, runtime string) {
	root := b.TempDir()
	if err := os.Mkdir(filepath.Join(root, "bin"), 0o755); err != nil {
		b.Fatal(err)
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/true"), data, 0o755); err != nil {
		b.Fatal(err)
	}
	e := newExecutor(b, runtime)
	n, shortest := 0, time.Hour
	run := func() {
		n++
		start := time.Now()
		err := e.Run(b.Context(), executor.Process{
			ID:     "bench" + strconv.Itoa(n),
			Root:   root,
			Args:   []string{"/bin/true"},
			Stdout: io.Discard,
			Stderr: io.Discard,
		})
		if err != nil {
			b.Fatal(err)
		}
		shortest = min(shortest, time.Since(start))
	}
	run() // compiles the filter
	cpu := cpuTime(b)
	runs := n
	for b.Loop() {
		run()
	}
	b.ReportMetric(float64(cpuTime(b)-cpu)/1e6/float64(n-runs), "cpu-ms/op")
	b.ReportMetric(float64(shortest)/1e6, "min-ms")
}

// cpuTime is what this process and its children have used.
func cpuTime(b *testing.B) time.Duration {
	var sum time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}
