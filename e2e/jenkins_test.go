package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// A ciJob runs shell steps of a CI service in the checkout of an app, with the
// service's variables and an empty state directory.
type ciJob struct {
	dir string // the checkout
	tmp string // HOME and TMPDIR
	env map[string]string
}

// newCIJob makes a checkout whose Dockerfile has base below it and a step that
// says hello.
func newCIJob(t *testing.T, base string) *ciJob {
	t.Helper()
	services.NeedRoot(t)
	j := &ciJob{dir: t.TempDir(), tmp: t.TempDir()}
	putFile(t, filepath.Join(j.dir, "Dockerfile"), "FROM "+base+"\nCOPY f /f\nRUN cat /f && echo made >/made\n")
	putFile(t, filepath.Join(j.dir, "f"), "hello\n")
	// Provenance has times: each build would be another image.
	j.env = map[string]string{"BUILDX_NO_DEFAULT_ATTESTATIONS": "1", "HOME": j.tmp, "TMPDIR": j.tmp, "PATH": filepath.Dir(mayflyBin) + ":" + os.Getenv("PATH")}
	return j
}

// sh runs a script and returns its exit status and what it said. Nothing is to
// be left in TMPDIR but the state directory.
func (j *ciJob) sh(t *testing.T, vars map[string]string, args ...string) (int, string) {
	t.Helper()
	cmd := exec.Command("sh", args...)
	if bin, err := services.Tool("busybox"); err == nil { // whose shell and programs Alpine has
		applets := t.TempDir()
		tool(t, "busybox", "--install", "-s", applets)
		cmd = exec.Command(bin, append([]string{"sh"}, args...)...)
		vars = maps.Clone(vars)
		if vars == nil {
			vars = map[string]string{}
		}
		vars["PATH"] = filepath.Dir(mayflyBin) + ":" + applets
	}
	cmd.Dir = j.dir
	all := maps.Clone(j.env)
	maps.Copy(all, vars)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		cmd.Env = append(cmd.Env, name+"="+all[name])
	}
	code, out := status(t, cmd)
	left, err := os.ReadDir(j.tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if e.Name() != ".cache" {
			t.Errorf("the script left %s", e.Name())
		}
	}
	if err := os.RemoveAll(filepath.Join(j.tmp, ".cache")); err != nil {
		t.Fatal(err)
	}
	return code, out
}

// noLogin fails when a log shows the registry's password.
func noLogin(t *testing.T, out string) {
	t.Helper()
	for _, secret := range []string{registryPassword, base64.StdEncoding.EncodeToString([]byte(registryUser + ":" + registryPassword))} {
		if strings.Contains(out, secret) {
			t.Errorf("the login is shown:\n%s", out)
		}
	}
}

// TestJenkins runs the shell steps of ci/Jenkinsfile as Jenkins runs them, with
// the variables that a multibranch project sets: a branch twice, then a pull
// request of a fork.
func TestJenkins(t *testing.T) {
	reg := newRegistryWithLogin(t)
	file, err := os.ReadFile("../ci/Jenkinsfile")
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	for _, m := range regexp.MustCompile(`(?s)sh '''(.*?)'''`).FindAllSubmatch(file, -1) {
		// What Groovy reads: a backslash at the end of a line joins lines.
		text := strings.ReplaceAll(string(m[1]), "\\\n", "")
		if strings.Contains(text, `\`) {
			t.Errorf("Groovy would read a backslash of\n%s", text)
		}
		steps = append(steps, text)
	}
	if len(steps) != 2 {
		t.Fatalf("%d steps", len(steps))
	}
	j := newCIJob(t, reg.Addr+"/acme/base")
	branch := map[string]string{
		"JENKINS_URL": "https://jenkins.acme.test/", "BUILD_NUMBER": "153", "BUILD_URL": "https://jenkins.acme.test/job/app/153/", "JOB_NAME": "acme/app/main",
		"BRANCH_NAME": "feature/fast", "BRANCH_IS_PRIMARY": "false", "GIT_URL": "https://github.com/acme/app.git", "GIT_COMMIT": "ce9a3c1404e8c91be604088670e93434c4253f03",
		"IMAGE": reg.Addr + "/acme/app", "REGISTRY_USR": registryUser, "REGISTRY_PSW": registryPassword,
	}
	run := func(vars map[string]string, n int) string {
		t.Helper()
		code, out := j.sh(t, vars, "-xec", steps[n])
		if code != 0 {
			t.Fatalf("step %d ended with %d:\n%s", n, code, out)
		}
		noLogin(t, out)
		return out
	}
	digests := map[string]bool{}
	for n := range 2 {
		out := run(branch, 0)
		for name, cached := range plainSteps(out) {
			if cached != (n == 1) && !strings.Contains(name, "FROM") {
				t.Errorf("build %d: %s cached: %v", n, name, cached)
			}
		}
		if len(plainSteps(out)) != 2 {
			t.Errorf("build %d has the steps %v", n, plainSteps(out))
		}
		out = run(nil, 1)
		m := regexp.MustCompile(`(?m)^deploying ` + regexp.QuoteMeta(reg.Addr) + `/acme/app@(sha256:[0-9a-f]{64})$`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("nothing is deployed:\n%s", out)
		}
		digests[m[1]] = true
	}
	if len(digests) != 1 {
		t.Errorf("the images are %v", digests)
	}
	fork := maps.Clone(branch)
	maps.Copy(fork, map[string]string{"BRANCH_NAME": "PR-24", "CHANGE_ID": "24", "CHANGE_TARGET": "feature/fast", "CHANGE_BRANCH": "main", "CHANGE_FORK": "eve"})
	putFile(t, filepath.Join(j.dir, "f"), "by a stranger\n")
	if out := run(fork, 0); !strings.Contains(out, "exporting cache to registry "+reg.Addr+"/acme/app/cache pr-24-untrusted.") {
		t.Errorf("the cache is not the pull request's own:\n%s", out)
	}
}

// A tektonTask has the fields of a Task that ci/tekton.yaml may have: one that
// it has by mistake is an error.
type tektonTask struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   yaml.Node
	Spec       struct {
		Description string
		Params      []struct {
			Name, Type, Description string
			Default                 any
		}
		Workspaces, Volumes yaml.Node
		Results             []struct{ Name, Description string }
		Steps               []struct {
			Name, Image     string
			Script          string
			WorkingDir      string    `yaml:"workingDir"`
			SecurityContext yaml.Node `yaml:"securityContext"`
			VolumeMounts    yaml.Node `yaml:"volumeMounts"`
			Args            []string
			Env             []struct{ Name, Value string }
		}
	}
}

// TestTekton runs the script of ci/tekton.yaml with what Tekton puts in place
// of its variables.
func TestTekton(t *testing.T) {
	reg := newRegistryWithLogin(t)
	data, err := os.ReadFile("../ci/tekton.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var task tektonTask
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&task); err != nil || task.Kind != "Task" || task.APIVersion != "tekton.dev/v1" || len(task.Spec.Steps) != 1 {
		t.Fatalf("%v: %+v", err, task)
	}
	j := newCIJob(t, reg.Addr+"/acme/base")
	results, docker := t.TempDir(), t.TempDir()
	login := base64.StdEncoding.EncodeToString([]byte(registryUser + ":" + registryPassword))
	putFile(t, filepath.Join(docker, ".dockerconfigjson"), `{"auths":{"`+reg.Addr+`":{"auth":"`+login+`"}}}`)
	values := map[string]string{
		"context.task.name": "mayfly", "context.taskRun.name": "app-x7k2p-image", "workspaces.source.path": j.dir, "workspaces.dockerconfig.path": docker,
		"params.image": reg.Addr + "/acme/app:1", "params.cache": "type=registry,ref=" + reg.Addr + "/acme/app/cache,scope=auto",
		"params.repo-url": "https://github.com/acme/app", "params.source-url": "https://github.com/acme/app", "params.revision": "0c1d2e3f",
		"params.source-branch": "main", "params.event-type": "push",
	}
	for _, r := range task.Spec.Results {
		values["results."+r.Name+".path"] = filepath.Join(results, r.Name)
	}
	for _, p := range task.Spec.Params {
		if text, ok := p.Default.(string); ok && values["params."+p.Name] == "" {
			values["params."+p.Name] = text
		}
	}
	run := func(more map[string]string, options ...string) string {
		t.Helper()
		variable := regexp.MustCompile(`\$\(([a-z]+\.[A-Za-z.\-_]+)\)`)
		expand := func(s string) string {
			return variable.ReplaceAllStringFunc(s, func(v string) string {
				name := v[2 : len(v)-1]
				if value, ok := more[name]; ok {
					return value
				}
				value, ok := values[name]
				if !ok {
					t.Errorf("nobody says what %s is", name)
				}
				return value
			})
		}
		step, vars := task.Spec.Steps[0], map[string]string{}
		for _, e := range step.Env {
			vars[e.Name] = expand(e.Value)
		}
		script := filepath.Join(results, "script")
		putFile(t, script, expand(step.Script))
		code, out := j.sh(t, vars, append([]string{script}, options...)...)
		if code != 0 {
			t.Fatalf("the step ended with %d:\n%s", code, out)
		}
		noLogin(t, out)
		return out
	}
	result := func(name string) string {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(results, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	run(nil, "--build-arg", "A=b c", "--metadata-file", filepath.Join(results, "metadata"))
	var metadata struct {
		Digest string `json:"containerimage.digest"`
	}
	if err := json.Unmarshal([]byte(result("metadata")), &metadata); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"IMAGE_DIGEST": metadata.Digest, "IMAGE_URL": reg.Addr + "/acme/app:1", "IMAGE_REF": reg.Addr + "/acme/app@" + metadata.Digest,
	} {
		if got := result(name); got != want || want == "" {
			t.Errorf("%s is %q, not %q", name, got, want)
		}
	}
	for name, cached := range plainSteps(run(nil)) {
		if !cached && !strings.Contains(name, "FROM") {
			t.Errorf("the second run: %s is not cached", name)
		}
	}
	if got := result("IMAGE_DIGEST"); got != metadata.Digest {
		t.Errorf("the second image is %s, not %s", got, metadata.Digest)
	}
	putFile(t, filepath.Join(j.dir, "f"), "by a stranger\n")
	out := run(map[string]string{
		"params.source-url": "https://github.com/eve/app", "params.target-branch": "main", "params.pull-request-number": "7", "params.event-type": "pull_request",
		"params.dockerfile": "Dockerfile", "params.pipeline": "app", "params.pipeline-run": "app-x7k2p",
	})
	if !strings.Contains(out, "exporting cache to registry "+reg.Addr+"/acme/app/cache pr-7-untrusted.") {
		t.Errorf("the cache is not the pull request's own:\n%s", out)
	}
}
