package tracing

import (
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/ci"
)

func TestResource(t *testing.T) {
	tests := []struct {
		name string
		job  ci.Info
		want string
	}{
		{"no job", ci.Info{Trusted: true}, "service.name=mayfly service.version=1.2"},
		{
			"a branch",
			ci.Info{
				ServerURL: "https://github.com", Repository: "acme/app", Ref: "refs/heads/main", SHA: "5d1c",
				RunID: "77", RunURL: "https://github.com/acme/app/actions/runs/77", Job: "build",
			},
			"cicd.pipeline.run.id=77 cicd.pipeline.run.url.full=https://github.com/acme/app/actions/runs/77 cicd.pipeline.task.name=build" +
				" service.name=mayfly service.version=1.2 vcs.owner.name=acme vcs.provider.name=github vcs.ref.head.name=main vcs.ref.head.revision=5d1c" +
				" vcs.ref.head.type=branch vcs.repository.name=app vcs.repository.url.full=https://github.com/acme/app",
		},
		{
			"a job of a pipeline",
			ci.Info{
				Provider: ci.GitLab, ServerURL: "https://git.acme.test", Repository: "acme/tools/app",
				Pipeline: "Image", RunID: "10", RunURL: "https://git.acme.test/p/10", Job: "image", JobID: "50", JobURL: "https://git.acme.test/j/50", Worker: "blue",
			},
			"cicd.pipeline.name=Image cicd.pipeline.run.id=10 cicd.pipeline.run.url.full=https://git.acme.test/p/10 cicd.pipeline.task.name=image" +
				" cicd.pipeline.task.run.id=50 cicd.pipeline.task.run.url.full=https://git.acme.test/j/50 cicd.pipeline.task.type=build cicd.worker.name=blue" +
				" service.name=mayfly service.version=1.2 vcs.owner.name=acme/tools vcs.provider.name=gitlab vcs.repository.name=app" +
				" vcs.repository.url.full=https://git.acme.test/acme/tools/app",
		},
		{"a tag", ci.Info{Ref: "refs/tags/v1"}, "service.name=mayfly service.version=1.2 vcs.ref.head.name=v1 vcs.ref.head.type=tag"},
		{
			"a pull request",
			ci.Info{Ref: "refs/pull/7/merge", HeadRef: "fix", BaseRef: "main", PullRequest: 7},
			"service.name=mayfly service.version=1.2 vcs.change.id=7 vcs.ref.base.name=main vcs.ref.base.type=branch vcs.ref.head.name=fix vcs.ref.head.type=branch",
		},
	}
	for _, tt := range tests {
		var got []string
		for _, kv := range Resource("1.2", tt.job).Attributes() {
			got = append(got, string(kv.Key)+"="+kv.Value.String())
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s is\n%s, not\n%s", tt.name, s, tt.want)
		}
	}
}
