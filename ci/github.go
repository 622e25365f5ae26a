package ci

import (
	"encoding/json"
	"slices"
	"strings"
)

// trustedEvents are those that only people with write access cause, or that
// build nothing but what such people pushed. It is GitHub's list of events
// that may write to the cache of the default branch (changelog of 2026-06-26),
// with those whose ref is never that branch.
var trustedEvents = []string{
	"push", "schedule", "workflow_dispatch", "repository_dispatch", "delete", "registry_package", "page_build",
	"create", "release", "deployment", "deployment_status", "merge_group",
	"", // no runner leaves it out; whoever passes on some variables may
}

// A githubEvent is what we read of the file at GITHUB_EVENT_PATH.
type githubEvent struct {
	Number     int `json:"number"`
	Repository struct {
		DefaultBranch string `json:"default_branch"`
	} `json:"repository"`
	PullRequest *struct {
		Number int          `json:"number"`
		Head   githubBranch `json:"head"`
		Base   githubBranch `json:"base"`
	} `json:"pull_request"`
	Issue *struct {
		Number      int       `json:"number"`
		PullRequest *struct{} `json:"pull_request"` // there when the issue is one
	} `json:"issue"`
	WorkflowRun *struct {
		Event          string            `json:"event"`
		HeadRepository *githubRepository `json:"head_repository"`
		PullRequests   []struct {
			Number int `json:"number"`
		} `json:"pull_requests"`
	} `json:"workflow_run"`
	MergeGroup *struct {
		BaseRef string `json:"base_ref"`
	} `json:"merge_group"`
}

type githubBranch struct {
	Ref  string            `json:"ref"`
	Repo *githubRepository `json:"repo"` // null when the fork was deleted
}

type githubRepository struct {
	FullName      string `json:"full_name"`
	DefaultBranch string `json:"default_branch"`
}

// is reports whether r is the repository with that name.
func (r *githubRepository) is(name string) bool {
	return r != nil && r.FullName != "" && strings.EqualFold(r.FullName, name)
}

// github reads what the runner sets; Gitea's, Forgejo's and act set the same.
func github(e env, readFile func(string) ([]byte, error)) Info {
	i := Info{
		Provider: GitHubActions, ServerURL: strings.TrimSuffix(e("GITHUB_SERVER_URL"), "/"), Repository: e("GITHUB_REPOSITORY"),
		Ref: e("GITHUB_REF"), HeadRef: e("GITHUB_HEAD_REF"), BaseRef: e("GITHUB_BASE_REF"), SHA: e("GITHUB_SHA"),
		RunID: e("GITHUB_RUN_ID"), Attempt: e("GITHUB_RUN_ATTEMPT"), Job: e("GITHUB_JOB"),
		Pipeline: e("GITHUB_WORKFLOW"), Worker: e("RUNNER_NAME"), Trusted: true,
	}
	if i.ServerURL != "" && i.Repository != "" && i.RunID != "" {
		i.RunURL = i.ServerURL + "/" + i.Repository + "/actions/runs/" + i.RunID
		if i.Attempt != "" && i.Attempt != "1" {
			i.RunURL += "/attempts/" + i.Attempt
		}
	}
	var ev githubEvent
	known := false
	if path := e("GITHUB_EVENT_PATH"); path != "" && readFile != nil {
		data, err := readFile(path)
		known = err == nil && json.Unmarshal(data, &ev) == nil
		if !known {
			ev = githubEvent{} // not half of it
		}
	}
	name := e("GITHUB_EVENT_NAME")
	ev.describe(&i, name)
	i.PullRequest = ev.pullRequest(i.Ref)
	ev.judge(&i, name, known)
	return i
}

// describe adds the branches that the event tells of.
func (ev *githubEvent) describe(i *Info, name string) {
	i.DefaultBranch = ev.Repository.DefaultBranch
	if pr := ev.PullRequest; pr != nil {
		if i.HeadRef == "" {
			i.HeadRef = pr.Head.Ref
		}
		if i.BaseRef == "" {
			i.BaseRef = pr.Base.Ref
		}
		if i.DefaultBranch == "" && pr.Base.Repo != nil {
			i.DefaultBranch = pr.Base.Repo.DefaultBranch
		}
	}
	if ev.MergeGroup != nil && i.BaseRef == "" {
		i.BaseRef = shortBranch(ev.MergeGroup.BaseRef)
	}
	if i.DefaultBranch == "" && name == "schedule" { // runs nowhere else
		i.DefaultBranch = i.Branch()
	}
}

func (ev *githubEvent) pullRequest(ref string) int {
	switch {
	case ev.PullRequest != nil && ev.PullRequest.Number > 0:
		return ev.PullRequest.Number
	case ev.Issue != nil && ev.Issue.PullRequest != nil:
		return ev.Issue.Number
	case ev.WorkflowRun != nil && len(ev.WorkflowRun.PullRequests) == 1:
		return ev.WorkflowRun.PullRequests[0].Number
	}
	return pullNumber(ref)
}

func (ev *githubEvent) judge(i *Info, name string, known bool) {
	switch name {
	case "pull_request", "pull_request_review", "pull_request_review_comment":
		ev.judgePullRequest(i, known)
	case "workflow_run":
		run := ev.WorkflowRun
		switch {
		case run == nil:
			i.distrust("it is not known which workflow run caused this one")
		case !run.HeadRepository.is(i.Repository):
			i.distrust("a workflow run of a fork caused this one")
		case run.Event != "pull_request" && run.Event != "workflow_run" && !slices.Contains(trustedEvents, run.Event):
			i.distrust("a workflow run on " + run.Event + " caused this one, which people without write access can trigger")
		}
	default:
		switch {
		case !slices.Contains(trustedEvents, name):
			i.distrust("people without write access can trigger " + name)
		case strings.HasPrefix(i.Ref, "refs/pull/"): // started by hand, say
			ev.judgePullRequest(i, known)
		}
	}
}

func (ev *githubEvent) judgePullRequest(i *Info, known bool) {
	switch {
	case !known || ev.PullRequest == nil:
		i.distrust(unknownFork)
	case !ev.PullRequest.Head.Repo.is(i.Repository):
		i.distrust(fork)
	}
}
