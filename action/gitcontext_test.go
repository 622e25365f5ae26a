package action

import (
	"io/fs"
	"testing"
)

func TestDefaultContext(t *testing.T) {
	const sha, head = "4b825dc642cb6eb9a060e54bf8d69288fbee4904", "da39a3ee5e6b4b0d3255bfef95601890afd80709"
	event := `{"pull_request": {"head": {"sha": "` + head + `"}}}`
	const repo = "https://github.com/acme/app.git"
	prHead := map[string]string{"DOCKER_DEFAULT_GIT_CONTEXT_PR_HEAD_REF": "true"}
	query := map[string]string{"BUILDX_SEND_GIT_QUERY_AS_INPUT": "1"}
	for _, tt := range []struct {
		name, server, ref, sha, event string
		env                           map[string]string
		want                          string
	}{
		{"commit", "", "refs/heads/main", sha, "", nil, repo + "#" + sha},
		{"pull request", "", "refs/pull/7/merge", sha, event, nil, repo + "#" + sha},
		{"head of a pull request", "", "refs/pull/7/merge", sha, event, prHead, repo + "#" + head},
		{"head without an event", "", "refs/pull/7/merge", sha, "", prHead, repo + "#refs/pull/7/head"},
		{"ref of a head", "", "refs/pull/7/head", sha, event, nil, repo + "#" + head},
		{"head of no pull request", "", "refs/heads/main", sha, event, prHead, repo + "#" + sha},
		{"no commit", "", "refs/tags/v1", "", "", nil, repo + "#refs/tags/v1"},
		{"no commit, a branch", "", "main", "", "", nil, repo + "#refs/heads/main"},
		{"nothing known", "", "", "", "", nil, repo},
		{"another server", "https://ghe.acme.test/", "refs/heads/main", sha, "", nil, "https://ghe.acme.test/acme/app.git#" + sha},
		{"query", "", "refs/heads/main", sha, "", query, repo + "?ref=" + sha},
		{"query without a commit", "", "refs/heads/main", "", "", query, repo + "?ref=refs/heads/main"},
		{"no is no", "", "refs/pull/7/merge", sha, event, map[string]string{"DOCKER_DEFAULT_GIT_CONTEXT_PR_HEAD_REF": "no"}, repo + "#" + sha},
	} {
		t.Run(tt.name, func(t *testing.T) {
			env := map[string]string{"GITHUB_REPOSITORY": "acme/app", "GITHUB_SERVER_URL": tt.server, "GITHUB_REF": tt.ref, "GITHUB_SHA": tt.sha, "GITHUB_EVENT_PATH": "/event.json"}
			for k, v := range tt.env {
				env[k] = v
			}
			got, err := defaultContext(newJob(Config{Getenv: lookup(env), ReadFile: func(string) ([]byte, error) {
				if tt.event == "" {
					return nil, fs.ErrNotExist
				}
				return []byte(tt.event), nil
			}}))
			if err != nil || got.url != tt.want {
				t.Errorf("%s, %v; want %s", got.url, err, tt.want)
			}
		})
	}
	if _, err := defaultContext(newJob(Config{Getenv: lookup(nil)})); err == nil {
		t.Error("a step without a repository has a default context")
	}
}

func TestExpand(t *testing.T) {
	fragment := gitContext{url: "https://g/a/b.git#c0ffee"}
	query := gitContext{url: "https://g/a/b.git?ref=c0ffee", query: true}
	for _, tt := range []struct {
		git      gitContext
		in, want string
	}{
		{fragment, "{{defaultContext}}", "https://g/a/b.git#c0ffee"},
		{fragment, "{{defaultContext}}:sub/dir", "https://g/a/b.git#c0ffee:sub/dir"},
		{fragment, "{{ defaultContext }}:sub", "https://g/a/b.git#c0ffee:sub"},
		{fragment, "{{{defaultContext}}}", "https://g/a/b.git#c0ffee"},
		{fragment, "docs={{defaultContext}}:docs", "docs=https://g/a/b.git#c0ffee:docs"},
		{fragment, "./app", "./app"},
		{fragment, "{{other}}", "{{other}}"},
		{query, "{{defaultContext}}", "https://g/a/b.git?ref=c0ffee"},
		{query, "{{defaultContext}}:sub", "https://g/a/b.git?ref=c0ffee&subdir=sub"},
	} {
		if got := tt.git.expand(tt.in); got != tt.want {
			t.Errorf("%s: %s; want %s", tt.in, got, tt.want)
		}
	}
	for in, want := range map[string]string{"https://g/a/b.git#c0ffee": "", "https://g/a/b.git#c0ffee:sub": "sub", "https://g/a/b.git#c0ffee0": "no", ".": "no"} {
		dir, ok := fragment.directory(in)
		if ok == (want == "no") || ok && dir != want {
			t.Errorf("%s: directory %q, %v", in, dir, ok)
		}
	}
}
