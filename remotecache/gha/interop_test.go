package gha_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	actionscache "github.com/tonistiigi/go-actions-cache"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/gha"
)

// goClient is the client that BuildKit uses.
func goClient(t *testing.T, c *services.GHACache, repo *services.GHARepository, scopes ...services.GHAScope) *actionscache.Cache {
	t.Helper()
	gac, err := actionscache.New(repo.Token(scopes...), c.URL, true, actionscache.Opt{})
	if err != nil {
		t.Fatal(err)
	}
	return gac
}

func saveRaw(t *testing.T, gac *actionscache.Cache, key, text string) {
	t.Helper()
	if err := gac.Save(t.Context(), key, actionscache.NewBlob([]byte(text))); err != nil {
		t.Fatal(err)
	}
}

// A cacheServer is one of the two protocols, as BuildKit's attributes and our
// Config name it.
type cacheServer struct {
	attrs func(token string) string
	dial  func(token string) gha.Config
}

// TestBuildkitd exchanges caches with the real daemon: on main it exports one,
// which we read; what we save for a pull request it imports there, beside
// main's.
func TestBuildkitd(t *testing.T) {
	bk := services.NewBuildkitd(t)
	two := v2(t)
	repo := two.NewRepository()
	t.Run("v2", func(t *testing.T) {
		testBuildkitd(t, bk, cacheServer{
			attrs: func(token string) string { return "type=gha,scope=app,url_v2=" + two.URL + "/,token=" + token },
			dial:  func(token string) gha.Config { return gha.Config{URLv2: two.URL + "/", Token: token} },
		}, repo.Token(writeMain), repo.Token(writePull, readMain))
	})
	t.Run("v1", func(t *testing.T) {
		one, err := services.StartGHACacheV1()
		services.Use(t, one, err)
		testBuildkitd(t, bk, cacheServer{
			attrs: func(token string) string { return "type=gha,scope=app,url=" + one.URL + ",token=" + token },
			dial:  func(token string) gha.Config { return gha.Config{URL: one.URL, Token: token} },
		}, repo.Token(writeMain), repo.Token(writePull, readMain))
	})
}

func testBuildkitd(t *testing.T, bk *services.Buildkitd, srv cacheServer, onMain, onPull string) {
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "out.tar")
	for name, text := range map[string]string{
		"Dockerfile": "FROM scratch AS a\nCOPY a /a\nFROM scratch AS b\nCOPY b /b\nFROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
		"a":          "one\n", "b": strings.Repeat("two\n", 100_000),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	connect := func(token string) *gha.Backend {
		b, err := gha.New(srv.dial(token))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	build := func(in services.Build) *services.Result {
		t.Helper()
		prune(t, bk)
		in.Context, in.Outputs = dir, []string{"type=image,name=unused", "type=tar,dest=" + out}
		in.Env = []string{"SOURCE_DATE_EPOCH=1700000000"}
		res, err := bk.Build(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	build(services.Build{Export: []string{srv.attrs(onMain) + ",mode=max"}})
	want, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}

	b := connect(onPull)
	list, err := b.LoadIndexes(t.Context(), gha.Ref("app"))
	if err != nil || len(list) != 1 || len(list[0].Layers) < 2 {
		t.Fatalf("%d indexes, %v", len(list), err)
	}
	for _, blob := range list[0].Blobs() {
		if _, err := read(remotecache.Verify(b), blob.Descriptor()); err != nil {
			t.Errorf("BuildKit's blob %s: %v", blob.Digest, err)
		}
	}
	// What BuildKit stored is there for us, and ours for BuildKit.
	if err := b.SaveIndex(t.Context(), "app", list[0]); err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"main": onMain, "pull request": onPull} {
		res := build(services.Build{Import: []string{srv.attrs(token)}})
		for _, s := range res.Steps {
			if strings.Contains(s.Name, "COPY") && !s.Cached {
				t.Errorf("%s: BuildKit ran %s", name, s.Name)
			}
		}
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: BuildKit's result has %d bytes, not the %d it was built with; %v", name, len(got), len(want), err)
		}
	}
	// Both add a number to the one index.
	build(services.Build{Export: []string{srv.attrs(onPull) + ",mode=max"}})
	idx, err := b.LoadIndex(t.Context(), "app")
	if err != nil || idx.Version != "2" {
		t.Errorf("after BuildKit saved over ours: version %v, %v", idx, err)
	}
}

func prune(t *testing.T, bk *services.Buildkitd) {
	t.Helper()
	ctl, err := services.Tool("buildctl")
	services.Need(t, err)
	if out, err := exec.Command(ctl, "--addr", bk.Addr, "prune", "--all").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
