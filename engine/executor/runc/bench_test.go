package runc_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/engine/executor"
	"github.com/mayfly-build/mayfly/engine/executor/runc"
)

func BenchmarkTrue(b *testing.B) {
	root := b.TempDir()
	os.MkdirAll(filepath.Join(root, "bin"), 0o755)
	if out, err := exec.Command("cp", "/bin/busybox", filepath.Join(root, "bin/true")).CombinedOutput(); err != nil {
		b.Fatal(string(out))
	}
	e, err := runc.New(runc.Config{StateDir: b.TempDir(), Runtime: os.Getenv("RUNTIME"), RuntimeArgs: strings.Fields(os.Getenv("RUNTIME_ARGS"))})
	if err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		i++
		err := e.Run(b.Context(), executor.Process{ID: "b" + strconv.Itoa(i), Root: root, Args: []string{"/bin/true"}, Stdout: os.Stdout, Stderr: os.Stderr})
		if err != nil {
			b.Fatal(err)
		}
	}
}
