package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
