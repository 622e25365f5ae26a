// Package executortest says in tests what executor.Executor says in words.
//
//	runc (embedded, crun, runc) ──newExecutor──▶ executortest.Run
//
// The processes are those of Debian's static busybox in a root made for each
// test. Everything needs root.
package executortest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mayfly-build/mayfly/engine/executor"
)

// Run runs the suite; newExecutor makes an Executor for one test. Tests named
// in lacking are skipped: the implementation cannot do that on this host.
func Run(t *testing.T, newExecutor func(t *testing.T) executor.Executor, lacking ...string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox (package busybox-static)")
	}
	for _, test := range []struct {
		name string
		f    func(*fixture)
	}{
		{"ArgsEnvCwd", testArgsEnvCwd},
		{"Streams", testStreams},
		{"StreamsKeepTheirOrder", testStreamsOrder},
		{"Stdin", testStdin},
		{"BigOutputIsWhole", testBigOutput},
		{"WriterErrorIsTold", testWriterError},
		{"ExitStatus", testExitStatus},
		{"SignalAndCPULimit", testSignal},
		{"CommandNotFound", testNotFound},
		{"BadProcess", testBadProcess},
		{"User", testUser},
		{"UserUnknown", testUserUnknown},
		{"CwdIsMade", testCwdMade},
		{"MountKinds", testMountKinds},
		{"MountNested", testMountNested},
		{"MountTmpfs", testMountTmpfs},
		{"MountTmpfsKeepsMode", testMountTmpfsMode},
		{"MountThroughLinks", testMountLinks},
		{"MountReplacesDefault", testMountReplaces},
		{"StubsAreRemoved", testStubs},
		{"StubsRecursive", testStubsRecursive},
		{"StubsKeepContent", testStubsKeep},
		{"ReadOnlyRoot", testReadOnlyRoot},
		{"Masks", testMasks},
		{"Capabilities", testCapabilities},
		{"Filter", testFilter},
		{"Devices", testDevices},
		{"DeviceRules", testDeviceRules},
		{"Namespaces", testNamespaces},
		{"Ulimits", testUlimits},
		{"UlimitsAreOurs", testUlimitsOurs},
		{"HostsAndHostname", testHosts},
		{"NetworkNone", testNetworkNone},
		{"NetworkHost", testNetworkHost},
		{"BackgroundDiesWithFirst", testBackground},
		{"CancelKillsTree", testCancel},
		{"CancelBeforeStart", testCancelBefore},
		{"CancelWhileStarting", testCancelEarly},
		{"Sequential", testSequential},
		{"Parallel", testParallel},
	} {
		t.Run(test.name, func(t *testing.T) {
			if slices.Contains(lacking, test.name) {
				t.Skip("not on this host")
			}
			f := &fixture{T: t, e: newExecutor(t), root: newRoot(t, busybox), id: rand.Text()}
			before := children(t)
			test.f(f)
			if left := f.leftovers(); left != "" {
				t.Errorf("left behind:\n%s", left)
			}
			if after := children(t); after != before {
				t.Errorf("children before: %s, after: %s", before, after)
			}
		})
	}
}

// A fixture is what one test works with.
type fixture struct {
	*testing.T
	e    executor.Executor
	root string
	id   string // begins the IDs of its containers
	n    atomic.Int64
}

// newRoot makes a root with busybox and a few accounts.
func newRoot(t *testing.T, busybox string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	for _, dir := range []string{"bin", "etc", "tmp", "home/ann"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	must(t, os.Chmod(filepath.Join(root, "tmp"), 0o1777))
	data, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(root, "bin/busybox"), data, 0o755))
	list, err := exec.Command(busybox, "--list").Output()
	must(t, err)
	for name := range strings.FieldsSeq(string(list)) {
		if name != "busybox" {
			must(t, os.Symlink("busybox", filepath.Join(root, "bin", name)))
		}
	}
	must(t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "etc/group"), []byte("root:x:0:\nann:x:1000:\nwheel:x:10:root,ann\nbuild:x:20:ann\n"), 0o644))
	return root
}

// leftovers lists what a run must not leave: mounts below the root, cgroups of
// the fixture's containers.
func (f *fixture) leftovers() string {
	var b strings.Builder
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(f.T, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, f.root) {
			b.WriteString(line)
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() && strings.Contains(d.Name(), f.id) {
			b.WriteString(path + "\n")
		}
		return nil // other containers come and go
	})
	return b.String()
}

// children are our own, dead or alive.
func children(t *testing.T) string {
	t.Helper()
	var pids []string
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, task := range tasks {
		data, _ := os.ReadFile(task)
		pids = append(pids, strings.Fields(string(data))...)
	}
	slices.Sort(pids)
	return strings.Join(pids, " ")
}

// process is sh with a script in the fixture's root.
func (f *fixture) process(script string) executor.Process {
	return executor.Process{
		ID:   fmt.Sprintf("%s-%d", f.id, f.n.Add(1)),
		Root: f.root,
		Args: []string{"/bin/sh", "-c", script},
		Env:  []string{"PATH=/bin"},
		Cwd:  "/",
	}
}

// output runs p and returns what it wrote to both streams; p must succeed.
func (f *fixture) output(p executor.Process) string {
	f.Helper()
	out, err := f.run(f.Context(), p)
	if err != nil {
		f.Fatalf("run %q: %v\n%s", p.Args, err, out)
	}
	return out
}

func (f *fixture) run(ctx context.Context, p executor.Process) (string, error) {
	var out bytes.Buffer
	if p.Stdout == nil {
		p.Stdout, p.Stderr = &out, &out
	}
	err := f.e.Run(ctx, p)
	return out.String(), err
}

// script runs sh in the default process.
func (f *fixture) script(script string) string {
	f.Helper()
	return f.output(f.process(script))
}

// path is a host path below the root.
func (f *fixture) path(name string) string { return filepath.Join(f.root, name) }

func (f *fixture) want(what, got, want string) {
	f.Helper()
	if got != want {
		f.Errorf("%s: got\n%s\nwant\n%s", what, got, want)
	}
}

// exit is the ExitError in err.
func (f *fixture) exit(err error) *executor.ExitError {
	f.Helper()
	var exit *executor.ExitError
	if !errors.As(err, &exit) {
		f.Fatalf("error is %v, want an ExitError", err)
	}
	return exit
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
