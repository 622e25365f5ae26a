package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// TestWorkflows has actionlint read our workflows and the examples.
func TestWorkflows(t *testing.T) {
	lint, err := services.Tool("actionlint")
	services.Need(t, err)
	args := []string{"-shellcheck=", "-pyflakes=", "-no-color"}
	for _, pattern := range []string{"../.github/workflows/*.yml", "../examples/github/*.yml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) < 3 {
			t.Fatalf("%s: %q, %v", pattern, paths, err)
		}
		args = append(args, paths...)
	}
	tool(t, lint, args...)
}

// TestPinned: what our own workflows run cannot be changed by moving a tag. The
// version in the comment is what dependabot goes by.
func TestPinned(t *testing.T) {
	paths, err := filepath.Glob("../.github/workflows/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	pinned := regexp.MustCompile(`^[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
	uses := regexp.MustCompile(`(?m)^\s*(?:- )?uses:\s*(.*)$`)
	seen := 0
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range uses.FindAllStringSubmatch(string(text), -1) {
			if seen++; m[1] != "./" && !pinned.MatchString(m[1]) {
				t.Errorf("%s: %q is not pinned by a commit with its version behind it", path, m[1])
			}
		}
	}
	if seen < 10 {
		t.Errorf("%d lines with uses", seen)
	}
}

// TestDependabot: every module and package is looked after.
func TestDependabot(t *testing.T) {
	text, err := os.ReadFile("../.github/dependabot.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"../go.mod", "../*/go.mod", "../hack/*/go.mod", "../hack/*/package.json"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			dir := "/" + strings.TrimPrefix(strings.TrimPrefix(filepath.Dir(path), ".."), "/")
			if strings.HasPrefix(dir, "/examples") || dir == "/hack/buildkit" { // which has the version that go.mod has
				continue
			}
			if !strings.Contains(string(text), "- "+dir+"\n") {
				t.Errorf("dependabot.yml does not have %s", dir)
			}
		}
	}
}
