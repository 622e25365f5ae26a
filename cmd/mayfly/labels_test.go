package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/e2e/services"
)

var gitlabTag = map[string]string{
	"GITLAB_CI": "true", "CI_SERVER_URL": "https://git.acme.test", "CI_PROJECT_PATH": "acme/app", "CI_COMMIT_SHA": "5d1c", "CI_COMMIT_TAG": "v1.2",
}

// labelsOf returns the labels that the flags make.
func labelsOf(t *testing.T, env map[string]string, args ...string) (string, error) {
	t.Helper()
	w := worldOf(env, "")
	o, err := parseBuild(w, args)
	if err != nil {
		return "", err
	}
	opts := map[string]string{}
	if err := frontendOptions(w, o, opts); err != nil {
		return "", err
	}
	if err := sourceOptions(t.Context(), w, o, opts); err != nil {
		return "", err
	}
	labels := map[string]string{}
	for k, v := range opts {
		if name, ok := strings.CutPrefix(k, "label:"); ok {
			labels[strings.TrimPrefix(name, "org.opencontainers.image.")] = v
		}
	}
	return fmt.Sprint(labels), nil
}

func TestCILabels(t *testing.T) {
	for _, tt := range []struct {
		args, want string
	}{
		{"--ci-labels .", "map[revision:5d1c source:https://git.acme.test/acme/app url:https://git.acme.test/acme/app version:v1.2]"},
		{"--ci-labels --label org.opencontainers.image.version=mine --label org.opencontainers.image.url= .", "map[revision:5d1c source:https://git.acme.test/acme/app url: version:mine]"},
		{".", "map[]"},
	} {
		if got, err := labelsOf(t, gitlabTag, strings.Fields(tt.args)...); err != nil || got != tt.want {
			t.Errorf("%s: %s, %v", tt.args, got, err)
		}
	}
	if _, err := labelsOf(t, nil, "--ci-labels", "."); err == nil || !strings.Contains(err.Error(), "--ci-labels") {
		t.Errorf("outside of CI: %v", err)
	}
}

// TestGitLabels: the labels are docker buildx's.
func TestGitLabels(t *testing.T) {
	bin, err := services.Tool("git")
	services.Need(t, err)
	dir := t.TempDir()
	app := filepath.Join(dir, "app")
	for _, d := range []string{app, filepath.Join(dir, "docker"), filepath.Join(dir, "home")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(app, "Dockerfile"), "FROM scratch\n")
	writeFile(t, filepath.Join(dir, "docker", "web.Dockerfile"), "FROM scratch\n")
	env := map[string]string{"PATH": os.Getenv("PATH"), "HOME": filepath.Join(dir, "home"), "BUILDX_GIT_LABELS": "1"}
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(bin, append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@b.test"}, args...)...)
		cmd.Env = []string{"HOME=" + env["HOME"], "PATH=" + env["PATH"]}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got, err := labelsOf(t, env, app); err != nil || got != "map[]" {
		t.Errorf("without a repository: %s, %v", got, err)
	}
	git("init", "--quiet", ".")
	git("add", ".")
	git("commit", "--quiet", "-m", "x")
	git("remote", "add", "origin", "https://bot:s3cret@git.acme.test/acme/app.git")
	sha := git("rev-parse", "HEAD")

	want := func(env map[string]string, wanted string, args ...string) {
		t.Helper()
		if got, err := labelsOf(t, env, args...); err != nil || got != wanted {
			t.Errorf("%v %q: %s, %v; want %s", env["BUILDX_GIT_LABELS"], args, got, err, wanted)
		}
	}
	with := func(more ...string) map[string]string {
		out := map[string]string{}
		for k, v := range env {
			out[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	short := "map[com.docker.image.source.entrypoint:app/Dockerfile revision:" + sha + "]"
	want(env, short, app)
	want(with("BUILDX_GIT_CHECK_DIRTY", "1"), short, app)
	want(env, "map[com.docker.image.source.entrypoint:docker/web.Dockerfile revision:"+sha+"]", "-f", filepath.Join(dir, "docker", "web.Dockerfile"), app)
	want(with("BUILDX_GIT_LABELS", "full"), "map[com.docker.image.source.entrypoint:app/Dockerfile revision:"+sha+" source:https://git.acme.test/acme/app.git]", app)
	want(with("BUILDX_GIT_LABELS", "false"), "map[]", app)
	want(env, "map[revision:"+sha+"]", "-f", "-", app)
	want(env, "map[]", "https://git.acme.test/other.git")

	vcs := func(env map[string]string, wanted string, args ...string) {
		t.Helper()
		w := worldOf(env, "")
		o, err := parseBuild(w, args)
		opts := map[string]string{}
		if err == nil {
			err = sourceOptions(t.Context(), w, o, opts)
		}
		for k := range opts {
			if !strings.HasPrefix(k, "vcs:") {
				delete(opts, k)
			}
		}
		if got := fmt.Sprint(opts); err != nil || got != wanted {
			t.Errorf("%q: %s, %v; want %s", args, got, err, wanted)
		}
	}
	delete(env, "BUILDX_GIT_LABELS")
	vcs(env, "map[vcs:localdir:context:app vcs:localdir:dockerfile:app vcs:revision:"+sha+" vcs:source:https://git.acme.test/acme/app.git]", app)
	vcs(env, "map[vcs:localdir:context:. vcs:localdir:dockerfile:docker vcs:revision:"+sha+" vcs:source:https://git.acme.test/acme/app.git]", "-f", filepath.Join(dir, "docker", "web.Dockerfile"), dir)
	vcs(with("BUILDX_GIT_INFO", "false"), "map[]", app)
	vcs(with("GIT_CONFIG_COUNT", "x"), "map[]", app) // git does not answer: nobody asked for it
	vcs(env, "map[]", "-")
	env["BUILDX_GIT_LABELS"] = "1"

	job := with()
	for k, v := range gitlabTag {
		job[k] = v
	}
	want(job, "map[com.docker.image.source.entrypoint:app/Dockerfile revision:5d1c source:https://git.acme.test/acme/app url:https://git.acme.test/acme/app version:v1.2]", "--ci-labels", app)

	writeFile(t, filepath.Join(app, "f"), "f")
	want(with("BUILDX_GIT_CHECK_DIRTY", "1"), strings.Replace(short, sha, sha+"-dirty", 1), app)

	for name, env := range map[string]map[string]string{
		`BUILDX_GIT_LABELS: "some" is none of`: with("BUILDX_GIT_LABELS", "some"),
		`BUILDX_GIT_INFO: "some" is not true`:  with("BUILDX_GIT_INFO", "some"),
		"BUILDX_GIT_LABELS: git does not take": with("GIT_CONFIG_COUNT", "x"), // with which every command of git fails
	} {
		if _, err := labelsOf(t, env, dir, "-f", filepath.Join(app, "Dockerfile")); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
