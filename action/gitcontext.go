package action

import (
	"encoding/json"
	"errors"
	"regexp"
	"strconv"
	"strings"

	"github.com/mayfly-build/mayfly/internal/hint"
)

// A gitContext is the commit that a workflow runs for, as a build context.
type gitContext struct {
	url   string // with the commit in it
	query bool   // where the URL has the commit
}

// defaultContext returns the context of a step that names none: the repository
// at the commit of the event, or at its ref where no commit is known. With
// DOCKER_DEFAULT_GIT_CONTEXT_PR_HEAD_REF it is the head of a pull request, not
// the merge with its base. With BUILDX_SEND_GIT_QUERY_AS_INPUT the commit is in
// the URL's query.
func defaultContext(j job) (gitContext, error) {
	if j.repository == "" {
		return gitContext{}, hint.With(errors.New("GITHUB_REPOSITORY is not set, so there is no default context"), "give the input context")
	}
	ref, pinned := j.ref, j.sha
	switch {
	case ref == "":
	case !strings.HasPrefix(ref, "refs/"):
		ref = "refs/heads/" + ref
	case strings.HasPrefix(ref, "refs/pull/") && isSet(j.Getenv, "DOCKER_DEFAULT_GIT_CONTEXT_PR_HEAD_REF"):
		if rest, ok := strings.CutSuffix(ref, "/merge"); ok {
			ref = rest + "/head"
		}
	}
	if strings.HasPrefix(ref, "refs/pull/") && strings.HasSuffix(ref, "/head") {
		pinned = j.pullHead()
	}
	if pinned == "" {
		pinned = ref
	}
	g := gitContext{query: isSet(j.Getenv, "BUILDX_SEND_GIT_QUERY_AS_INPUT")}
	sep := "#"
	if g.query {
		sep = "?ref="
	}
	if pinned == "" {
		sep = ""
	}
	g.url = j.server + "/" + j.repository + ".git" + sep + pinned
	return g, nil
}

// placeholder is {{defaultContext}}, in the spellings of handlebars, and a
// directory after it.
var placeholder = regexp.MustCompile(`\{\{\{?\s*defaultContext\s*\}?\}\}(:[^\s{]*)?`)

// hasPlaceholder reports whether a value names the default context.
func hasPlaceholder(s string) bool { return placeholder.MatchString(s) }

// expand puts the default context in place of {{defaultContext}}. A directory
// after it, {{defaultContext}}:sub, becomes part of the URL.
func (g gitContext) expand(s string) string {
	return placeholder.ReplaceAllStringFunc(s, func(found string) string {
		_, dir, ok := strings.Cut(found[strings.LastIndex(found, "}"):], ":")
		switch {
		case !ok:
			return g.url
		case g.query:
			return g.url + "&subdir=" + dir
		}
		return g.url + ":" + dir
	})
}

// directory returns which directory of the repository a context is; false when
// it is another context.
func (g gitContext) directory(context string) (string, bool) {
	rest, ok := strings.CutPrefix(context, g.url)
	if !ok || g.url == "" {
		return "", false
	}
	for _, sep := range []string{":", "&subdir="} {
		if dir, ok := strings.CutPrefix(rest, sep); ok {
			return dir, true
		}
	}
	return "", rest == ""
}

// pullHead returns the head of the event's pull request; "" when it has none.
func (j job) pullHead() string {
	var ev struct {
		PullRequest struct {
			Head struct {
				SHA string `json:"sha"`
			} `json:"head"`
		} `json:"pull_request"`
	}
	path, _ := j.Getenv("GITHUB_EVENT_PATH")
	if path == "" || j.ReadFile == nil {
		return ""
	}
	data, err := j.ReadFile(path)
	if err != nil || json.Unmarshal(data, &ev) != nil {
		return ""
	}
	return ev.PullRequest.Head.SHA
}

// isSet reports whether a variable says yes, as docker's actions read it.
func isSet(getenv func(string) (string, bool), name string) bool {
	v, _ := getenv(name)
	yes, err := strconv.ParseBool(v)
	return err == nil && yes
}

// isOff reports whether a variable says no.
func isOff(getenv func(string) (string, bool), name string) bool {
	v, _ := getenv(name)
	yes, err := strconv.ParseBool(v)
	return err == nil && !yes
}
