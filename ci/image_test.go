package ci_test

import (
	"fmt"
	"testing"

	"github.com/mayfly-build/mayfly/ci"
)

func TestLabels(t *testing.T) {
	i := ci.Info{
		ServerURL: "https://dev.azure.com", Repository: "acme/The App/_git/app", Ref: "refs/tags/v1.2", SHA: "5d1c",
		RunID: "77", RunURL: "https://dev.azure.com/run/77", JobID: "8", Worker: "w",
	}
	const page = "https://dev.azure.com/acme/The%20App/_git/app"
	want := "[{org.opencontainers.image.revision 5d1c} {org.opencontainers.image.source " + page + "} " +
		"{org.opencontainers.image.url " + page + "} {org.opencontainers.image.version v1.2}]"
	if got := fmt.Sprint(i.Labels()); got != want {
		t.Errorf("the labels are\n%s, not\n%s", got, want)
	}
	i.Ref = "refs/heads/main"
	if got := i.Labels(); len(got) != 3 {
		t.Errorf("those of a branch are %v", got)
	}
	if got := (ci.Info{Trusted: true}).Labels(); len(got) != 0 {
		t.Errorf("outside of CI they are %v", got)
	}
}

func TestBuilderID(t *testing.T) {
	const run = "https://github.com/acme/app/actions/runs/77"
	for _, tt := range []struct {
		job  ci.Info
		want string
	}{
		{ci.Info{Provider: ci.GitHubActions, RunURL: run, Attempt: "1"}, run + "/attempts/1"},
		{ci.Info{Provider: ci.GitHubActions, RunURL: run + "/attempts/2", Attempt: "2"}, run + "/attempts/2"},
		{ci.Info{Provider: ci.GitHubActions, Attempt: "1"}, ""},
		{ci.Info{Provider: ci.AzurePipelines, RunURL: "https://a/results?buildId=1", Attempt: "1"}, "https://a/results?buildId=1"},
		{ci.Info{Provider: ci.Tekton, RunID: "r"}, ""},
		{ci.Info{}, ""},
	} {
		if got := tt.job.BuilderID(); got != tt.want {
			t.Errorf("%+v: %q, not %q", tt.job, got, tt.want)
		}
	}
}
