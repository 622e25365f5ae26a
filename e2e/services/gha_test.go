package services_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	actionscache "github.com/tonistiigi/go-actions-cache"

	"github.com/mayfly-build/mayfly/e2e/services"
)

func newGHACache(t *testing.T) *services.GHACache {
	t.Helper()
	c, err := services.StartGHACache(t.Context(), services.GHACacheConfig{})
	return services.Use(t, c, err)
}

const (
	mainBranch = "refs/heads/main"
	pull       = "refs/pull/7/merge"
)

// TestGHACacheServesActionsCache has GitHub's own client save and restore.
func TestGHACacheServesActionsCache(t *testing.T) {
	c := newGHACache(t)
	repo := c.NewRepository()
	onMain := repo.Token(services.GHAScope{Scope: mainBranch, Permission: services.GHAReadWrite})
	onPull := repo.Token(services.GHAScope{Scope: pull, Permission: services.GHAReadWrite}, services.GHAScope{Scope: mainBranch, Permission: services.GHARead})
	fork := repo.Token(services.GHAScope{Scope: mainBranch, Permission: services.GHARead})
	data := make([]byte, 3<<20)
	rand.Read(data)
	run := func(token, op, key string, restoreKeys ...string) (result, log string, dir string) {
		t.Helper()
		dir = t.TempDir()
		if op == "save" {
			write(t, dir, "f", string(data))
		}
		var out bytes.Buffer
		result, err := services.ActionsCache(t.Context(), dir,
			[]string{"ACTIONS_CACHE_SERVICE_V2=True", "ACTIONS_RESULTS_URL=" + c.URL + "/", "ACTIONS_RUNTIME_TOKEN=" + token},
			&out, op, "f", key, restoreKeys...)
		services.Need(t, err)
		return result, out.String(), dir
	}
	if got, log, _ := run(onMain, "save", "deps-1"); got != "1" {
		t.Fatalf("save returns %q: %s", got, log)
	}
	for _, tt := range []struct {
		name, token, key string
		restore          []string
		want             string
	}{
		{"the key", onMain, "deps-1", nil, "deps-1"},
		{"a restore key", onMain, "deps-2", []string{"other-", "deps-"}, "deps-1"},
		{"from the base branch", onPull, "deps-1", nil, "deps-1"},
		{"another key", onMain, "tools-1", nil, ""},
	} {
		got, log, dir := run(tt.token, "restore", tt.key, tt.restore...)
		if got != tt.want {
			t.Errorf("%s: restore returns %q, want %q: %s", tt.name, got, tt.want, log)
			continue
		}
		if tt.want == "" {
			continue
		}
		if restored, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || !bytes.Equal(restored, data) {
			t.Errorf("%s: %d bytes, %v", tt.name, len(restored), err)
		}
	}
	for _, tt := range []struct{ name, token, key, want string }{
		{"an entry that is there", onMain, "deps-1", "another job may be creating this cache"},
		{"a read-only token", fork, "deps-9", "cache write denied: token has no writable scopes"},
		{"a token of nobody", "a.b.c", "deps-9", "another job may be creating this cache"},
	} {
		if got, log, _ := run(tt.token, "save", tt.key); got != "-1" || !strings.Contains(log, tt.want) {
			t.Errorf("save with %s: %q: %s; want -1 and %q", tt.name, got, log, tt.want)
		}
	}
	repo.Fail("GetCacheEntryDownloadURL", services.GHAFault{Times: 1, Status: 429, RetryAfter: "7", Body: `{"code":"resource_exhausted","msg":"rate limit exceeded"}`})
	if got, log, _ := run(onMain, "restore", "deps-1"); got != "" || !strings.Contains(log, "your rate limit will reset in 7 seconds") {
		t.Errorf("restore under a rate limit: %q: %s", got, log)
	}
}

// TestGHACacheServesGo has the client that BuildKit uses load and save, with
// both protocols.
func TestGHACacheServesGo(t *testing.T) {
	two := newGHACache(t)
	token := two.NewRepository().Token(services.GHAScope{Scope: mainBranch, Permission: services.GHAReadWrite})
	t.Run("v2", func(t *testing.T) { testGoClient(t, token, two.URL, true) })
	t.Run("v1", func(t *testing.T) {
		one, err := services.StartGHACacheV1()
		services.Use(t, one, err)
		testGoClient(t, token, one.URL, false)
	})
}

func testGoClient(t *testing.T, token, url string, v2 bool) {
	ctx := t.Context()
	c, err := actionscache.New(token, url, v2, actionscache.Opt{})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := c.Load(ctx, "blob"); err != nil || e != nil {
		t.Fatalf("Load of nothing: %v, %v", e, err)
	}
	data := make([]byte, 5<<20)
	rand.Read(data)
	if err := c.Save(ctx, "blob", actionscache.NewBlob(data)); err != nil {
		t.Fatal(err)
	}
	load := func(key string) (string, []byte) {
		t.Helper()
		e, err := c.Load(ctx, key)
		if err != nil || e == nil {
			t.Fatalf("Load %s: %v, %v", key, e, err)
		}
		var b bytes.Buffer
		if err := e.WriteTo(ctx, &b); err != nil {
			t.Fatal(err)
		}
		return e.Key, b.Bytes()
	}
	if key, got := load("blob"); key != "blob" || !bytes.Equal(got, data) {
		t.Errorf("Load returns %s with %d bytes", key, len(got))
	}
	err = c.Save(ctx, "blob", actionscache.NewBlob(data))
	if exists := err != nil && strings.Contains(err.Error(), "already_exists"); exists != v2 { // act takes it again
		t.Errorf("Save of what is there: %v", err)
	}
	for _, text := range []string{"one", "two"} {
		err := c.SaveMutable(ctx, "index", 0, func(old *actionscache.Entry) (actionscache.Blob, error) {
			return actionscache.NewBlob([]byte(text)), nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !v2 {
		return // act may return either: its clock has whole seconds
	}
	if key, got := load("index"); key != "index#2" || string(got) != "two" {
		t.Errorf("the index is %s: %s", key, got)
	}
}

func TestGHACacheREST(t *testing.T) {
	c := newGHACache(t)
	repo := c.NewRepository()
	gac, err := actionscache.New(repo.Token(services.GHAScope{Scope: mainBranch, Permission: services.GHAReadWrite}), c.URL, true, actionscache.Opt{})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a-1", "a-2", "b-1"} {
		if err := gac.Save(t.Context(), key, actionscache.NewBlob([]byte(key))); err != nil {
			t.Fatal(err)
		}
	}
	do := func(method, query, token string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, c.URL+"/repos/"+repo.Name+"/actions/caches"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	for _, tt := range []struct {
		method, query, token string
		status               int
		total                string
	}{
		{"GET", "", repo.GHToken(), 200, `"total_count":3,`},
		{"GET", "?key=a-", repo.GHToken(), 200, `"total_count":2,`},
		{"GET", "?key=a-&ref=refs/heads/other", repo.GHToken(), 200, `"total_count":0,"actions_caches":[]`},
		{"GET", "", "wrong", 401, "Bad credentials"},
		{"DELETE", "?key=a-2", repo.GHToken(), 200, `"key":"a-2"`},
		{"DELETE", "?key=a-2", repo.GHToken(), 404, "Not Found"},
		{"DELETE", "/1", repo.GHToken(), 204, ""},
		{"GET", "", repo.GHToken(), 200, `"total_count":1,`},
	} {
		if status, body := do(tt.method, tt.query, tt.token); status != tt.status || !strings.Contains(body, tt.total) {
			t.Errorf("%s %s: %d %s; want %d with %s", tt.method, tt.query, status, body, tt.status, tt.total)
		}
	}
	n, err := repo.Evict(context.Background(), func(services.GHAEntry) bool { return true })
	if err != nil || n != 1 {
		t.Errorf("Evict: %d, %v", n, err)
	}
	if e, err := gac.Load(t.Context(), "b-1"); err != nil || e != nil {
		t.Errorf("after Evict, Load returns %v, %v", e, err)
	}
}
