package ci_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/mayfly-build/mayfly/ci"
)

// TestDetect has an environment for each case of testdata/<service>.txtar:
// "-- <case> --" with its variables, "-- <case>.event --" with GitHub's event
// file if there is one, and "-- <case>.info --" with the Info.
func TestDetect(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) < 8 {
		t.Fatalf("%d archives, %v", len(archives), err)
	}
	for _, path := range archives {
		a, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files := map[string][]byte{}
		for _, f := range a.Files {
			files[f.Name] = f.Data
		}
		service := strings.TrimSuffix(filepath.Base(path), ".txtar")
		n := 0
		for _, f := range a.Files {
			name := f.Name
			if strings.HasSuffix(name, ".event") || strings.HasSuffix(name, ".info") {
				continue
			}
			n++
			t.Run(service+"/"+strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
				want := ci.Info{}
				dec := json.NewDecoder(bytes.NewReader(files[name+".info"]))
				dec.DisallowUnknownFields()
				if err := dec.Decode(&want); err != nil {
					t.Fatalf("%s.info: %v", name, err)
				}
				got := ci.Detect(getenv(t, f.Data), func(path string) ([]byte, error) {
					if data, ok := files[name+".event"]; ok && path == "/event.json" {
						return data, nil
					}
					return nil, fs.ErrNotExist
				})
				if got != want {
					t.Errorf("got  %+v\nwant %+v", got, want)
				}
				if got.Trusted == (got.Why != "") {
					t.Errorf("Trusted is %v, because %q", got.Trusted, got.Why)
				}
			})
		}
		if n == 0 {
			t.Errorf("%s has no case", path)
		}
	}
}

func getenv(t *testing.T, data []byte) func(string) string {
	t.Helper()
	vars := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		if !ok {
			t.Fatalf("no variable: %s", line)
		}
		vars[k] = v
	}
	return func(name string) string { return vars[name] }
}

func TestBranchAndTag(t *testing.T) {
	for _, tt := range []struct{ ref, branch, tag string }{
		{"refs/heads/release/1.2", "release/1.2", ""},
		{"refs/tags/v1", "", "v1"},
		{"refs/pull/7/merge", "", ""},
		{"", "", ""},
	} {
		i := ci.Info{Ref: tt.ref}
		if i.Branch() != tt.branch || i.Tag() != tt.tag {
			t.Errorf("%q: branch %q, tag %q", tt.ref, i.Branch(), i.Tag())
		}
	}
}

// TestNoSecrets: clone URLs often carry a password.
func TestNoSecrets(t *testing.T) {
	for _, tt := range []struct{ provider, name string }{
		{"JENKINS_URL", "GIT_URL"}, {"CIRCLECI", "CIRCLE_REPOSITORY_URL"}, {"BUILDKITE", "BUILDKITE_REPO"},
		{"TF_BUILD", "BUILD_REPOSITORY_URI"}, {"TEKTON_TASK_RUN", "TEKTON_REPO_URL"},
	} {
		for url, want := range map[string]string{
			"https://bot:hunter2@git.acme.test:8443/team/app.git": "https://git.acme.test:8443",
			"ssh://hunter2@git.acme.test:22/team/app":             "https://git.acme.test",
			"hunter2@git.acme.test:team/app.git":                  "https://git.acme.test",
		} {
			i := ci.Detect(func(name string) string {
				switch name {
				case tt.provider:
					return "true"
				case tt.name:
					return url
				}
				return ""
			}, nil)
			if text, _ := json.Marshal(i); bytes.Contains(text, []byte("hunter2")) {
				t.Errorf("%s shows a password: %s", tt.provider, text)
			}
			if i.ServerURL != want || i.Repository != "team/app" {
				t.Errorf("%s %s: server %q, repository %q", tt.provider, url, i.ServerURL, i.Repository)
			}
		}
	}
}

// TestPullRequestsOfUnknownOrigin: whatever service, a pull request of which
// nothing else is known is not trusted.
func TestPullRequestsOfUnknownOrigin(t *testing.T) {
	for _, env := range []string{
		"GITHUB_ACTIONS=true\nGITHUB_EVENT_NAME=pull_request\nGITHUB_REF=refs/pull/7/merge",
		"GITHUB_ACTIONS=true\nGITHUB_REF=refs/pull/7/merge",
		"GITLAB_CI=true\nCI_MERGE_REQUEST_IID=7",
		"GITLAB_CI=true\nCI_EXTERNAL_PULL_REQUEST_IID=7",
		"JENKINS_URL=http://j\nCHANGE_ID=7",
		"CIRCLECI=true\nCIRCLE_BRANCH=pull/7",
		"BUILDKITE=true\nBUILDKITE_PULL_REQUEST=7\nBUILDKITE_BRANCH=main",
		"TF_BUILD=True\nSYSTEM_PULLREQUEST_PULLREQUESTID=7\nBUILD_SOURCEBRANCH=refs/pull/7/merge",
		"TF_BUILD=True\nBUILD_SOURCEBRANCH=refs/pull/7/merge",
		"TEKTON_PIPELINE_RUN=x\nTEKTON_PULL_REQUEST_NUMBER=7",
	} {
		if i := ci.Detect(getenv(t, []byte(env)), nil); i.Trusted || i.Why == "" || i.PullRequest != 7 || i.Branch() != "" {
			t.Errorf("%s:\n%+v", env, i)
		}
	}
}
