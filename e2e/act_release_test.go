package e2e

import (
	"net/http"
	"net/http/httptest"
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

	site := httptest.NewServer(http.FileServer(http.Dir(releases)))
	defer site.Close()
	j := newJob(t, map[string]string{"context": "app", "outputs": "type=local,dest=out", "cache": "off"})
	j.env["MAYFLY_DOWNLOAD_URL"], j.env["GITHUB_ACTION_REF"], j.env["RUNNER_TOOL_CACHE"] = site.URL, "v1.2.3", t.TempDir()
	j.write(t, "app/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	node, err := services.Tool("node")
	services.Need(t, err)
	main, err := filepath.Abs("../action/main.js")
	if err != nil {
		t.Fatal(err)
	}
	code, out := status(t, j.command(node, main))
	if code != 0 || !strings.Contains(out, "/mayfly/v1.2.3/mayfly-linux-") || !strings.Contains(j.read(t, "out/Dockerfile"), "FROM scratch") {
		t.Errorf("with the release's binary it ended with %d:\n%s", code, out)
	}
}
