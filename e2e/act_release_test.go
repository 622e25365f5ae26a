package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// TestActRelease runs .github/workflows/release.yml, and then the action takes
// its binary from what that has published.
func TestActRelease(t *testing.T) {
	files := ownFiles(t, "release.yml")
	files["image/Dockerfile"] = "FROM scratch\nCOPY --from=bin mayfly /usr/local/bin/mayfly\n"
	r := newActRepo(t, newRegistryWithLogin(t), files)
	bin, err := filepath.Abs("testdata/workflows/bin")
	if err != nil {
		t.Fatal(err)
	}
	releases := t.TempDir()
	r.env["RELEASES"], r.env["PATH"] = releases, bin+":"+os.Getenv("PATH")
	run := r.run(t, "push", map[string]any{"ref": "refs/tags/v1.2.3"})
	if !run.ok {
		t.Fatalf("it failed:\n%s", run.log)
	}
	log, err := os.ReadFile(filepath.Join(releases, "log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"v1.2.3 --verify-tag --generate-notes --latest dist/", "PATCH repos/acme/app/git/refs/tags/v1 -f sha=" + r.head(t)} {
		if !strings.Contains(string(log), want) {
			t.Errorf("gh was not told %q, but %q", want, log)
		}
	}
	for _, tag := range []string{"1.2.3", "v1", "latest"} {
		r.image(t, "ghcr.io/acme/app:"+tag)
	}
	for _, want := range []string{"attested mayfly-linux-amd64\n", "attested mayfly-linux-arm64\n", "attested " + r.registry.Addr + "/acme/app@sha256:"} {
		if !strings.Contains(run.log, want) {
			t.Errorf("the log has no %q", want)
		}
	}
	noSecret(t, "the log", run.log)

	r.installs(t, releases)
}

// installs runs the action with the binary of the release v1.2.3, which a step
// names by its tag or by its commit.
func (r *actRepo) installs(t *testing.T, releases string) {
	t.Helper()
	git := r.serve(t, "v1.2.3")
	site, end, err := services.Proxied(git, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		if path, ok := strings.CutPrefix(q.URL.Path, "/acme/app/releases/"); ok {
			http.ServeFileFS(w, q, os.DirFS(releases), path)
			return
		}
		q.SetBasicAuth("", registryPassword) // the action's repository is public
		next.ServeHTTP(w, q)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	}()
	node, err := services.Tool("node")
	services.Need(t, err)
	main, err := filepath.Abs("../action/main.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"v1.2.3", r.head(t)} {
		j := newJob(t, map[string]string{"context": "app", "outputs": "type=local,dest=out", "cache": "off"})
		j.env["GITHUB_SERVER_URL"], j.env["GITHUB_ACTION_REPOSITORY"], j.env["GITHUB_ACTION_REF"] = site, "acme/app", ref
		j.env["RUNNER_TOOL_CACHE"] = t.TempDir()
		j.write(t, "app/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
		code, out := status(t, j.command(node, main))
		if code != 0 || !strings.Contains(out, "/mayfly/v1.2.3/mayfly-linux-") || !strings.Contains(j.read(t, "out/Dockerfile"), "FROM scratch") {
			t.Errorf("used at %s it ended with %d:\n%s", ref, code, out)
		}
	}
}
