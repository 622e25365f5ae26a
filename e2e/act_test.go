package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// What a workflow of the tests logs in with.
const (
	registryUser     = "octocat"
	registryPassword = "ghs_8Qv1packages"
)

// registryHost is what workflows and Dockerfiles of the tests name; the local
// registry takes its place.
const registryHost = "ghcr.io"

// actionFiles are what the runner needs of this repository.
var actionFiles = []string{"action.yml", "action/main.js", "action/install.js", "setup/action.yml", "setup/main.js"}

// An actRepo is a repository whose workflows act runs on this machine. Its
// runners are empty: each run has a home of its own.
type actRepo struct {
	dir       string // the repository
	caches    string // of act's cache server
	artifacts string
	actions   string // stand-ins for actions, and the action under test
	registry  *services.Registry
	env       map[string]string // of the runner
	args      []string          // more for act
	noToken   bool              // the jobs get no ACTIONS_RUNTIME_TOKEN
}

// newRegistryWithLogin starts a registry that asks for a login and has the
// image of services.Base in repository acme/base.
func newRegistryWithLogin(t *testing.T) *services.Registry {
	t.Helper()
	dir := t.TempDir()
	open, err := services.StartRegistry(services.RegistryConfig{Dir: dir})
	services.Need(t, err)
	err = services.Base(t.Context(), open.Addr+"/acme/base")
	services.Need(t, errors.Join(err, open.Close()))
	reg, err := services.StartRegistry(services.RegistryConfig{Dir: dir, User: registryUser, Password: registryPassword})
	return services.Use(t, reg, err)
}

// newActRepo makes the repository acme/app of files, one commit on main.
func newActRepo(t *testing.T, reg *services.Registry, files map[string]string) *actRepo {
	t.Helper()
	services.NeedRoot(t)
	for _, tool := range []string{"act", "node", "git"} {
		_, err := services.Tool(tool)
		services.Need(t, err)
	}
	top := t.TempDir()
	r := &actRepo{
		dir: filepath.Join(top, "app"), caches: filepath.Join(top, "caches"), artifacts: filepath.Join(top, "artifacts"),
		actions: filepath.Join(top, "actions"), registry: reg, env: map[string]string{},
	}
	if err := os.CopyFS(r.actions, os.DirFS("testdata/workflows/actions")); err != nil {
		t.Fatal(err)
	}
	patientNode(t, filepath.Join(top, "bin"))
	for _, name := range actionFiles {
		text, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		putFile(t, filepath.Join(r.actions, "mayfly-build/mayfly", name), string(text))
	}
	for name, text := range files {
		putFile(t, filepath.Join(r.dir, name), strings.ReplaceAll(text, registryHost, reg.Addr))
	}
	r.commit(t)
	return r
}

// patientNode puts a node into dir that waits after a failure: act stops reading
// what a step says when its process ends with one, and loses the end of it on a
// busy machine. It is no shell script, since a shell drops variables such as
// INPUT_BUILD-ARGS.
func patientNode(t *testing.T, dir string) {
	t.Helper()
	node, err := services.Tool("node")
	services.Need(t, err)
	putFile(t, filepath.Join(dir, "node"), "#!"+node+`
const { spawnSync } = require('node:child_process');
const { status } = spawnSync(process.execPath, process.argv.slice(2), { stdio: 'inherit' });
if (status !== 0) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500 /* ms */);
}
process.exitCode = status ?? 1;
`)
	if err := os.Chmod(filepath.Join(dir, "node"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func putFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (r *actRepo) commit(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"},
		{"remote", "add", "origin", "https://github.com/acme/app.git"},
		{"add", "-A", "-f"},
		{"-c", "user.name=acme", "-c", "user.email=acme@localhost", "commit", "-q", "-m", "app"},
	} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = r.dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v: %s", args[0], err, out)
		}
	}
}

// An actRun is what a run of a workflow said.
type actRun struct {
	ok       bool
	log      string // as a person sees it
	commands []actCommand
}

// An actCommand is what a step told the runner.
type actCommand struct {
	Step    []string          `json:"stepID"`
	Message string            `json:"msg"`
	Name    string            `json:"command"` // "" for a line of the log
	Fields  map[string]string `json:"kvPairs"`
	Text    string            `json:"arg"`
}

// annotations returns the commands of a level: error, warning or notice.
func (r *actRun) annotations(level string) []actCommand {
	var out []actCommand
	for _, c := range r.commands {
		if c.Name == level {
			out = append(out, c)
		}
	}
	return out
}

// says reports whether a command of the level has the text.
func (r *actRun) says(level, text string) bool {
	for _, c := range r.annotations(level) {
		if strings.Contains(c.Text, text) || level == "notice" && strings.Contains(c.Message, text) {
			return true
		}
	}
	return false
}

// run has the workflows react to an event of that kind.
func (r *actRepo) run(t *testing.T, kind string, event map[string]any) *actRun {
	t.Helper()
	home := t.TempDir()
	eventFile := filepath.Join(home, "event.json")
	data, err := json.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	putFile(t, eventFile, string(data))
	if err := os.MkdirAll(r.artifacts, 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{kind, "--json", "-P", "ubuntu-latest=-self-hosted", "-P", "ubuntu-24.04=-self-hosted", "-P", "ubuntu-24.04-arm=-self-hosted", "--eventpath", eventFile,
		"--actor", registryUser, "-s", "GITHUB_TOKEN=" + registryPassword, "--use-gitignore=false",
		"--cache-server-addr", "127.0.0.1", "--cache-server-path", r.caches,
		"--pull=false", "--action-offline-mode", "--use-new-action-cache"}
	if !r.noToken { // which act makes where it has an artifact server
		args = append(args, "--artifact-server-addr", "127.0.0.1", "--artifact-server-port", freePort(t), "--artifact-server-path", r.artifacts)
	}
	args = append(args, r.localActions(t)...)
	act, err := services.Tool("act")
	services.Need(t, err)
	cmd := exec.CommandContext(t.Context(), act, append(args, r.args...)...)
	cmd.Dir = r.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	env := map[string]string{"PATH": os.Getenv("PATH"), "HOME": home, "TMPDIR": home, "MAYFLY_BINARY": mayflyBin, "ARTIFACTS": filepath.Join(r.artifacts, "kept")}
	for name, value := range r.env {
		env[name] = value
	}
	env["PATH"] = filepath.Join(r.actions, "../bin") + ":" + env["PATH"]
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	if err := os.MkdirAll(env["ARTIFACTS"], 0o755); err != nil {
		t.Fatal(err)
	}
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	run := &actRun{ok: err == nil}
	run.read(t, out.Bytes())
	if len(run.commands) == 0 {
		t.Fatalf("act did nothing: %v: %s", err, msg.String())
	}
	return run
}

// localActions has act take the actions that the workflows name from
// r.actions.
func (r *actRepo) localActions(t *testing.T) []string {
	t.Helper()
	uses := regexp.MustCompile(`uses:\s*([\w.-]+/[\w.-]+)(?:/[\w.-]+)*@([\w.-]+)`)
	var args []string
	err := filepath.WalkDir(filepath.Join(r.dir, ".github/workflows"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range uses.FindAllStringSubmatch(string(text), -1) {
			if m[1] != "actions/checkout" { // act has done it
				args = append(args, "--local-repository", m[1]+"@"+m[2]+"="+filepath.Join(r.actions, m[1]))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return args
}

// linePrefix is what act puts before the lines and commands of a step.
var linePrefix = regexp.MustCompile(`^\s*(\x{2757}|\x{1F6A7}|\x{2753}|\x{2699})\s*`)

func (r *actRun) read(t *testing.T, out []byte) {
	t.Helper()
	var log strings.Builder
	for line := range bytes.Lines(out) {
		var c actCommand
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatalf("act said %q: %v", line, err)
		}
		c.Message = linePrefix.ReplaceAllString(strings.TrimRight(c.Message, "\n"), "")
		if c.Name == "" && strings.HasPrefix(c.Message, "::notice") {
			c.Name = "notice"
		}
		log.WriteString(c.Message + "\n")
		r.commands = append(r.commands, c)
	}
	r.log = log.String()
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
}

// image returns an image for this machine that a workflow has pushed, and the
// digest of what its name points to, which may be an index; the name is that in
// the workflow.
func (r *actRepo) image(t *testing.T, ref string) (v1.Image, v1.Hash) {
	t.Helper()
	parsed, err := name.ParseReference(strings.ReplaceAll(ref, registryHost, r.registry.Addr))
	if err != nil {
		t.Fatal(err)
	}
	found, err := remote.Get(parsed, remote.WithAuth(&authn.Basic{Username: registryUser, Password: registryPassword}),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))
	if err != nil {
		t.Fatal(err)
	}
	img, err := found.Image()
	if err != nil {
		t.Fatal(err)
	}
	return img, found.Digest
}

// allCached fails the test unless there are steps and each came from a cache.
func allCached(t *testing.T, log string) {
	t.Helper()
	steps := plainSteps(log)
	for step, cached := range steps {
		if !cached && !strings.Contains(step, "FROM") {
			t.Errorf("%s ran", step)
		}
	}
	if len(steps) == 0 {
		t.Error("there are no steps")
	}
	if t.Failed() {
		t.Log(log)
	}
}

// noSecret fails the test when a text shows what the workflows log in with.
func noSecret(t *testing.T, what, text string) {
	t.Helper()
	if strings.Contains(text, registryPassword) {
		t.Errorf("%s shows the token:\n%s", what, text)
	}
}
