package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestActionArguments: mayfly build reads what package action makes of steps.
func TestActionArguments(t *testing.T) {
	paths, err := filepath.Glob("../../action/testdata/steps/*.txtar")
	if err != nil || len(paths) < 12 {
		t.Fatalf("%d steps, %v", len(paths), err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			if f.Name != "args" {
				continue
			}
			args := strings.Split(strings.TrimSuffix(string(f.Data), "\n"), "\n")
			for i, a := range args {
				if s, err := strconv.Unquote(a); err == nil && strings.HasPrefix(a, `"`) {
					args[i] = s
				}
			}
			w := worldOf(nil, "")
			o, err := parseBuild(w, args)
			if err == nil {
				_, err = outputs(w, o)
			}
			if err == nil {
				err = frontendOptions(w, o, map[string]string{})
			}
			if err != nil || o.context == "" || o.metadataFile == "" {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}

func TestShellQuoted(t *testing.T) {
	for s, want := range map[string]string{
		"": "''", "a/b:c@d=e,f": "a/b:c@d=e,f", "a b": "'a b'", "it's": `'it'\''s'`, "$HOME": "'$HOME'", "a\nb": "'a\nb'", "é": "'é'",
	} {
		if got := shellQuoted(s); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

// TestAction builds without a base image or a step.
func TestAction(t *testing.T) {
	dir := contextDir(t)
	file := func(name string) string { return filepath.Join(dir, name) }
	env := map[string]string{
		"INPUT_CONTEXT": dir, "INPUT_TAGS": "acme/app", "INPUT_REPORT": file("report.md"), "INPUT_ROOT": file("state"),
		"INPUT_BUILD-ARGS": "API_TOKEN=hunter2\nFLAGS=-s", "INPUT_CACHE": "off",
		"GITHUB_OUTPUT": file("output"), "GITHUB_STEP_SUMMARY": file("summary"), "GITHUB_WORKSPACE": dir,
	}
	code, stdout, stderr := mayfly(t, env, "", "action")
	if code != exitOK || stderr != "" {
		t.Fatalf("exit status %d, %s\n%s", code, stderr, stdout)
	}
	for _, want := range []string{"::group::Inputs", "API_TOKEN=***", "FLAGS=-s", "DONE 0.0s [1/1] COPY f /", "::group::exporting to image", "::group::ImageID", "::group::Digest", "::group::Metadata"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the log has no %q:\n%s", want, stdout)
		}
	}
	if strings.Contains(stdout, "hunter2") {
		t.Errorf("a token is shown:\n%s", stdout)
	}
	for name, want := range map[string]string{"output": `"containerimage.digest": "sha256:`, "summary": "acme/app", "report.md": "acme/app"} {
		if data, err := os.ReadFile(file(name)); err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s has no %q, %v:\n%s", name, want, err, data)
		}
	}

	// One that cannot be built says where, and what it knows.
	writeFile(t, file("Dockerfile"), "FROM scratch\n\nCOPY missing /\n")
	for _, name := range []string{"output", "summary"} {
		if err := os.Remove(file(name)); err != nil {
			t.Fatal(err)
		}
	}
	code, stdout, stderr = mayfly(t, env, "", "action")
	if code != exitFailed || !strings.Contains(stdout, "::error endLine=3,file=Dockerfile,line=3,title=COPY missing /::") || !strings.Contains(stderr, "error: Dockerfile:3: COPY missing /") {
		t.Errorf("exit status %d, %s\n%s", code, stderr, stdout)
	}
	for name, want := range map[string]string{"output": `"mayfly.error": "Dockerfile:3: COPY`, "summary": "failed"} {
		if data, err := os.ReadFile(file(name)); err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s has no %q, %v:\n%s", name, want, err, data)
		}
	}

	// An input that is wrong is an annotation too.
	env["INPUT_PUSH"] = "yes"
	if code, stdout, _ := mayfly(t, env, "", "action"); code != exitFailed || !strings.Contains(stdout, "::error title=mayfly::input push: ") {
		t.Errorf("exit status %d\n%s", code, stdout)
	}
	if code, _, stderr := mayfly(t, nil, "", "action", "."); code != exitUsage || !strings.Contains(stderr, "from the environment") {
		t.Errorf("exit status %d, %s", code, stderr)
	}
}
