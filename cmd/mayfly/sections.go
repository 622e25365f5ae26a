package main

import (
	"errors"
	"os"
	"slices"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/ci"
	"github.com/mayfly-build/mayfly/engine/progress"
	"github.com/mayfly-build/mayfly/engine/progress/steplog/sections"
	"github.com/mayfly-build/mayfly/engine/solver"
)

// progressStyles are the values of --progress.
func progressStyles() []string {
	all := []string{"auto", "plain", "tty", "rawjson", "quiet"}
	for _, s := range sections.Styles() {
		all = append(all, string(s))
	}
	return all
}

// sectionStyle returns how the log of this build folds: as --progress says or,
// where that is auto, as the CI service's logs do.
func sectionStyle(w world, o buildOptions) (sections.Style, bool) {
	if s := sections.Style(o.progress); slices.Contains(sections.Styles(), s) {
		return s, true
	}
	if o.progress != "auto" || isTerminal(w.stderr) {
		return "", false
	}
	return serviceStyle(w)
}

// serviceStyle returns how the logs of the CI service fold, false where they do
// not or there is none.
func serviceStyle(w world) (sections.Style, bool) {
	switch ci.Detect(w.env, os.ReadFile).Provider {
	case ci.GitHubActions:
		return sections.GitHub, true
	case ci.GitLab:
		return sections.GitLab, true
	case ci.AzurePipelines:
		return sections.Azure, true
	case ci.Buildkite:
		return sections.Buildkite, true
	}
	return "", false
}

// quoted returns an error's text as it may stand in a log: what a Dockerfile
// says in it is no command to the CI service.
func quoted(w world, text string) string {
	if style, ok := serviceStyle(w); ok {
		return style.Quote(text)
	}
	return text
}

// folded is display for logs that fold.
func folded(w world, style sections.Style, sinks []func(*client.SolveStatus)) (*progress.Stream, func(error)) {
	l := sections.New(w.stderr, style)
	return progress.New(append(sinks, l.Read)...), func(err error) { l.End(failedStep(err)) }
}

// failedStep returns the digest of the step that failed a build, "" when it was
// none.
func failedStep(err error) digest.Digest {
	var se *solver.StepError
	if !errors.As(err, &se) {
		return ""
	}
	return se.Vertex.Digest
}
