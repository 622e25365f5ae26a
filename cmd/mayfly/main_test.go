package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mayfly runs a command with its own environment and standard input.
func mayfly(t *testing.T, env map[string]string, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = Main(t.Context(), args, getenv(env), strings.NewReader(stdin), &out, &err)
	return code, out.String(), err.String()
}

func getenv(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := env[name]; return v, ok }
}

func worldOf(env map[string]string, stdin string) world {
	return world{getenv: getenv(env), stdin: strings.NewReader(stdin), stdout: new(bytes.Buffer), stderr: new(bytes.Buffer)}
}

// contextDir makes a context that builds without a base image or a step.
func contextDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "Dockerfile"), "FROM scratch\nCOPY f /\n")
	writeFile(t, filepath.Join(dir, "f"), "hello")
	return dir
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestExitStatus(t *testing.T) {
	dir := contextDir(t)
	tests := []struct {
		args   string // DIR is the context
		code   int
		stderr []string
	}{
		{"", exitUsage, []string{"Usage:", "no command"}},
		{"fly", exitUsage, []string{`"fly"`, "build, merge, meta, cache, debug, action and version"}},
		{"version", exitOK, nil},
		{"--version", exitOK, nil},
		{"help", exitOK, nil},
		{"build --help", exitOK, []string{"--cache-to", "--metadata-file"}},
		{"build", exitUsage, []string{"one context", "0 are given"}},
		{"build a b", exitUsage, []string{"one context", "2 are given"}},
		{"build --no-such-flag DIR", exitUsage, []string{"--no-such-flag", "hint:", "--help"}},
		{"build --max-parallelism many DIR", exitUsage, []string{"max-parallelism"}},
		{"build --progress loud DIR", exitUsage, []string{`"loud"`, "auto, plain, tty, rawjson, quiet, azure, buildkite, github, gitlab"}},
		{"build -o type=image,nosuch=1 DIR", exitUsage, []string{"nosuch", "the known ones are", "compression", "name", "push"}},
		{"build -o type=floppy DIR", exitUsage, []string{"floppy", "image, registry, oci, docker, tar, local"}},
		{"build --cache-to type=registry,ref=x/y,colour=red DIR", exitUsage, []string{"colour", "ignore-error", "mode", "ref"}},
		{"build --cache-from type=local,src=x,colour=red DIR", exitUsage, []string{"colour", "digest", "src"}},
		{"build --secret id=a,src=f,colour=red DIR", exitUsage, []string{"colour", "env, id, source, src"}},
		{"build --allow everything DIR", exitUsage, []string{"everything", "network.host, security.insecure"}},
		{"build --network moon DIR", exitUsage, []string{"moon", "default, host, none"}},
		{"build --push DIR", exitUsage, []string{"-t"}},
		{"build -f - -", exitUsage, []string{"standard input"}},
		{"build DIR/missing", exitFailed, []string{"DIR/missing", "hint:"}},
		{"build -f DIR/missing DIR", exitFailed, []string{"DIR/missing", "hint:", "-f"}},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			args := strings.Fields(strings.ReplaceAll(tt.args, "DIR", dir))
			code, _, stderr := mayfly(t, map[string]string{"XDG_CACHE_HOME": t.TempDir()}, "", args...)
			if code != tt.code {
				t.Errorf("exit status %d, not %d", code, tt.code)
			}
			for _, want := range tt.stderr {
				if !strings.Contains(stderr, strings.ReplaceAll(want, "DIR", dir)) {
					t.Errorf("%q is not in\n%s", want, stderr)
				}
			}
			if tt.code != exitOK && !strings.Contains(stderr, "error: ") {
				t.Errorf("no error is printed:\n%s", stderr)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	if _, stdout, _ := mayfly(t, nil, "", "version"); stdout != "mayfly "+version+"\n" {
		t.Errorf("printed %q", stdout)
	}
}

// A build's result is on standard output and in files, its progress on
// standard error.
func TestBuildResult(t *testing.T) {
	dir, out := contextDir(t), t.TempDir()
	iid := filepath.Join(out, "iid")
	code, stdout, stderr := mayfly(t, nil, "", "build", "--root", t.TempDir(), "--snapshotter", "native",
		"--progress", "plain", "--iidfile", iid, "-t", "app", "-o", "type=oci,dest="+filepath.Join(out, "app.tar"), dir)
	if code != exitOK {
		t.Fatalf("exit status %d:\n%s", code, stderr)
	}
	if !strings.HasPrefix(stdout, "sha256:") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("standard output: %q", stdout)
	}
	if !strings.Contains(stderr, "COPY f /") {
		t.Errorf("the progress does not show the step:\n%s", stderr)
	}
	if dt, err := os.ReadFile(iid); err != nil || !strings.HasPrefix(string(dt), "sha256:") {
		t.Errorf("the iidfile has %q, %v", dt, err)
	}
	if es, err := os.ReadDir(out); err != nil || len(es) != 2 {
		t.Errorf("written: %v, %v", es, err)
	}
}

func TestFailedBuildShowsTheLine(t *testing.T) {
	for name, tt := range map[string]struct{ dockerfile, place, line string }{
		"step":   {"FROM scratch\n\nCOPY f /\nCOPY nosuchfile /\n", "Dockerfile:4", "   4 | >>> COPY nosuchfile /"},
		"syntax": {"FROM scratch\nCOPY f /\nFETCH it\n", "Dockerfile:3", "   3 | >>> FETCH it"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, out := contextDir(t), filepath.Join(t.TempDir(), "out.tar")
			writeFile(t, filepath.Join(dir, "Dockerfile"), tt.dockerfile)
			code, stdout, stderr := mayfly(t, nil, "", "build", "--root", t.TempDir(), "--snapshotter", "native",
				"--progress", "plain", "--metadata-file", out+".json", "-o", "type=tar,dest="+out, dir)
			if code != exitFailed || stdout != "" {
				t.Errorf("exit status %d, standard output %q", code, stdout)
			}
			for _, want := range []string{tt.line, "error: " + tt.place + ": "} {
				if !strings.Contains(stderr, want) {
					t.Errorf("%q is not in\n%s", want, stderr)
				}
			}
			if es, err := os.ReadDir(filepath.Dir(out)); err != nil || len(es) != 0 {
				t.Errorf("a failed build left %v, %v", es, err)
			}
		})
	}
}
