package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// A job is a job of a workflow in a directory of its own, with an empty state
// dir.
type job struct {
	dir string
	env map[string]string
}

// newJob makes the environment that a runner makes. The job's context is app.
func newJob(t *testing.T, in map[string]string) *job {
	t.Helper()
	dir := t.TempDir()
	j := &job{dir: dir, env: map[string]string{
		"PATH": os.Getenv("PATH"), "HOME": filepath.Join(dir, "home"), "CI": "true", "GITHUB_ACTIONS": "true",
		"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "acme/app", "GITHUB_REF": "refs/heads/main",
		"GITHUB_SHA": "4b825dc642cb6eb9a060e54bf8d69288fbee4904", "GITHUB_EVENT_NAME": "push", "GITHUB_WORKSPACE": dir,
		"GITHUB_OUTPUT": filepath.Join(dir, "output"), "GITHUB_STEP_SUMMARY": filepath.Join(dir, "summary"),
		"GITHUB_STATE": filepath.Join(dir, "state"), "RUNNER_TEMP": filepath.Join(dir, "temp"), "TMPDIR": filepath.Join(dir, "temp"),
		"INPUT_LOAD": "false", "INPUT_NO-CACHE": "false", "INPUT_PULL": "false", "INPUT_PUSH": "false", "INPUT_CACHE": "auto",
	}}
	for _, d := range []string{"home", "temp", "app"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range in {
		if v, ok := strings.CutPrefix(name, "$"); ok {
			j.env[v] = value
			continue
		}
		j.env["INPUT_"+strings.ToUpper(name)] = value
	}
	return j
}

func (j *job) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(j.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// gha gives the job the cache service of a repository.
func (j *job) gha(c *services.Cache, repo *services.GHARepository) {
	j.env["ACTIONS_RESULTS_URL"], j.env["ACTIONS_CACHE_SERVICE_V2"] = c.GHA.URL+"/", "True"
	j.env["ACTIONS_RUNTIME_TOKEN"] = repo.Token(services.GHAScope{Scope: "refs/heads/main", Permission: services.GHAReadWrite})
}

func (j *job) command(prog string, args ...string) *exec.Cmd {
	cmd := exec.Command(prog, args...)
	cmd.Dir = j.dir
	for name, value := range j.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

// run runs mayfly action and returns its exit status and what it said.
func (j *job) run(t *testing.T) (int, string) {
	t.Helper()
	return status(t, j.command(mayflyBin, "action"))
}

func status(t *testing.T, cmd *exec.Cmd) (int, string) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// outputs returns the outputs of the step.
func (j *job) outputs(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile(j.env["GITHUB_OUTPUT"])
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	lines := strings.Split(string(data), "\n")
	for len(lines) > 1 {
		name, end, ok := strings.Cut(lines[0], "<<")
		n := slices.Index(lines[1:], end)
		if !ok || n < 0 {
			t.Fatalf("outputs %q", data)
		}
		out[name] = strings.Join(lines[1:1+n], "\n")
		lines = lines[n+2:]
	}
	return out
}

func (j *job) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(j.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (j *job) want(t *testing.T, what, text string, all ...string) {
	t.Helper()
	for _, w := range all {
		if !strings.Contains(text, w) {
			t.Errorf("%s has no %q:\n%s", what, w, text)
		}
	}
}

// TestActionCache runs one step in three jobs: the second one, on an empty
// runner, has everything from the Actions cache; the third one has another file.
func TestActionCache(t *testing.T) {
	services.NeedRoot(t)
	reg := services.NewRegistry(t)
	cache, err := services.StartCache(t.Context(), "gha", services.CacheConfig{})
	services.Use(t, cache, err)
	repo := cache.GHA.NewRepository()
	digests := map[string]bool{}
	for n := range 3 {
		j := newJob(t, map[string]string{
			"context": "./app", "push": "true", "tags": reg.Addr + "/app:1\n" + reg.Addr + "/app:latest",
			"build-args": "BASE=" + reg.Addr + "/base\nGREETING=hello, world", "labels": "a=b,c",
			"secrets": "\"KEY=line one s3cret\nline two\n\"", "builder": "builder-1",
			"provenance": "false", // its times would make another image each time
		})
		j.gha(cache, repo)
		j.write(t, "app/Dockerfile", "ARG BASE\nFROM $BASE as base\nARG GREETING\nCOPY f /f\nRUN --mount=type=secret,id=KEY grep -q two /run/secrets/KEY && echo \"$GREETING\" >/greeting\n")
		j.write(t, "app/f", []string{"f", "f", "changed"}[n])
		code, out := j.run(t)
		if code != 0 {
			t.Fatalf("job %d ended with %d:\n%s", n, code, out)
		}
		for name, cached := range plainSteps(out) {
			if cached != (n == 1) && !strings.Contains(name, "FROM") {
				t.Errorf("job %d: %s cached: %v", n, name, cached)
			}
		}
		if len(plainSteps(out)) == 0 {
			t.Errorf("no steps:\n%s", out)
		}
		j.want(t, "the log", out, "::add-mask::line one s3cret%0Aline two%0A\n", "::group::Inputs", "::group::pushing ", "::group::ImageID", "::group::Digest", "::group::Metadata",
			"::warning endLine=2,file=app/Dockerfile,line=2::FromAsCasing")
		if strings.Count(out, "s3cret") != 1 {
			t.Errorf("the secret is shown:\n%s", out)
		}
		o := j.outputs(t)
		var meta map[string]any
		if err := json.Unmarshal([]byte(o["metadata"]), &meta); err != nil {
			t.Fatalf("%v: %q", err, o)
		}
		if o["digest"] == "" || meta["containerimage.digest"] != o["digest"] || meta["containerimage.config.digest"] != o["imageid"] || !strings.Contains(out, o["digest"]) {
			t.Errorf("outputs %q", o)
		}
		if o["digest-linux-"+runtime.GOARCH] != o["digest"] {
			t.Errorf("outputs %q", o)
		}
		digests[o["imageid"]] = true
		summary := j.read(t, "summary")
		j.want(t, "the summary", summary, "app:1", o["digest"], "| <code>gha ", "| import | ", "| export | ")
		if n == 2 {
			j.want(t, "the summary", summary, "| f changed (content) |", "| after COPY f /f |")
		}
		if n == 1 {
			j.want(t, "the summary", summary, "| import | ok |", "3 cached steps", "\n[base 2/3] COPY f /f\n")
		}
		if left, err := os.ReadDir(j.env["RUNNER_TEMP"]); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	if len(digests) != 2 {
		t.Errorf("the images are %v", slices.Collect(maps.Keys(digests)))
	}
}

// TestActionGitContext: a step without a checkout and without inputs about the
// context builds the commit, with the job's token.
func TestActionGitContext(t *testing.T) {
	services.NeedRoot(t)
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	for name, text := range map[string]string{"Dockerfile": "FROM scratch\nCOPY f /\n", "f": "root", "web/docker/Dockerfile": "FROM scratch\nCOPY f /\nCOPY none /\n", "web/f": "web"} {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "acme"), 0o755); err != nil {
		t.Fatal(err)
	}
	commit, err := services.GitRepo(t.Context(), tree, filepath.Join(dir, "acme", "app.git"))
	services.Need(t, err)
	git, err := services.StartGitHTTP(t.Context(), dir, "ghs_s3cret")
	services.Use(t, git, err)

	for name, env := range map[string]string{"fragment": "false", "query": "true"} {
		t.Run(name, func(t *testing.T) {
			j := newJob(t, map[string]string{
				"github-token": "ghs_s3cret", "outputs": "type=local,dest=out",
				"$GITHUB_SERVER_URL": git.URL, "$GITHUB_SHA": commit, "$BUILDX_SEND_GIT_QUERY_AS_INPUT": env,
			})
			code, out := j.run(t)
			if code != 0 || j.read(t, "out/f") != "root" {
				t.Fatalf("it ended with %d:\n%s", code, out)
			}
			j.want(t, "the log", out, "::notice::building without a remote cache: "+git.URL)
			if strings.Count(out, "ghs_s3cret") != 1 || !strings.HasPrefix(out, "::add-mask::ghs_s3cret\n") {
				t.Errorf("the token is shown:\n%s", out)
			}

			// The place of an error is that in the repository.
			j.env["INPUT_CONTEXT"], j.env["INPUT_FILE"] = "{{defaultContext}}:web", "./docker/Dockerfile"
			code, out = j.run(t)
			j.want(t, "the log", out, "::error endLine=3,file=web/docker/Dockerfile,line=3,title=COPY none /::")
			if code != 1 {
				t.Errorf("it ended with %d", code)
			}
		})
	}
}

// TestActionFails: what the log of a step that failed ends with, and what later
// steps get to know.
func TestActionFails(t *testing.T) {
	services.NeedRoot(t)
	reg := services.NewRegistry(t)
	j := newJob(t, map[string]string{"context": "app", "build-args": "BASE=" + reg.Addr + "/base", "cache": "off", "secret-envs": "A=NOT_SET"})
	j.write(t, "app/Dockerfile", "ARG BASE\nFROM $BASE\nRUN echo fine\nRUN echo ::set-output name=x::y; \\\n    echo '##[error]z'; \\\n    exit 3\n")
	code, out := j.run(t)
	if code != 1 {
		t.Errorf("it ended with %d", code)
	}
	j.want(t, "the log", out, "::warning::input secret-envs: the environment variable NOT_SET is not set")
	_, end, _ := strings.Cut(out, "\n::group::Metadata")
	_, end, _ = strings.Cut(end, "::endgroup::\n")
	end = regexp.MustCompile(`[0-9a-f]{32}`).ReplaceAllString(end, "TOKEN")
	j.want(t, "the end of the log", end,
		"::stop-commands::TOKEN\n[3/3] RUN echo ::set-output name=x::y;     echo '##[error]z';     exit 3\n::set-output name=x::y\n##[error]z\n::TOKEN::\n",
		"::error endLine=6,file=app/Dockerfile,line=4,title=RUN echo", "\n::stop-commands::TOKEN\nDockerfile:4\n", "error: Dockerfile:4: RUN echo")
	o := j.outputs(t)
	j.want(t, "the metadata", o["metadata"], `"mayfly.error": "Dockerfile:4: RUN`, `"name": "[2/3] RUN echo fine"`)
	if o["digest"] != "" || o["imageid"] != "" {
		t.Errorf("outputs %q", o)
	}
	j.want(t, "the summary", j.read(t, "summary"), "❌", "failed", "Dockerfile:4", "exit status 3")
}

// TestActionStopped: a build ends with the standard input of mayfly action,
// which is how the runner's cancellation gets through sudo.
func TestActionStopped(t *testing.T) {
	services.NeedRoot(t)
	reg := services.NewRegistry(t)
	j := newJob(t, map[string]string{"context": "app", "build-args": "BASE=" + reg.Addr + "/base", "cache": "off"})
	j.write(t, "app/Dockerfile", "ARG BASE\nFROM $BASE\nRUN echo running >&2; sleep 1000\n")
	cmd := exec.Command(mayflyBin, "action", "--environment-stdin")
	cmd.Dir, cmd.Env = j.dir, []string{}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for name, value := range j.env {
		if _, err := fmt.Fprintf(stdin, "%s=%s\x00", name, value); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stdin.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		out.WriteString(lines.Text() + "\n")
		if stdin != nil && strings.HasSuffix(lines.Text(), " running") {
			if err := stdin.Close(); err != nil {
				t.Fatal(err)
			}
			stdin = nil
		}
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %v", err)
	}
	j.want(t, "the log", out.String(), "::error title=mayfly::build stopped: the runner ended the step")
	if m := mountsBelow(j.dir); len(m) > 0 {
		t.Errorf("still mounted: %v", m)
	}
	if left, err := os.ReadDir(j.env["TMPDIR"]); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestActionLoad gives the image to docker: a program that keeps what it is
// given.
func TestActionLoad(t *testing.T) {
	services.NeedRoot(t)
	j := newJob(t, map[string]string{"context": "app", "load": "true", "tags": "acme/app:test", "cache": "off"})
	j.write(t, "app/Dockerfile", "FROM scratch\nCOPY f /\n")
	j.write(t, "app/f", "f")
	if err := os.Mkdir(filepath.Join(j.dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	docker := filepath.Join(j.dir, "bin", "docker")
	if err := os.WriteFile(docker, []byte("#!/bin/sh\n[ \"$1 $2\" = 'load --input' ] && tar -xOf \"$3\" manifest.json >"+j.dir+"/loaded && echo Loaded image\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := j.env["PATH"]
	j.env["PATH"] = filepath.Dir(docker) + ":" + path
	code, out := j.run(t)
	if code != 0 {
		t.Fatalf("it ended with %d:\n%s", code, out)
	}
	j.want(t, "the log", out, "::group::docker load", "Loaded image")
	j.want(t, "what docker got", j.read(t, "loaded"), "acme/app:test", `"Config"`)

	if _, err := exec.LookPath("docker"); err == nil {
		return
	}
	j.env["PATH"] = path
	code, out = j.run(t)
	if code != 1 || strings.Contains(out, "DONE ") {
		t.Errorf("without docker it ended with %d:\n%s", code, out)
	}
	j.want(t, "the log", out, "::error title=mayfly::input load: ", "outputs: type=docker,dest=FILE")
}

// TestActionNode runs the action as the runner does: node, sudo, mayfly. What
// it leaves belongs to the job's user.
func TestActionNode(t *testing.T) {
	services.NeedRoot(t)
	node, err := services.Tool("node")
	services.Need(t, err)
	main, err := filepath.Abs("../action/main.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		uid  int
	}{{"root", 0}, {"sudo", 65534}} {
		t.Run(tt.name, func(t *testing.T) {
			j := newJob(t, map[string]string{
				"context": "app", "outputs": "type=local,dest=out/files\ntype=oci,dest=image.tar", "cache": "off",
				"secrets": "KEY=s3cret", "secret-envs": "OTHER=ODD NAME", "$ODD NAME": "two\nlines", "report": "build.html", "trace": "trace.json",
				"$MAYFLY_BINARY": mayflyBin,
			})
			reg := services.NewRegistry(t)
			j.env["INPUT_BUILD-ARGS"] = "BASE=" + reg.Addr + "/base"
			j.write(t, "app/Dockerfile", "ARG BASE\nFROM $BASE AS made\nRUN --mount=type=secret,id=KEY --mount=type=secret,id=OTHER cat /run/secrets/* >/both && chown 33:33 /both\nFROM scratch\nCOPY --from=made /both /\n")
			cmd := j.command(node, main)
			if tt.uid != 0 {
				cmd = j.asUser(t, tt.uid, node, main)
			}
			code, out := status(t, cmd)
			if code != 0 || j.read(t, "out/files/both") != "s3crettwo\nlines" {
				t.Fatalf("it ended with %d:\n%s", code, out)
			}
			for name, begin := range map[string]string{"build.html": "<!doctype html>", "trace.json": `{"resourceSpans":`} {
				if got := j.read(t, name); !strings.HasPrefix(got, begin) || strings.Contains(got, "s3cret") {
					t.Errorf("%s begins with %.40q", name, got)
				}
			}
			if strings.Count(out, "s3cret") != 1 {
				t.Errorf("the secret is shown:\n%s", out)
			}
			for _, name := range []string{"out", "out/files", "out/files/both", "image.tar", "build.html", "trace.json", "home/.cache", "home/.cache/mayfly", "home/.cache/mayfly/blobs", "home/.cache/mayfly/keys", "output"} {
				if got := owner(t, filepath.Join(j.dir, name)); got != tt.uid && name != "output" {
					t.Errorf("%s belongs to %d", name, got)
				}
			}
		})
	}
}

func owner(t *testing.T, path string) int {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return int(st.Uid)
}

// asUser returns a command that a user runs, who may become root by sudo: in a
// mount namespace where sudo reads a file of ours. The files of the job, and
// the directories on the way there, are the user's to reach.
func (j *job) asUser(t *testing.T, uid int, prog string, args ...string) *exec.Cmd {
	t.Helper()
	for _, name := range []string{"sudo", "unshare", "setpriv"} {
		_, err := services.Tool(name)
		services.Need(t, err)
	}
	sudoers := filepath.Join(j.dir, "sudoers")
	if err := os.WriteFile(sudoers, fmt.Appendf(nil, "#%d ALL=(ALL) NOPASSWD: ALL\n", uid), 0o440); err != nil {
		t.Fatal(err)
	}
	for dir := j.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(j.dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || path == sudoers {
			return err
		}
		return os.Chown(path, uid, uid)
	})
	if err != nil {
		t.Fatal(err)
	}
	// What the user runs is copied to where he can reach it, with what it needs.
	install := "../action/install.js"
	if data, err := os.ReadFile(install); err != nil || os.WriteFile(filepath.Join(j.dir, filepath.Base(install)), data, 0o644) != nil {
		t.Fatalf("copy %s: %v", install, err)
	}
	for i, from := range append([]string{j.env["MAYFLY_BINARY"]}, args...) {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(j.dir, filepath.Base(from))
		if err := os.WriteFile(to, data, 0o755); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			j.env["MAYFLY_BINARY"] = to
		} else {
			args[i-1] = to
		}
	}
	id := fmt.Sprint(uid)
	script := `mount --bind "$1" /etc/sudoers && shift && exec setpriv --reuid=` + id + ` --regid=` + id + ` --clear-groups env "$@"`
	words := []string{"-m", "sh", "-c", script, "sh", sudoers}
	for name, value := range j.env { // a shell drops names such as INPUT_BUILD-ARGS
		words = append(words, name+"="+value)
	}
	return j.command("unshare", append(append(words, prog), args...)...)
}
