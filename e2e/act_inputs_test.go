package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// A badInput is a step whose inputs, or whose job, lack something.
type badInput struct {
	name  string
	with  string // inputs, each in a line
	level string // of the annotation: error, where the step fails, warning or notice
	want  string // in the annotation
}

var badInputs = []badInput{
	{"boolean", "push: yes please", "error", "input push: it is neither true nor false"},
	{"boolean-of-yaml-1.1", "no-cache: 'on'", "error", "input no-cache: it is neither true nor false"},
	{"list", "labels: |\n  \"a=b\n  c=d", "error", "input labels: the quote in line 1 is not closed"},
	{"secret-list", "secrets: |\n  \"KEY=s3cr3t-piece", "error", "input secrets: the quote in line 1 is not closed"},
	{"two-at-once", "load: 1\npull: 2", "error", "input pull: "},
	{"unknown", "tag: ghcr.io/acme/app:1", "warning", "input tag is not known, and ignored"},
	{"secret-file", "secret-files: KEY=none.txt", "warning", "input secret-files: there is no file none.txt: the secret KEY is not given"},
	{"secret-variable", "secret-envs: KEY=NOT_SET", "warning", "input secret-envs: the environment variable NOT_SET is not set"},
	{"secret-without-name", "secrets: s3cr3t-piece", "warning", "input secrets: an item is not NAME=VALUE"},
	{"dockerfile", "file: docker/Dockerfile.none", "error", "input file: there is no Dockerfile docker/Dockerfile.none"},
	{"context", "context: ./none", "error", "input context: there is no directory ./none"},
	{"call", "call: outline", "error", `input call: "outline" is not supported`},
	{"output", "outputs: type=tar", "error", "input outputs: type=tar: dest is missing"},
	{"output-type", "outputs: type=zip,dest=x", "error", "input outputs: type=zip,dest=x: type=zip is none of"},
	{"stdin", "context: '-'", "error", "inputs context and file: a step has no standard input"},
	{"cache-attribute", "cache-to: type=local,dest=c,moed=max", "error", "input cache-to: type=local,dest=c,moed=max: unknown attribute moed"},
	{"cache-type", "cache-from: type=floppy", "error", "input cache-from: type=floppy"},
	{"cache-mounts", "cache-mounts: '\"go-build'", "error", "input cache-mounts: the quote in line 1 is not closed"},
	{"shm-size", "shm-size: much", "error", "input shm-size: invalid size: 'much'"},
	{"ulimit", "ulimit: nofile", "error", "input ulimit: invalid ulimit argument: nofile"},
	{"build-context", "build-contexts: lib", "error", `input build-contexts: "lib" is not KEY=VALUE`},
	{"tag", "tags: acme.test/Acme/App:1", "error", `input tags: parse image reference "acme.test/Acme/App:1"`},
	{"own-cache", "cache: type=local,src=c,dset=d", "error", "input cache: type=local,src=c,dset=d,scope=auto: unknown attribute dset"},
	{"identity", "cache-to: type=local,dest=c,sign=oidc", "error", "id-token: write"},
}

// TestActInputs has a step for each: it is annotated with the name of what is
// wrong, and fails where it cannot do what it is asked for.
func TestActInputs(t *testing.T) {
	var workflow strings.Builder
	workflow.WriteString("on: push\njobs:\n  app:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v5\n")
	for _, in := range badInputs {
		with := in.with
		if !strings.Contains(with, "context: ") {
			with = "context: .\n" + with
		}
		if !strings.Contains(with, "cache") {
			with += "\ncache: off"
		}
		fmt.Fprintf(&workflow, "      - uses: mayfly-build/mayfly@v1\n        id: %s\n        continue-on-error: true\n        with:\n", stepID(in.name))
		for line := range strings.Lines(with) {
			workflow.WriteString("          " + strings.TrimRight(line, "\n") + "\n")
		}
	}
	r := newActRepo(t, services.NewRegistry(t), map[string]string{".github/workflows/app.yml": workflow.String(), "Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
	run := r.run(t, "push", map[string]any{"ref": "refs/heads/main"})
	if !run.ok {
		t.Errorf("the job failed")
	}
	for _, in := range badInputs {
		t.Run(in.name, func(t *testing.T) {
			of := run.step(stepID(in.name))
			if !of.says(in.level, in.want) {
				t.Errorf("no %s says %q:\n%s", in.level, in.want, of.log)
			}
			if failed := len(of.annotations("error")) > 0; failed != (in.level == "error") {
				t.Errorf("it failed: %v\n%s", failed, of.log)
			}
			if strings.Contains(of.log, "s3cr3t-piece") {
				t.Errorf("it shows a piece of a secret:\n%s", of.log)
			}
		})
	}
}

func stepID(name string) string { return strings.NewReplacer(".", "-").Replace(name) }

// step returns what one step said.
func (r *actRun) step(id string) *actRun {
	out := &actRun{ok: r.ok}
	for _, c := range r.commands {
		if slices.Equal(c.Step, []string{id}) {
			out.commands = append(out.commands, c)
			out.log += c.Message + "\n"
		}
	}
	return out
}

// TestActWithoutService runs a step where there is no cache to use: the build
// goes on without, and says why.
func TestActWithoutService(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		change     func(r *actRepo)
	}{
		{"no token", "ACTIONS_RUNTIME_TOKEN", func(r *actRepo) { r.noToken = true }},
		{"a token that is none", "no JWT", func(r *actRepo) { r.env["ACTIONS_RUNTIME_TOKEN"] = "v2.abc" }},
		{"enterprise server", "https://github.acme.test is not github.com", func(r *actRepo) { r.args = []string{"--env", "GITHUB_SERVER_URL=https://github.acme.test"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newActRepo(t, services.NewRegistry(t), map[string]string{
				".github/workflows/app.yml": "on: push\njobs:\n  app:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v5\n      - uses: mayfly-build/mayfly@v1\n        with: {context: .}\n",
				"Dockerfile":                "FROM scratch\nCOPY Dockerfile /\n",
			})
			tt.change(r)
			run := r.run(t, "push", map[string]any{"ref": "refs/heads/main"})
			if !run.ok || !run.says("notice", "building without a remote cache: ") || !strings.Contains(run.log, tt.want) {
				t.Errorf("ok: %v, and no notice says %q:\n%s", run.ok, tt.want, run.log)
			}
		})
	}
}
