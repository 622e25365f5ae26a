package e2e

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
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

// A gitlabProject is a checkout whose pipelines gitlab-ci-local runs, on a
// machine that mayfly finds in PATH. The state directory is empty for each.
type gitlabProject struct {
	dir, home string
	program   string
	vars      map[string]string
}

// newGitLabProject makes a project of examples/gitlab, with ci/gitlab.yml for
// the remote that the example includes.
func newGitLabProject(t *testing.T, reg *services.Registry) *gitlabProject {
	t.Helper()
	program, err := services.Tool("gitlab-ci-local")
	services.Need(t, err)
	_, err = services.Tool("rsync") // which that program runs
	services.Need(t, err)
	p := &gitlabProject{dir: t.TempDir(), home: t.TempDir(), program: program, vars: map[string]string{
		"GITLAB_CI": "true", "CI_SERVER_URL": "https://gitlab.acme.test", "CI_PROJECT_ID": "1", "CI_PROJECT_PATH": "acme/app",
		"CI_DEFAULT_BRANCH": "main", "CI_COMMIT_BRANCH": "main", "CI_COMMIT_REF_NAME": "main", "CI_COMMIT_REF_SLUG": "main",
		"CI_REGISTRY": reg.Addr, "CI_REGISTRY_IMAGE": reg.Addr + "/acme/app", "CI_REGISTRY_USER": registryUser, "CI_REGISTRY_PASSWORD": registryPassword,
	}}
	if err := errors.Join(os.CopyFS(p.dir, os.DirFS("../examples/gitlab")), copyFile("../ci/gitlab.yml", filepath.Join(p.dir, "mayfly.yml"))); err != nil {
		t.Fatal(err)
	}
	// The example's base is Alpine's image.
	p.replace(t, "web/Dockerfile", "alpine:3.22", reg.Addr+"/acme/base")
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main", "."},
		{"remote", "add", "origin", "https://gitlab.acme.test/acme/app.git"},
		{"add", "."},
		{"commit", "--quiet", "--message=files"},
	} {
		cmd := p.command("git", append([]string{"-c", "user.name=a", "-c", "user.email=a@b.test"}, args...)...)
		if code, out := status(t, cmd); code != 0 {
			t.Fatalf("git %v: %s", args, out)
		}
	}
	return p
}

func (p *gitlabProject) replace(t *testing.T, name, old, text string) {
	t.Helper()
	path := filepath.Join(p.dir, name)
	data, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(data), old) {
		t.Fatalf("%s has no %q: %v", name, old, err)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(data), old, text)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (p *gitlabProject) command(prog string, args ...string) *exec.Cmd {
	cmd := exec.Command(prog, args...)
	cmd.Dir = p.dir
	cmd.Env = []string{"PATH=" + filepath.Dir(mayflyBin) + ":" + os.Getenv("PATH"), "HOME=" + p.home, "TMPDIR=" + p.home, "NO_COLOR=1"}
	return cmd
}

// run runs the pipeline with more variables; jobs have the files that git
// knows, and start with an empty state directory.
func (p *gitlabProject) run(t *testing.T, vars map[string]string) (int, string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(p.home, ".cache")); err != nil {
		t.Fatal(err)
	}
	args := []string{"--force-shell-executor", "--shell-isolation", "--ignore-predefined-vars", strings.Join(slices.Sorted(maps.Keys(p.vars)), ",")}
	all := maps.Clone(p.vars)
	all["BUILDX_NO_DEFAULT_ATTESTATIONS"] = "1" // provenance has times: each build would be another image
	maps.Copy(all, vars)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		args = append(args, "--variable", name+"="+all[name])
	}
	return status(t, p.command(p.program, args...))
}

// read returns a file that the job left, as the artifact that GitLab takes.
func (p *gitlabProject) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(p.dir, ".gitlab-ci-local", "builds", "mayfly", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// cacheTags returns the tags of the cache's repository with their digests.
func (p *gitlabProject) cacheTags(t *testing.T, reg *services.Registry) map[string]string {
	t.Helper()
	repo := "http://" + reg.Addr + "/v2/acme/app/cache/"
	get := func(method, url string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(registryUser, registryPassword)
		req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %s: %v, %v", method, url, resp, err)
		}
		return resp
	}
	resp := get(http.MethodGet, repo+"tags/list")
	defer resp.Body.Close()
	var list struct{ Tags []string }
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, tag := range list.Tags {
		resp := get(http.MethodHead, repo+"manifests/"+tag)
		resp.Body.Close()
		out[tag] = resp.Header.Get("Docker-Content-Digest")
	}
	return out
}

// toldSteps returns the steps of a folded log as told in one line: DONE, CACHED
// or ERROR, by name.
func toldSteps(log string) map[string]string {
	out := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)(DONE|CACHED|ERROR)(?: [0-9.]+s)? (\[[^\]]*/[^\]]*\] [^\n]*)`).FindAllStringSubmatch(log, -1) {
		out[m[2]] = m[1]
	}
	return out
}

// TestGitLab runs the example's pipeline: twice, of which the second time has
// all from the cache; for the merge request of a fork; and with a step that
// fails.
func TestGitLab(t *testing.T) {
	services.NeedRoot(t)
	reg := newRegistryWithLogin(t)
	p := newGitLabProject(t, reg)
	pipeline := func(t *testing.T, wantCode int, vars map[string]string, want ...string) string {
		t.Helper()
		code, out := p.run(t, vars)
		if code != wantCode {
			t.Fatalf("the pipeline ended with %d:\n%s", code, out)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("no %q in\n%s", w, out)
			}
		}
		noLogin(t, out)
		return out
	}

	out := pipeline(t, 0, nil, " <p>hello, world from", "cold cache")
	digest := deployed(t, out)
	if env := p.read(t, "mayfly.env"); !strings.Contains(env, "MAYFLY_IMAGE_DIGEST="+digest+"\n") {
		t.Errorf("the next job deploys %s, and the report is\n%s", digest, env)
	}
	p.labels(t, reg.Addr+"/acme/app@"+digest)
	p.codeQuality(t, "web/Dockerfile", 2)
	branch := p.cacheTags(t, reg)
	if len(branch) != 1 || !strings.HasPrefix(slices.Collect(maps.Keys(branch))[0], "branch-main.app-web") {
		t.Errorf("the caches are %v", branch)
	}

	t.Run("again", func(t *testing.T) {
		out := pipeline(t, 0, nil)
		steps := toldSteps(out)
		for name, outcome := range steps {
			if outcome != "CACHED" && !strings.Contains(name, "FROM") {
				t.Errorf("%s: %s", name, outcome)
			}
		}
		if len(steps) != 3 || strings.Contains(out, "<p>hello") {
			t.Errorf("the steps are %v:\n%s", steps, out)
		}
		if d := deployed(t, out); d != digest {
			t.Errorf("the image is %s, not %s", d, digest)
		}
	})

	t.Run("fork", func(t *testing.T) {
		before := p.cacheTags(t, reg)
		p.commitLine(t, "web/index.html", "<p>by a stranger</p>")
		pipeline(t, 0, map[string]string{
			"CI_MERGE_REQUEST_IID": "7", "CI_MERGE_REQUEST_PROJECT_ID": "1", "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "2",
			"CI_MERGE_REQUEST_REF_PATH": "refs/merge-requests/7/head", "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "main", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
		}, "pr-7-untrusted.app-web", "<p>by a stranger</p>")
		after := p.cacheTags(t, reg)
		for tag, digest := range before {
			if after[tag] != digest {
				t.Errorf("the merge request of a fork wrote %s", tag)
			}
			delete(after, tag)
		}
		if len(after) != 1 || !strings.HasPrefix(slices.Collect(maps.Keys(after))[0], "pr-7-untrusted.app-web") {
			t.Errorf("it wrote %v", after)
		}
	})

	t.Run("failure", func(t *testing.T) {
		p.commitLine(t, "web/Dockerfile", "RUN echo before; echo the reason >&2; exit 7")
		out := pipeline(t, 1, nil, "error: Dockerfile:7: RUN echo before")
		_, end, _ := strings.Cut(out, "ERROR process")
		if !strings.Contains(end, ">   the reason") || strings.Contains(out, "deploying") {
			t.Errorf("the log does not end with the reason:\n%s", out)
		}
		p.codeQuality(t, "web/Dockerfile", 2)
	})
}

// deployed returns the digest that the example's second job was told.
func deployed(t *testing.T, out string) string {
	t.Helper()
	m := regexp.MustCompile(`deploying \S+/acme/app@(sha256:[0-9a-f]{64})\n`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("nothing is deployed:\n%s", out)
	}
	return m[1]
}

// labels wants the image to say where it comes from.
func (p *gitlabProject) labels(t *testing.T, ref string) {
	t.Helper()
	sha := strings.TrimSpace(string(tool(t, "git", "-C", p.dir, "rev-parse", "HEAD")))
	var image struct{ Labels map[string]string }
	if err := json.Unmarshal(tool(t, "skopeo", "inspect", "--tls-verify=false", "--creds", registryUser+":"+registryPassword, "docker://"+ref), &image); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"org.opencontainers.image.revision": sha, "org.opencontainers.image.source": "https://gitlab.acme.test/acme/app", "org.opencontainers.image.url": "https://gitlab.acme.test/acme/app",
	}
	if !maps.Equal(image.Labels, want) {
		t.Errorf("the labels are %v, not %v", image.Labels, want)
	}
}

// codeQuality wants one issue of the report, with all that GitLab requires.
func (p *gitlabProject) codeQuality(t *testing.T, path string, line int) {
	t.Helper()
	var issues []struct {
		Description, Fingerprint, Severity string
		CheckName                          string `json:"check_name"`
		Location                           struct {
			Path  string
			Lines struct{ Begin int }
		}
	}
	text := p.read(t, "mayfly-quality.json")
	if err := json.Unmarshal([]byte(text), &issues); err != nil || len(issues) != 1 {
		t.Fatalf("%v: %s", err, text)
	}
	i := issues[0]
	severities := []string{"info", "minor", "major", "critical", "blocker"}
	if i.Description == "" || i.CheckName != "FromAsCasing" || i.Fingerprint == "" || !slices.Contains(severities, i.Severity) || i.Location.Path != path || i.Location.Lines.Begin != line {
		t.Errorf("the report is\n%s", text)
	}
}

// commitLine adds a line to a file.
func (p *gitlabProject) commitLine(t *testing.T, name, line string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(p.dir, name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(line + "\n")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if code, out := status(t, p.command("git", "-c", "user.name=a", "-c", "user.email=a@b.test", "commit", "--quiet", "--all", "--message=more")); code != 0 {
		t.Fatalf("git commit: %s", out)
	}
}

// TestGitLabShell runs the job's script in Alpine's shell, where a runner with
// containers runs it, with inputs that the pipeline above leaves out. They are
// put into the file as GitLab does it, before that is read as YAML.
func TestGitLabShell(t *testing.T) {
	reg := newRegistryWithLogin(t)
	data, err := os.ReadFile("../ci/gitlab.yml")
	if err != nil {
		t.Fatal(err)
	}
	spec, text, _ := strings.Cut(string(data), "\n---\n")
	var header struct {
		Spec struct {
			Inputs map[string]struct{ Default string }
		}
	}
	if err := yaml.Unmarshal([]byte(spec), &header); err != nil {
		t.Fatal(err)
	}
	inputs := map[string]string{
		"tags": "$CI_REGISTRY/acme/app:1 $CI_REGISTRY/acme/app:latest", "dockerfile": "docker/app.Dockerfile", "cache": "",
		"options": `--target app --build-arg "A=a  $X" --build-arg 'B=* #c: d' --secret id=T,env=T --secret id=U,src=u --label x=y`,
	}
	text = regexp.MustCompile(`\$\[\[ inputs\.([a-z-]+) \]\]`).ReplaceAllStringFunc(text, func(v string) string {
		name := v[len("$[[ inputs.") : len(v)-len(" ]]")]
		input, ok := header.Spec.Inputs[name]
		if !ok {
			t.Errorf("there is no input %s", name)
		}
		if value, ok := inputs[name]; ok {
			return value
		}
		return input.Default
	})
	var jobs map[string]struct{ Script []string }
	if err := yaml.Unmarshal([]byte(text), &jobs); err != nil || len(jobs["mayfly"].Script) != 1 {
		t.Fatalf("%v:\n%s", err, text)
	}
	j := newCIJob(t, reg.Addr+"/acme/base")
	putFile(t, filepath.Join(j.dir, "docker", "app.Dockerfile"), "FROM "+reg.Addr+"/acme/base AS app\nARG A\nARG B\n"+
		"RUN --mount=type=secret,id=T --mount=type=secret,id=U test \"$A $B $(cat /run/secrets/T /run/secrets/U)\" = 'a  \"b\" * #c: d s3cretother'\nFROM scratch AS last\n")
	putFile(t, filepath.Join(j.dir, "u"), "other")
	code, out := j.sh(t, map[string]string{
		"GITLAB_CI": "true", "CI_SERVER_URL": "https://gitlab.acme.test", "CI_PROJECT_PATH": "acme/app", "CI_COMMIT_BRANCH": "main", "CI_PROJECT_DIR": j.dir,
		"CI_REGISTRY": reg.Addr, "CI_REGISTRY_USER": registryUser, "CI_REGISTRY_PASSWORD": registryPassword, "T": "s3cret", "X": `"b"`,
	}, "-ec", jobs["mayfly"].Script[0])
	if code != 0 {
		t.Fatalf("the job ended with %d:\n%s", code, out)
	}
	noLogin(t, out)
	env, err := os.ReadFile(filepath.Join(j.dir, "mayfly.env"))
	if err != nil || !strings.Contains(string(env), "MAYFLY_IMAGE_NAMES="+reg.Addr+"/acme/app:1,"+reg.Addr+"/acme/app:latest\n") {
		t.Errorf("%v: %s", err, env)
	}
}
