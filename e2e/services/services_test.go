package services_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/mayfly-build/mayfly/e2e/services"
)

func write(t *testing.T, dir string, files ...string) string {
	t.Helper()
	for i := 0; i < len(files); i += 2 {
		p := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func ref(t *testing.T, s string) name.Reference {
	t.Helper()
	r, err := name.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestBaseIsTheSameEverywhere(t *testing.T) {
	digest := func() string {
		r := services.NewRegistry(t)
		d, err := remote.Get(ref(t, r.Addr+"/base"))
		if err != nil {
			t.Fatal(err)
		}
		return d.Digest.String()
	}
	if a, b := digest(), digest(); a != b {
		t.Errorf("two registries hold %s and %s", a, b)
	}
}

func TestRegistryLog(t *testing.T) {
	r := services.NewRegistry(t)
	count := func() (blobs int) {
		reqs, err := r.Requests()
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range reqs {
			if q.Method == "GET" && q.Blob() && q.Status == 200 && q.Bytes > 100_000 {
				blobs++
			}
		}
		return blobs
	}
	if n := count(); n != 0 {
		t.Fatalf("%d blobs were read before anybody read", n)
	}
	img, err := remote.Image(ref(t, r.Addr+"/base"))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, rc); err != nil {
		t.Fatal(err)
	}
	if err := rc.Close(); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 1 {
		t.Errorf("the log has %d blob reads, want 1", n)
	}
}

func TestRegistryAsksForThePassword(t *testing.T) {
	r, err := services.StartRegistry(services.RegistryConfig{User: "ci", Password: "secret", TLS: true})
	services.Use(t, r, err)
	if r.CAFile == "" {
		t.Fatal("a TLS registry without a CA file")
	}
	skopeo, err := services.Tool("skopeo")
	services.Need(t, err)
	for _, c := range []struct {
		creds, want string
	}{{"ci:secret", "manifest unknown"}, {"ci:wrong", "uthentication required"}} {
		cmd := exec.Command(skopeo, "inspect", "--creds="+c.creds, "docker://"+r.Addr+"/nothing")
		cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+r.CAFile)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.want) && !strings.Contains(string(out), "unauthorized") {
			t.Errorf("skopeo as %s: %v: %s; want %q", c.creds, err, out, c.want)
		}
	}
	if _, err := remote.Get(ref(t, r.Addr+"/nothing"), remote.WithAuth(authn.Anonymous)); err == nil {
		t.Error("the registry answered a client that does not trust it")
	}
}

func TestBuildkitd(t *testing.T) {
	b, r := services.NewBuildkitd(t), services.NewRegistry(t)
	dir := write(t, t.TempDir(), "Dockerfile", "FROM "+r.Addr+"/base\nCOPY f /f\nRUN cat /f /f > /ff\n", "f", "hello\n")
	in := services.Build{Context: dir, Outputs: []string{"type=image,name=" + r.Addr + "/out,push=true"}}
	res, err := b.Build(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	d, err := remote.Get(ref(t, r.Addr+"/out"))
	if err != nil {
		t.Fatal(err)
	}
	if d.Digest.String() != res.Digest() {
		t.Errorf("pushed %s, metadata says %s", d.Digest, res.Digest())
	}
	again, err := b.Build(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		res  *services.Result
		want bool
	}{{"first", res, false}, {"second", again, true}} {
		found := false
		for _, s := range c.res.Steps {
			if strings.Contains(s.Name, "RUN cat") {
				found = true
				if s.Cached != c.want {
					t.Errorf("%s build: %s cached=%v, want %v", c.name, s.Name, s.Cached, c.want)
				}
			}
		}
		if !found {
			t.Errorf("%s build: no step RUN in %+v", c.name, c.res.Steps)
		}
	}
	write(t, dir, "Dockerfile", "FROM "+r.Addr+"/base\nRUN echo oops; false\n")
	if _, err := b.Build(t.Context(), in); err == nil || !strings.Contains(err.Error(), "oops") {
		t.Errorf("a failing RUN: %v, want its output in the error", err)
	}
}

func TestGitServers(t *testing.T) {
	dir := t.TempDir()
	tree := write(t, t.TempDir(), "Dockerfile", "FROM scratch\n")
	commit, err := services.GitRepo(t.Context(), tree, filepath.Join(dir, "app.git"))
	services.Need(t, err)
	daemon, err := services.StartGitDaemon(dir)
	services.Use(t, daemon, err)
	backend, err := services.StartGitHTTP(t.Context(), dir, "tok")
	services.Use(t, backend, err)
	for _, c := range []struct {
		name, url string
		ok        bool
	}{
		{"daemon", daemon.URL, true},
		{"http with token", strings.Replace(backend.URL, "://", "://x:tok@", 1), true},
		{"http with wrong token", strings.Replace(backend.URL, "://", "://x:no@", 1), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			cmd := exec.CommandContext(ctx, "git", "ls-remote", c.url+"/app.git", "refs/tags/v1")
			cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0")
			out, err := cmd.Output()
			if c.ok != (err == nil && strings.HasPrefix(string(out), commit)) {
				t.Errorf("ls-remote: %q, %v; want success %v with %s", out, err, c.ok, commit)
			}
		})
	}
}

func TestDebian(t *testing.T) {
	services.NeedRoot(t)
	if testing.Short() {
		t.Skip("downloads Debian packages the first time")
	}
	r := services.NewRegistry(t)
	services.Need(t, services.Debian(t.Context(), r.Addr+"/debian"))
	img, err := remote.Image(ref(t, r.Addr+"/debian"))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := img.Size(); err != nil || n <= 0 {
		t.Errorf("size %d, %v", n, err)
	}
}
