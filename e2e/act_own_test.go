package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// ownFiles returns what of this repository its workflows need: the action, a
// workflow, and the files below dirs. `make build` copies the binary under test.
func ownFiles(t *testing.T, workflow string, dirs ...string) map[string]string {
	t.Helper()
	files := map[string]string{"Makefile": "build:\n\tinstall -D $(MAYFLY_BINARY) bin/mayfly\n"}
	paths := append([]string{".github/workflows/" + workflow}, actionFiles...)
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join("..", dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				paths = append(paths, strings.TrimPrefix(path, "../"))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range paths {
		text, err := os.ReadFile(filepath.Join("..", path))
		if err != nil {
			t.Fatal(err)
		}
		files[path] = string(text)
	}
	return files
}

// TestActOwn runs what .github/workflows/e2e.yml does with the action itself.
func TestActOwn(t *testing.T) {
	_, err := services.Tool("jq")
	services.Need(t, err)
	r := newActRepo(t, newRegistryWithLogin(t), ownFiles(t, "e2e.yml", "examples/hello"))
	// A toolchain that makes files.
	reg, err := services.StartRegistry(services.RegistryConfig{})
	services.Use(t, reg, err)
	services.Need(t, services.Base(t.Context(), reg.Addr+"/toolchain", services.File{
		Path: "bin/go", Mode: 0o755, Data: []byte("#!/bin/sh\ncase $1 in build) mkdir -p /out && echo program >/out/hello ;; *) echo go $1 ;; esac\n"),
	}))
	r.args = []string{"-j", "again", "--var", "TOOLCHAIN=" + reg.Addr + "/toolchain"}
	run := r.run(t, "push", map[string]any{"ref": "refs/heads/main", "repository": map[string]any{"default_branch": "main"}})
	if !run.ok || len(run.annotations("error")) > 0 {
		t.Errorf("it failed:\n%s", run.log)
	}
	for _, step := range []string{"Main Every step is from the cache", "Main A job that may only read writes nothing"} {
		if !strings.Contains(run.log, "Success - "+step) {
			t.Errorf("there is no step %q:\n%s", step, run.log)
		}
	}
}
