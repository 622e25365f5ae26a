package ci

import (
	"path"
	"strings"
)

// circleci reads CircleCI's built-in variables. It builds branches: a pull
// request within the repository is a branch that one was opened for, a fork's
// is the branch pull/7.
func circleci(e env) Info {
	i := Info{
		Provider: CircleCI, SHA: e("CIRCLE_SHA1"),
		RunID: e.first("CIRCLE_WORKFLOW_ID", "CIRCLE_BUILD_NUM"), RunURL: e("CIRCLE_BUILD_URL"),
		Job: e("CIRCLE_JOB"), JobID: e("CIRCLE_BUILD_NUM"), JobURL: e("CIRCLE_BUILD_URL"), Trusted: true,
	}
	i.ServerURL, i.Repository = repositoryOf(e("CIRCLE_REPOSITORY_URL"))
	if owner, name := e("CIRCLE_PROJECT_USERNAME"), e("CIRCLE_PROJECT_REPONAME"); i.Repository == "" && owner != "" && name != "" {
		i.Repository = owner + "/" + name
	}
	branch := e("CIRCLE_BRANCH")
	forked := e.first("CIRCLE_PR_REPONAME", "CIRCLE_PR_USERNAME", "CIRCLE_PR_NUMBER") // set for forks only
	id, isPull := strings.CutPrefix(branch, "pull/")
	switch {
	case forked != "" || isPull && number(id) > 0:
		if !isPull {
			id, i.HeadRef = e("CIRCLE_PR_NUMBER"), branch
		}
		i.PullRequest = number(id)
		i.Ref = pullRef(id)
		i.distrust(fork)
	case e("CIRCLE_TAG") != "":
		i.Ref = tagRef(e("CIRCLE_TAG"))
	default:
		i.Ref = branchRef(branch)
		if url := e("CIRCLE_PULL_REQUEST"); url != "" { // https://github.com/acme/app/pull/7
			i.PullRequest = number(path.Base(url))
			i.HeadRef = branch
		}
	}
	return i
}
