package ci

import "strings"

// jenkins reads what the branch sources of multibranch projects set, and for
// other projects what the git plugin does.
func jenkins(e env) Info {
	i := Info{
		Provider: Jenkins, SHA: e("GIT_COMMIT"),
		RunID: e.first("BUILD_NUMBER", "BUILD_ID"), RunURL: e("BUILD_URL"),
		Pipeline: e("JOB_NAME"), Job: e.first("STAGE_NAME", "JOB_NAME"), JobID: e("BUILD_TAG"), Worker: e("NODE_NAME"), Trusted: true,
	}
	i.ServerURL, i.Repository = repositoryOf(e.first("GIT_URL", "GIT_URL_1"))
	branch := e("BRANCH_NAME")
	change, tag := e("CHANGE_ID"), e("TAG_NAME")
	switch {
	case change != "":
		i.PullRequest = number(change)
		i.Ref = pullRef(change)
		i.HeadRef, i.BaseRef = e("CHANGE_BRANCH"), e("CHANGE_TARGET")
		switch {
		case e("CHANGE_FORK") != "":
			i.distrust(fork)
		case i.HeadRef == "":
			// A branch source that does not tell the branch does not tell
			// forks either: both came with one interface.
			i.distrust(unknownFork)
		}
	case tag != "":
		i.Ref = tagRef(tag)
	case branch != "":
		i.Ref = branchRef(branch)
		if e.is("BRANCH_IS_PRIMARY") {
			i.DefaultBranch = branch
		}
	default:
		// origin/main, or main; "detached" when a commit was asked for.
		name := strings.TrimPrefix(shortBranch(e.first("GIT_LOCAL_BRANCH", "GIT_BRANCH")), "origin/")
		if name != "detached" {
			i.Ref = branchRef(name)
		}
	}
	return i
}
