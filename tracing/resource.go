package tracing

import (
	"net/url"
	"path"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/mayfly-build/mayfly/ci"
)

// Resource describes who builds: mayfly of a version, in a CI job. The names
// are those of OpenTelemetry's semantic conventions; what is not known is left
// out.
func Resource(version string, job ci.Info) *resource.Resource {
	r := attributes{semconv.ServiceName("mayfly")}
	r.add(version, semconv.ServiceVersion)
	r.job(job)
	r.repository(job)
	r.change(job)
	return resource.NewWithAttributes(semconv.SchemaURL, r...)
}

type attributes []attribute.KeyValue

// add adds an attribute whose value is known.
func (r *attributes) add(value string, attr func(string) attribute.KeyValue) {
	if value != "" {
		*r = append(*r, attr(value))
	}
}

func (r *attributes) job(job ci.Info) {
	r.add(job.Pipeline, semconv.CICDPipelineName)
	r.add(job.RunID, semconv.CICDPipelineRunID)
	r.add(job.RunURL, semconv.CICDPipelineRunURLFull)
	r.add(job.Job, semconv.CICDPipelineTaskName)
	r.add(job.JobID, semconv.CICDPipelineTaskRunID)
	r.add(job.JobURL, semconv.CICDPipelineTaskRunURLFull)
	r.add(job.Worker, semconv.CICDWorkerName)
	if job.Provider != ci.None {
		*r = append(*r, semconv.CICDPipelineTaskTypeBuild)
	}
}

func (r *attributes) repository(job ci.Info) {
	r.add(job.RepositoryURL(), semconv.VCSRepositoryURLFull)
	if job.Repository != "" {
		owner, name := path.Split(job.Repository)
		r.add(strings.TrimSuffix(owner, "/"), semconv.VCSOwnerName)
		r.add(name, semconv.VCSRepositoryName)
	}
	if p, ok := provider(job); ok {
		*r = append(*r, p)
	}
}

// provider returns who hosts the repository, where its server says so.
func provider(job ci.Info) (attribute.KeyValue, bool) {
	if job.Provider == ci.GitLab {
		return semconv.VCSProviderNameGitlab, true
	}
	u, err := url.Parse(job.ServerURL)
	if err != nil {
		return attribute.KeyValue{}, false
	}
	switch host := u.Hostname(); {
	case host == "github.com", strings.HasSuffix(host, ".ghe.com"):
		return semconv.VCSProviderNameGithub, true
	case host == "gitlab.com":
		return semconv.VCSProviderNameGitlab, true
	case host == "bitbucket.org":
		return semconv.VCSProviderNameBitbucket, true
	}
	return attribute.KeyValue{}, false
}

func (r *attributes) change(job ci.Info) {
	r.add(headName(job), semconv.VCSRefHeadName)
	r.add(job.SHA, semconv.VCSRefHeadRevision)
	switch {
	case job.Tag() != "":
		*r = append(*r, semconv.VCSRefHeadTypeTag)
	case headName(job) != "":
		*r = append(*r, semconv.VCSRefHeadTypeBranch)
	}
	r.add(job.BaseRef, semconv.VCSRefBaseName)
	if job.BaseRef != "" {
		*r = append(*r, semconv.VCSRefBaseTypeBranch)
	}
	if job.PullRequest != 0 {
		*r = append(*r, semconv.VCSChangeID(strconv.Itoa(job.PullRequest)))
	}
}

// headName returns the branch or tag that is built, without refs/heads/ or
// refs/tags/.
func headName(job ci.Info) string {
	for _, name := range []string{job.HeadRef, job.Branch(), job.Tag()} {
		if name != "" {
			return name
		}
	}
	return job.Ref
}
