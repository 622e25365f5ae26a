package gha_test

import (
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache/gha"
)

func TestFromEnvironment(t *testing.T) {
	const (
		cache   = "https://acghubeus2.actions.githubusercontent.com/abc/"
		results = "https://results-receiver.actions.githubusercontent.com/"
		mine    = "http://10.0.0.1:8080/secret/"
		ghes    = "https://github.example.com"
	)
	for _, tt := range []struct {
		name    string
		cfg     gha.Config
		env     string // NAME=VALUE separated by spaces
		version int
		url     string
		err     string
	}{
		{name: "node action on github.com", env: "ACTIONS_CACHE_SERVICE_V2=True ACTIONS_RESULTS_URL=" + results + " ACTIONS_CACHE_URL=" + cache, version: 2, url: results},
		{name: "docker action, with both URLs", env: "ACTIONS_RESULTS_URL=" + results + " ACTIONS_CACHE_URL=" + cache, version: 2, url: results},
		{name: "docker action, with one", env: "ACTIONS_RESULTS_URL=" + results, version: 2, url: results},
		{name: "cloud for enterprises", env: "GITHUB_SERVER_URL=https://acme.ghe.com ACTIONS_CACHE_URL=https://cache.acme.ghe.com/ ACTIONS_RESULTS_URL=https://results.acme.ghe.com/", version: 2, url: "https://results.acme.ghe.com/"},
		{name: "enterprise server", env: "GITHUB_SERVER_URL=" + ghes + " ACTIONS_CACHE_SERVICE_V2=1 ACTIONS_RESULTS_URL=" + mine + " ACTIONS_CACHE_URL=" + ghes + "/_services/", version: 1, url: ghes + "/_services/"},
		{name: "enterprise server without a cache URL", env: "GITHUB_SERVER_URL=" + ghes + " ACTIONS_RESULTS_URL=" + mine, version: 1, url: mine},
		{name: "act, which has artifacts behind the results URL", env: "GITHUB_SERVER_URL=https://github.com ACTIONS_RESULTS_URL=http://10.0.0.1:9090/ ACTIONS_CACHE_URL=" + mine, version: 1, url: mine},
		{name: "a v2 server of one's own, docker action", env: "ACTIONS_RESULTS_URL=" + mine + " ACTIONS_CACHE_URL=" + cache, version: 2, url: mine},
		{name: "a v1 server of one's own", env: "ACTIONS_CACHE_URL=" + mine, version: 1, url: mine},
		{name: "switched off", env: "ACTIONS_CACHE_SERVICE_V2=false ACTIONS_RESULTS_URL=" + results + " ACTIONS_CACHE_URL=" + mine, version: 1, url: mine},
		{name: "any text is on", env: "ACTIONS_CACHE_SERVICE_V2=on ACTIONS_RESULTS_URL=" + mine, version: 2, url: mine},
		{name: "v1 by force", env: "ACTIONS_CACHE_API_FORCE_VERSION=v1 ACTIONS_CACHE_SERVICE_V2=1 ACTIONS_RESULTS_URL=" + results + " ACTIONS_CACHE_URL=" + mine, version: 1, url: mine},
		{name: "v2 by force", env: "ACTIONS_CACHE_API_FORCE_VERSION=v2 GITHUB_SERVER_URL=" + ghes + " ACTIONS_RESULTS_URL=" + mine + " ACTIONS_CACHE_URL=" + cache, version: 2, url: mine},
		{name: "a force that is none", env: "ACTIONS_CACHE_API_FORCE_VERSION=2", err: "ACTIONS_CACHE_API_FORCE_VERSION"},
		{name: "the user's version", cfg: gha.Config{Version: 1}, env: "ACTIONS_CACHE_SERVICE_V2=1 ACTIONS_RESULTS_URL=" + results + " ACTIONS_CACHE_URL=" + mine, version: 1, url: mine},
		{name: "the user's URL", cfg: gha.Config{URL: mine}, env: "ACTIONS_CACHE_SERVICE_V2=1 ACTIONS_RESULTS_URL=" + results, url: mine},
		{name: "nothing", env: "HOME=/", err: "finds no service"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			env := map[string]string{"ACTIONS_RUNTIME_TOKEN": "tok", "ACTIONS_CACHE_MODE": " Read", "GITHUB_API_URL": "https://api.example.com"}
			for kv := range strings.FieldsSeq(tt.env) {
				name, value, _ := strings.Cut(kv, "=")
				env[name] = value
			}
			got, err := tt.cfg.FromEnvironment(func(name string) string { return env[name] })
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("%v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Version != tt.version || got.URL+got.URLv2 != tt.url || got.Token != "tok" || got.Mode != gha.ModeRead || got.APIURL != "https://api.example.com" {
				t.Errorf("got %+v, want version %d with %s", got, tt.version, tt.url)
			}
		})
	}
	_, err := gha.Config{}.FromEnvironment(func(string) string { return "" })
	if !strings.Contains(hint.Of(err), "ghaction-github-runtime") {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
}

func TestNew(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  gha.Config
		want string // in the error; "" for none
	}{
		{"no token", gha.Config{URL: "http://x"}, "needs token"},
		{"no URL", gha.Config{Token: anyToken}, "needs url_v2"},
		{"no JWT", gha.Config{Token: "ghs_secret", URL: "http://x"}, "no JWT"},
		{"no claims", gha.Config{Token: "e30.c2VjcmV0.e30", URL: "http://x"}, "not the JSON"},
		{"no access controls", gha.Config{Token: "e30.e30.e30", URL: "http://x"}, "claim ac"},
		{"a version to come", gha.Config{Token: anyToken, URL: "http://x", Version: 3}, "not 3"},
		{"a repository without an owner", gha.Config{Token: anyToken, URL: "http://x", Repository: "app", GHToken: "ghs_secret"}, "owner/name"},
		{"v1", gha.Config{Token: anyToken, URL: "http://x"}, ""},
		{"v2", gha.Config{Token: anyToken, URLv2: "http://x", Repository: "acme/app", GHToken: "ghs_secret"}, ""},
	} {
		b, err := gha.New(tt.cfg)
		switch {
		case tt.want == "" && (err != nil || b == nil):
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret")):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestRef(t *testing.T) {
	for scope, want := range map[string]string{
		"":                  "buildkit",
		"app":               "app",
		"a_b-c.d":           "a_b-c.d",
		"build-linux/amd64": "__build-linux_2famd64",
		"feature x":         "__feature_20x",
		"__a":               "___5f_5fa",
		"-a":                "__-a",
		"ä":                 "___c3_a4",
	} {
		if got := gha.Ref(scope); got != want {
			t.Errorf("Ref(%q) = %q, want %q", scope, got, want)
		}
		if scope != "" && gha.ScopeOf(want) != scope {
			t.Errorf("%q stands for %q, want %q", want, gha.ScopeOf(want), scope)
		}
	}
	for _, ref := range []string{"__a", "___5", "__a_2", "__a_zz"} { // what Ref does not make stands for itself
		if got := gha.ScopeOf(ref); got != ref && gha.Ref(got) != ref {
			t.Errorf("%q stands for %q", ref, got)
		}
	}
}
