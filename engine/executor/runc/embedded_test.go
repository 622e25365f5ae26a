package runc_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-build/mayfly/engine/executor"
	"github.com/mayfly-build/mayfly/engine/executor/runc"
)

// The test binary is also these commands.
const (
	probeCommand = "probe-syscall"  // makes a syscall that no kernel knows
	holdCommand  = "hold-container" // runs a container that does not end
)

func TestMain(m *testing.M) {
	if runc.IsInit() {
		runc.Init()
	}
	if len(os.Args) > 1 && os.Args[1] == probeCommand {
		_, _, errno := syscall.RawSyscall(5000, 0, 0, 0)
		fmt.Println(errno == syscall.ENOSYS, errno)
		return
	}
	if len(os.Args) > 3 && os.Args[1] == holdCommand {
		hold(os.Args[2], os.Args[3])
		return
	}
	os.Exit(m.Run())
}

// shellRoot is a root that has a shell and the host's libraries.
func shellRoot(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox (package busybox-static)")
	}
	root := t.TempDir()
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "sleep", "head", "tail", "cat", "true"} {
		if err := os.WriteFile(filepath.Join(root, "bin", name), data, 0o755); err != nil {
			t.Fatal(err)
		}
		data, _ = os.ReadFile(busybox)
	}
	return root
}

func TestUnknownSyscallIsENOSYS(t *testing.T) {
	root := shellRoot(t)
	e := newExecutor(t, "")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	mounts := []executor.Mount{{Source: self, Dest: "/probe", ReadOnly: true}}
	for _, dir := range []string{"/lib", "/lib64", "/usr/lib"} {
		if _, err := os.Stat(dir); err == nil {
			mounts = append(mounts, executor.Mount{Source: dir, Dest: dir, ReadOnly: true})
		}
	}
	var out bytes.Buffer
	err = e.Run(t.Context(), executor.Process{
		ID: rand.Text(), Root: root, Mounts: mounts, Args: []string{"/probe", probeCommand}, Stdout: &out, Stderr: &out,
	})
	if err != nil || !strings.HasPrefix(out.String(), "true") {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func Test100Parallel(t *testing.T) {
	root := shellRoot(t)
	for _, name := range []string{"dev", "etc", "proc", "sys"} { // the containers share the root: nothing to make
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"hosts", "resolv.conf"} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	e := newExecutor(t, "")
	var g sync.WaitGroup
	for i := range 100 {
		g.Go(func() {
			var out bytes.Buffer
			err := e.Run(t.Context(), executor.Process{
				ID: rand.Text(), Root: root, Args: []string{"/bin/sh", "-c", fmt.Sprintf("sleep 0.2; echo %d", i)}, Stdout: &out, Stderr: &out,
				Env: []string{"PATH=/bin"},
			})
			if want := fmt.Sprintln(i); err != nil || out.String() != want {
				t.Errorf("got %q, %v; want %q", out.String(), err, want)
			}
		})
	}
	g.Wait()
}

// memoryParent makes a cgroup that allows little memory.
func memoryParent(t *testing.T) (parent string) {
	t.Helper()
	name := "mayfly-test-" + rand.Text()
	for dir, limit := range map[string]string{
		"/sys/fs/cgroup/memory": "memory.limit_in_bytes",
		"/sys/fs/cgroup":        "memory.max",
	} {
		dir = filepath.Join(dir, name)
		if _, err := os.Stat(filepath.Join(filepath.Dir(dir), "cgroup.procs")); err != nil || os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			// The run has made the parent in all hierarchies.
			dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
			for _, d := range append(dirs, dir) {
				if err := os.Remove(d); err != nil && !os.IsNotExist(err) {
					t.Error(err)
				}
			}
		})
		if err := os.WriteFile(filepath.Join(dir, limit), []byte("33554432"), 0); err == nil {
			return name
		}
	}
	t.Skip("needs a writable memory cgroup")
	return ""
}

func TestOutOfMemory(t *testing.T) {
	root := shellRoot(t)
	parent := memoryParent(t)
	e := newExecutor(t, "")
	var out bytes.Buffer
	p := executor.Process{
		ID: rand.Text(), Root: root, Args: []string{"/bin/sh", "-c", "cat /proc/self/cgroup; x=$(head -c 200000000 /dev/zero | tail -c 100000000); exit 3"},
		Env: []string{"PATH=/bin"}, CgroupParent: parent, Stdout: &out, Stderr: &out,
	}
	err := e.Run(t.Context(), p)
	var exit *executor.ExitError
	if !errors.As(err, &exit) || !exit.OOM {
		t.Errorf("got %+v (%v), want OOM", exit, err)
	}
	if !strings.Contains(out.String(), "/"+parent+"/mayfly-"+p.ID) && !strings.Contains(out.String(), "0::/\n") {
		t.Errorf("not in the given cgroup:\n%s", out.String())
	}
	p.ID, p.Args = rand.Text(), []string{"/bin/sh", "-c", "exit 137"}
	if err := e.Run(t.Context(), p); !errors.As(err, &exit) || exit.OOM {
		t.Errorf("exit 137 gave %+v, want no OOM", exit)
	}
}

// hold runs a container that does not end by itself.
func hold(state, root string) {
	e, err := runc.New(runc.Config{StateDir: state})
	if err == nil {
		err = e.Run(context.Background(), executor.Process{
			ID: "held", Root: root, Args: []string{"/bin/sh", "-c", "echo held; sleep 31009 & sleep 31009"},
			Env: []string{"PATH=/bin"}, Stdout: os.Stdout, Stderr: os.Stderr,
		})
	}
	fmt.Println(err)
}

func TestKilledBinaryLeavesNoProcess(t *testing.T) {
	root, state := shellRoot(t), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, holdCommand, state, root)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "held\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	deadline := time.Now().Add(2 * time.Second)
	for held() > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d processes of the container live on", held())
		}
		time.Sleep(10 * time.Millisecond)
	}

	// What is left is swept by the next.
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(state, "held"), old, old); err != nil {
		t.Fatal(err)
	}
	sweep := func() {
		e, err := runc.New(runc.Config{StateDir: state})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	sweep()
	if entries, err := os.ReadDir(state); err != nil || len(entries) > 0 {
		t.Errorf("state directory has %v, %v", entries, err)
	}
	// A cgroup cannot be removed before whoever inherited the container's
	// processes has waited for them.
	prefix := fmt.Sprintf("mayfly-%d-", cmd.Process.Pid)
	for left := cgroupsNamed(prefix); len(left) > 0; left = cgroupsNamed(prefix) {
		if time.Now().After(deadline.Add(5 * time.Second)) {
			t.Fatalf("cgroups left: %v", left)
		}
		time.Sleep(50 * time.Millisecond)
		sweep()
	}
}

func cgroupsNamed(prefix string) (paths []string) {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, _ error) error {
		if d != nil && strings.HasPrefix(d.Name(), prefix) {
			paths = append(paths, path)
		}
		return nil
	})
	return paths
}

// held counts the processes of the held container.
func held() int {
	n := 0
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil && bytes.Contains(data, []byte("sleep\x0031009\x00")) {
			n++
		}
	}
	return n
}

// The rest of the suite's cases run again with other cgroups than this host's.
func inOtherCgroups(t *testing.T, setup, cases string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := exec.LookPath("unshare"); err != nil {
		t.Skip("needs unshare (package util-linux)")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := "mount --make-rprivate / && umount -R /sys/fs/cgroup && " + setup + ` || exit 99; exec "$0" -test.v -test.run "$1"`
	out, err := exec.Command("unshare", "-m", "sh", "-c", script, self, "^TestEmbedded$/^("+cases+")$").CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 99 {
		t.Skipf("cannot change the cgroups: %s", out)
	}
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestEmbedded/")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestUnifiedCgroups(t *testing.T) {
	inOtherCgroups(t, "mount -t cgroup2 none /sys/fs/cgroup",
		"ArgsEnvCwd|ExitStatus|Masks|DeviceRules|Namespaces|Cancel.*|BackgroundDiesWithFirst|Parallel")
}

func TestWithoutCgroups(t *testing.T) {
	inOtherCgroups(t, "true", "ArgsEnvCwd|ExitStatus|Cancel.*|BackgroundDiesWithFirst|Parallel")
}
