package runc_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/mayfly-build/mayfly/engine/executor"
	"github.com/mayfly-build/mayfly/engine/executor/executortest"
	"github.com/mayfly-build/mayfly/engine/executor/runc"
)

func newExecutor(t testing.TB, runtime string) *runc.Executor {
	t.Helper()
	e, err := runc.New(runc.Config{StateDir: t.TempDir(), Runtime: runtime})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func TestEmbedded(t *testing.T) {
	executortest.Run(t, func(t *testing.T) executor.Executor { return newExecutor(t, "") })
}

func TestRunc(t *testing.T) {
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("needs runc (package runc)")
	}
	executortest.Run(t, func(t *testing.T) executor.Executor { return newExecutor(t, "runc") },
		"StreamsKeepTheirOrder", // runc has a pipe of its own for each
		"UlimitsAreOurs")        // runc 1.1 built with Go 1.19 raises the number of files

}

func TestCrun(t *testing.T) {
	if _, err := exec.LookPath("crun"); err != nil {
		t.Skip("needs crun (package crun)")
	}
	path := externalRuntime(t, "crun")
	executortest.Run(t, func(t *testing.T) executor.Executor { return newExecutor(t, path) },
		"MountTmpfsKeepsMode") // crun gives every tmpfs mode 1777
}

// externalRuntime is the runtime name in a form that works here: crun refuses
// to when both versions of cgroups are mounted, so one is taken away.
func externalRuntime(t testing.TB, name string) string {
	if _, err := os.Stat("/sys/fs/cgroup/unified"); name != "crun" || err != nil {
		return name
	}
	path := filepath.Join(t.TempDir(), "crun")
	const script = "#!/bin/sh\nexec unshare -m sh -c 'umount /sys/fs/cgroup/unified; exec crun \"$@\"' crun \"$@\"\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
