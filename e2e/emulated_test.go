package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// emulated is an architecture that is not this machine's, and how the kernel
// and qemu know it.
func emulated() (arch, qemu string, machine byte) {
	if runtime.GOARCH == "arm64" {
		return "amd64", "qemu-x86_64-static", 62
	}
	return "arm64", "qemu-aarch64-static", 183
}

// registerEmulator makes the kernel run programs of the other architecture by
// qemu until the test ends.
func registerEmulator(t *testing.T, qemu string, machine byte) {
	t.Helper()
	bin, err := services.Tool(qemu)
	services.Need(t, err)
	dir := t.TempDir()
	if err := unix.Mount("binfmt_misc", dir, "binfmt_misc", 0, ""); err != nil {
		t.Skipf("binfmt_misc cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	// The ELF header of a program or library for 64 bits, little-endian.
	line := fmt.Sprintf(`:mayfly-e2e:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x%02x\x00:`+
		`\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:%s:F`, machine, bin)
	if err := os.WriteFile(filepath.Join(dir, "register"), []byte(line), 0); err != nil {
		t.Skipf("no emulator can be registered here: %v", err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(filepath.Join(dir, "mayfly-e2e"), []byte("-1"), 0); err != nil {
			t.Error(err)
		}
	})
}

// TestEmulatedRun runs a step of another architecture by qemu; without it the
// same step is an error.
func TestEmulatedRun(t *testing.T) {
	services.NeedRoot(t)
	if testing.Short() {
		t.Skip("compiles a program")
	}
	arch, qemu, machine := emulated()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"main.go": `package main

import (
	"os"
	"runtime"
)

func main() {
	if err := os.WriteFile("/ran-on", []byte(runtime.GOARCH), 0o644); err != nil {
		panic(err)
	}
}
`,
		"Dockerfile":    "FROM scratch\nCOPY tool /tool\nRUN [\"/tool\"]\n",
		".dockerignore": "*\n!tool\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "tool"), filepath.Join(dir, "main.go"))
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out := filepath.Join(dir, "out")
	args := []string{"--platform", "linux/" + arch, "-o", out, dir}
	root := filepath.Join(t.TempDir(), "state")
	if _, err := mayfly(t.Context(), t, root, nil, args...); err == nil {
		t.Skipf("this machine runs programs for %s already", arch)
	} else if !strings.Contains(err.Error(), "has no emulator for it") {
		t.Fatal(err)
	}
	registerEmulator(t, qemu, machine)
	if _, err := mayfly(t.Context(), t, root, nil, args...); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(out, "ran-on")); err != nil || string(got) != arch {
		t.Errorf("ran on %q, %v", got, err)
	}
}
