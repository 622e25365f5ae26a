package tracing

import (
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/mayfly-build/mayfly/ci"
)

// Resource describes who builds: mayfly of a version, in a CI job. The names
// are those of OpenTelemetry's semantic conventions; what is not known is left
// out.
func Resource(version string, job ci.Info) *resource.Resource {
	attrs := []attribute.KeyValue{semconv.ServiceName("mayfly")}
	add := func(value string, attr func(string) attribute.KeyValue) {
		if value != "" {
			attrs = append(attrs, attr(value))
		}
	}
	add(version, semconv.ServiceVersion)
	add(job.RunID, semconv.CICDPipelineRunID)
	add(job.RunURL, semconv.CICDPipelineRunURLFull)
	add(job.Job, semconv.CICDPipelineTaskName)
	if job.ServerURL != "" && job.Repository != "" {
		add(job.ServerURL+"/"+job.Repository, semconv.VCSRepositoryURLFull)
	}
	add(headName(job), semconv.VCSRefHeadName)
	add(job.SHA, semconv.VCSRefHeadRevision)
	switch {
	case job.Tag() != "":
		attrs = append(attrs, semconv.VCSRefHeadTypeTag)
	case headName(job) != "":
		attrs = append(attrs, semconv.VCSRefHeadTypeBranch)
	}
	add(job.BaseRef, semconv.VCSRefBaseName)
	if job.PullRequest != 0 {
		attrs = append(attrs, semconv.VCSChangeID(strconv.Itoa(job.PullRequest)))
	}
	return resource.NewWithAttributes(semconv.SchemaURL, attrs...)
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
