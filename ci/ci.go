// Package ci tells which CI job this is, from the variables that CI services
// document.
//
//	cmd/mayfly, action ──environment──▶ Detect ──Info──▶ remotecache/scope (whose cache), traces
//	                                              ├─Labels──▶ the image's config
//	                                              └─BuilderID──▶ provenance
//
// In: the environment as a function, and how to read the file that GitHub
// describes an event in. Out: facts. The package asks nobody and keeps
// nothing, and no token finds its way into an Info.
package ci

import (
	"net/url"
	"strconv"
	"strings"
)

// A Provider is a CI service.
type Provider string

// The services that Detect knows.
const (
	None           Provider = "" // no CI job, or one that nothing is known of
	GitHubActions  Provider = "github"
	GitLab         Provider = "gitlab"
	Jenkins        Provider = "jenkins"
	CircleCI       Provider = "circleci"
	Buildkite      Provider = "buildkite"
	AzurePipelines Provider = "azure"
	Tekton         Provider = "tekton"
)

// An Info is what is known of a job. A field is empty where the service does
// not tell.
type Info struct {
	Provider   Provider
	ServerURL  string // of what hosts the repository, without a final slash: "https://github.com"
	Repository string // path on that server: "acme/app"

	// Ref is what is built, in git's full form: refs/heads/main, refs/tags/v1,
	// refs/pull/7/merge, refs/merge-requests/7/head. Where a service builds
	// the head of a pull request under the name of its branch, it is that
	// branch's, except for pull requests that are not Trusted: a fork's
	// branch may have any name.
	Ref           string
	HeadRef       string // branch that a pull request asks to merge, without refs/heads/; a fork's may be named as one of ours
	BaseRef       string // branch that it is to be merged into, without refs/heads/
	DefaultBranch string // of the repository, without refs/heads/
	PullRequest   int    // its number; 0 for none, or where it has none
	SHA           string // commit

	Pipeline string // name of the workflow or pipeline; the same in each run
	RunID    string // of this run of it
	Attempt  string // "1", "2", … where it can be run again
	RunURL   string // a page about it, or about the job where there is no other
	Job      string // name within it
	JobID    string // of this run of the job
	JobURL   string // a page about it
	Worker   string // name of the runner, agent or node

	// Trusted says that what is built comes from people who may write to the
	// repository. It is set outside of CI too. When it is unset, Why says in
	// a few words what speaks against it.
	Trusted bool
	Why     string
}

// Branch returns the branch that Ref names, "" when it names none.
func (i Info) Branch() string { return after(i.Ref, "refs/heads/") }

// Tag returns the tag that Ref names, "" when it names none.
func (i Info) Tag() string { return after(i.Ref, "refs/tags/") }

func after(s, prefix string) string {
	name, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return ""
	}
	return name
}

// Detect returns what the environment says of the job. getenv returns "" for
// what is not set, as os.Getenv does; readFile, as os.ReadFile, is asked for
// the file of GITHUB_EVENT_PATH only, and may be nil.
//
// Where nothing speaks of a pull request or of an event that strangers cause,
// the job is Trusted. Where a pull request is known but not whose it is, the
// job is not.
func Detect(getenv func(string) string, readFile func(string) ([]byte, error)) Info {
	e := env(getenv)
	switch {
	case e.is("GITHUB_ACTIONS"):
		return github(e, readFile)
	case e.is("GITLAB_CI"):
		return gitlab(e)
	case e.is("CIRCLECI"):
		return circleci(e)
	case e.is("BUILDKITE"):
		return buildkite(e)
	case e.is("TF_BUILD"):
		return azure(e)
	case e("JENKINS_URL") != "":
		return jenkins(e)
	case e("TEKTON_PIPELINE_RUN") != "" || e("TEKTON_TASK_RUN") != "":
		return tekton(e)
	}
	return Info{Trusted: true}
}

// distrust makes i one of a job that is not trusted.
func (i *Info) distrust(why string) { i.Trusted, i.Why = false, why }

// Reasons that several services share.
const (
	fork        = "the pull request comes from a fork"
	unknownFork = "it is not known whether the pull request comes from a fork"
)

type env func(string) string

// is reports whether a variable says yes: "true", "True" or "1".
func (e env) is(name string) bool {
	yes, err := strconv.ParseBool(e(name))
	return err == nil && yes
}

// first returns the first of the variables that is set.
func (e env) first(names ...string) string {
	for _, n := range names {
		if v := e(n); v != "" {
			return v
		}
	}
	return ""
}

// number reads the number of a pull request; 0 when there is none.
func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// branchRef returns the full form of a branch, tagRef that of a tag; "" for "".
func branchRef(name string) string { return prefixed("refs/heads/", name) }
func tagRef(name string) string    { return prefixed("refs/tags/", name) }

func prefixed(prefix, name string) string {
	if name == "" {
		return ""
	}
	return prefix + name
}

// pullRef returns a ref for a pull request that has no other: of the number,
// or of what stands in its place; 0 when there is neither.
func pullRef(id string) string {
	if id == "" {
		id = "0"
	}
	return "refs/pull/" + id + "/head"
}

// pullNumber reads the number in refs/pull/7/merge or refs/merge-requests/7/head.
func pullNumber(ref string) int {
	for _, prefix := range []string{"refs/pull/", "refs/merge-requests/"} {
		if rest, ok := strings.CutPrefix(ref, prefix); ok {
			id, _, _ := strings.Cut(rest, "/")
			return number(id)
		}
	}
	return 0
}

// shortBranch removes refs/heads/ where a service gives a branch either way.
func shortBranch(s string) string { return strings.TrimPrefix(s, "refs/heads/") }

// repositoryOf takes a clone URL apart; what may be secret in it (user,
// password) is left behind. Both are "" when s names no server.
func repositoryOf(s string) (server, path string) {
	if strings.Contains(s, "://") {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" {
			return "", ""
		}
		server = "https://" + u.Hostname()
		if u.Scheme == "http" || u.Scheme == "https" { // the port of ssh is no website's
			server = u.Scheme + "://" + u.Host
		}
		return server, trimRepository(u.Path)
	}
	// git@github.com:acme/app.git
	host, path, ok := strings.Cut(s, ":")
	if !ok || strings.Contains(host, "/") {
		return "", ""
	}
	if _, h, ok := strings.Cut(host, "@"); ok {
		host = h
	}
	return "https://" + host, trimRepository(path)
}

func trimRepository(path string) string {
	return strings.TrimSuffix(strings.Trim(path, "/"), ".git")
}

// sameRepository reports whether two clone URLs lead to the same repository;
// false when one of them leads nowhere.
func sameRepository(a, b string) bool {
	hostA, pathA := hostAndPath(a)
	hostB, pathB := hostAndPath(b)
	return pathA != "" && strings.EqualFold(hostA, hostB) && strings.EqualFold(pathA, pathB)
}

func hostAndPath(s string) (host, path string) {
	server, path := repositoryOf(s)
	_, host, _ = strings.Cut(server, "://")
	return host, path
}
