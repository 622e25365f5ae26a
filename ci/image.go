package ci

import (
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Label is a label of an image's config.
type Label struct{ Key, Value string }

// Labels returns what an image may say of where it comes from, under the keys
// of the OCI image specification: source and url (the repository's page),
// revision (the commit) and version (the tag, when one is built). It has
// nothing of the run, so that two runs of a commit make the same image.
func (i Info) Labels() []Label {
	var out []Label
	add := func(key, value string) {
		if value != "" {
			out = append(out, Label{key, value})
		}
	}
	add(ocispec.AnnotationRevision, i.SHA)
	add(ocispec.AnnotationSource, i.RepositoryURL())
	add(ocispec.AnnotationURL, i.RepositoryURL())
	add(ocispec.AnnotationVersion, i.Tag())
	return out
}

// RepositoryURL returns the repository's page, "" when it is not known.
func (i Info) RepositoryURL() string {
	if i.ServerURL == "" || i.Repository == "" {
		return ""
	}
	// A path is not escaped as a query is: a space is %20.
	return i.ServerURL + "/" + strings.ReplaceAll(i.Repository, " ", "%20")
}

// BuilderID names who builds, as SLSA provenance does in its builder's id: the
// page of the run. On GitHub it ends in the attempt, the first one too, as that
// of docker/build-push-action does. It is "" outside of CI and where a service
// has no pages.
func (i Info) BuilderID() string {
	if i.Provider == GitHubActions && i.Attempt == "1" && i.RunURL != "" {
		return i.RunURL + "/attempts/1"
	}
	return i.RunURL
}
