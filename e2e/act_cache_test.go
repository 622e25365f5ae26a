package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// An app of three steps, whose tests are a stage.
const actDockerfile = `FROM ghcr.io/acme/base AS build
COPY src /src
RUN cp /src /built && echo compiled

FROM build AS test
RUN grep -q hello /built && echo tested

FROM ghcr.io/acme/base AS app
COPY --from=build /built /app
`

// example returns an example workflow as a file of a repository.
func example(t *testing.T, name string) (path, text string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../examples/github", name))
	if err != nil {
		t.Fatal(err)
	}
	return ".github/workflows/" + name, string(data)
}

// TestActImage runs examples/github/image.yml on two empty runners, with act's
// own cache server (protocol v1): the second one has everything from the cache.
func TestActImage(t *testing.T) {
	path, text := example(t, "image.yml")
	r := newActRepo(t, newRegistryWithLogin(t), map[string]string{path: text, "Dockerfile": actDockerfile, "src": "hello"})
	digests := map[string]bool{}
	for n := range 2 {
		run := r.run(t, "push", map[string]any{"ref": "refs/heads/main", "repository": map[string]any{"default_branch": "main"}})
		if !run.ok {
			t.Fatalf("run %d failed:\n%s", n, run.log)
		}
		if n == 1 {
			allCached(t, run.log)
		} else if !strings.Contains(run.log, " compiled\n") {
			t.Errorf("nothing ran:\n%s", run.log)
		}
		img, digest := r.image(t, "ghcr.io/acme/app:main")
		digests[digest.String()] = true
		if said := "acme/app@" + digest.String(); !strings.Contains(run.log, "pushed "+r.registry.Addr+"/"+said) {
			t.Errorf("the workflow does not say %s:\n%s", said, run.log)
		}
		cfg, err := img.ConfigFile()
		if err != nil || cfg.Config.Labels["org.opencontainers.image.source"] != "https://github.com/acme/app" {
			t.Errorf("the image's config is %+v, %v", cfg, err)
		}
		if warnings := run.annotations("warning"); len(warnings) > 0 {
			t.Errorf("warnings: %+v", warnings)
		}
		noSecret(t, "the log", run.log)
	}
	if len(digests) != 2 { // the label "created" differs, no layer does
		t.Errorf("digests %v", digests)
	}

	// A release has other tags, and the steps are those of the branch.
	run := r.run(t, "push", map[string]any{"ref": "refs/tags/v1.4.2", "repository": map[string]any{"default_branch": "main"}})
	if !run.ok {
		t.Fatalf("the release failed:\n%s", run.log)
	}
	for _, tag := range []string{"1.4.2", "1.4"} {
		r.image(t, "ghcr.io/acme/app:"+tag)
	}
}

// TestActFails builds what fails: the place is annotated, the summary says it,
// and the steps after it see the outputs.
func TestActFails(t *testing.T) {
	path, text := example(t, "image.yml")
	text += "      - if: failure()\n        run: echo \"outcome ${{ steps.build.outcome }}, digest ${{ steps.build.outputs.digest || 'none' }}, error ${{ fromJSON(steps.build.outputs.metadata)['mayfly.error'] }}\"\n"
	r := newActRepo(t, newRegistryWithLogin(t), map[string]string{
		path: text, "Dockerfile": strings.Replace(actDockerfile, "cp /src /built", "echo trying && cp /none /built", 1), "src": "hello",
	})
	run := r.run(t, "push", map[string]any{"ref": "refs/heads/main"})
	if run.ok {
		t.Fatalf("it passed:\n%s", run.log)
	}
	errs := run.annotations("error")
	if len(errs) != 1 || errs[0].Fields["file"] != "Dockerfile" || errs[0].Fields["line"] != "3" || !strings.Contains(errs[0].Text, "exit status 1") {
		t.Errorf("annotations %+v", errs)
	}
	_, summary, _ := strings.Cut(run.log, "Summary - ")
	for _, want := range []string{"❌", "RUN echo trying", "exit status 1", "COPY src /src"} {
		if !strings.Contains(summary, want) {
			t.Errorf("the summary has no %q", want)
		}
	}
	for _, want := range []string{"\ncp: can't stat '/none'", "\nerror: Dockerfile:3: RUN", "\noutcome failure, digest none, error Dockerfile:3: RUN"} {
		if !strings.Contains(run.log, want) {
			t.Errorf("the log has no %q", want)
		}
	}
	if t.Failed() {
		t.Log(run.log)
	}
	noSecret(t, "the log", run.log)
}

// TestActReadOnly runs examples/github/pull-request.yml with what keeps a job
// from writing the cache: it uses what main has saved, writes nothing, and says
// so.
func TestActReadOnly(t *testing.T) {
	reg := newRegistryWithLogin(t)
	mainPath, mainText := example(t, "image.yml")
	path, text := example(t, "pull-request.yml")
	// The base image is public where pull requests of forks are built.
	dockerfile := strings.ReplaceAll(actDockerfile, "ghcr.io/acme/base", newPublicBase(t))
	r := newActRepo(t, reg, map[string]string{mainPath: mainText, path: text, "Dockerfile": dockerfile, "src": "hello"})
	cache, err := services.StartCache(t.Context(), "gha", services.CacheConfig{})
	services.Use(t, cache, err)
	repo := cache.GHA.NewRepository()
	const main, pull = "refs/heads/main", "refs/pull/7/merge"
	with := func(mode string, scopes ...services.GHAScope) {
		r.env["ACTIONS_RUNTIME_URL"], r.env["ACTIONS_CACHE_SERVICE_V2"] = cache.GHA.URL+"/", "True"
		r.env["ACTIONS_RUNTIME_TOKEN"], r.env["ACTIONS_CACHE_MODE"] = repo.Token(scopes...), mode
	}
	with("write", services.GHAScope{Scope: main, Permission: services.GHAReadWrite})
	if run := r.run(t, "push", map[string]any{"ref": main, "repository": map[string]any{"default_branch": "main"}}); !run.ok {
		t.Fatalf("main failed:\n%s", run.log)
	}
	saved := len(repo.Entries())
	if saved == 0 {
		t.Fatal("main has saved nothing")
	}

	event := func(head string) map[string]any {
		return map[string]any{"number": 7, "pull_request": map[string]any{
			"number": 7,
			"head":   map[string]any{"ref": "feature", "repo": map[string]any{"full_name": head}},
			"base":   map[string]any{"ref": "main", "repo": map[string]any{"full_name": "acme/app", "default_branch": "main"}},
		}}
	}
	readable := []services.GHAScope{{Scope: pull, Permission: services.GHARead}, {Scope: main, Permission: services.GHARead}}
	writable := []services.GHAScope{{Scope: pull, Permission: services.GHAReadWrite}, {Scope: main, Permission: services.GHARead}}
	for _, tt := range []struct {
		name, head, mode, why string
		scopes                []services.GHAScope
	}{
		{"a token of a fork", "stranger/app", "", "the job's cache token may only read", readable},
		{"cache-mode read", "acme/app", "read", `the job's cache-mode is "read"`, writable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			with(tt.mode, tt.scopes...)
			run := r.run(t, "pull_request", event(tt.head))
			if !run.ok {
				t.Fatalf("it failed:\n%s", run.log)
			}
			allCached(t, run.log)
			if n := len(repo.Entries()); n != saved {
				t.Errorf("%d entries, there were %d", n, saved)
			}
			if !strings.Contains(run.log, "| export | skipped: ") || !strings.Contains(run.log, "warning: skipped: "+tt.why) || len(run.annotations("error")) > 0 {
				t.Errorf("it does not say why nothing was written: %q", tt.why)
			}
			if t.Failed() {
				t.Log(run.log)
			}
		})
	}
}

// newPublicBase returns the name of the image of services.Base in a registry
// that asks for no login.
func newPublicBase(t *testing.T) string {
	t.Helper()
	return services.NewRegistry(t).Addr + "/base"
}
