package ci

import "strings"

// gitlab reads GitLab's predefined variables. The pipeline of a fork's merge
// request runs in the fork's project, or in ours when a member starts it.
func gitlab(e env) Info {
	i := Info{
		Provider: GitLab, ServerURL: strings.TrimSuffix(e("CI_SERVER_URL"), "/"), Repository: e("CI_PROJECT_PATH"),
		DefaultBranch: e("CI_DEFAULT_BRANCH"), SHA: e("CI_COMMIT_SHA"),
		RunID: e("CI_PIPELINE_ID"), RunURL: e.first("CI_PIPELINE_URL", "CI_JOB_URL"), Pipeline: e("CI_PIPELINE_NAME"),
		Job: e("CI_JOB_NAME"), JobID: e("CI_JOB_ID"), JobURL: e("CI_JOB_URL"), Worker: e.first("CI_RUNNER_DESCRIPTION", "CI_RUNNER_ID"), Trusted: true,
	}
	tag := e("CI_COMMIT_TAG")
	iid, external := e("CI_MERGE_REQUEST_IID"), e("CI_EXTERNAL_PULL_REQUEST_IID")
	switch {
	case iid != "":
		i.PullRequest = number(iid)
		i.Ref = e("CI_MERGE_REQUEST_REF_PATH")
		if i.Ref == "" {
			i.Ref = "refs/merge-requests/" + iid + "/head"
		}
		i.HeadRef, i.BaseRef = e("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME"), e("CI_MERGE_REQUEST_TARGET_BRANCH_NAME")
		source := e("CI_MERGE_REQUEST_SOURCE_PROJECT_ID")
		target := e.first("CI_MERGE_REQUEST_PROJECT_ID", "CI_PROJECT_ID")
		switch {
		case source == "": // the fork is gone, or hidden
			i.distrust(unknownFork)
		case source != target || source != e("CI_PROJECT_ID"):
			i.distrust("the merge request comes from a fork")
		}
	case external != "": // of a repository elsewhere that GitLab builds
		i.PullRequest = number(external)
		i.Ref = pullRef(external)
		i.HeadRef, i.BaseRef = e("CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_NAME"), e("CI_EXTERNAL_PULL_REQUEST_TARGET_BRANCH_NAME")
		source, target := e("CI_EXTERNAL_PULL_REQUEST_SOURCE_REPOSITORY"), e("CI_EXTERNAL_PULL_REQUEST_TARGET_REPOSITORY")
		switch {
		case source == "" || target == "":
			i.distrust(unknownFork)
		case !strings.EqualFold(source, target):
			i.distrust(fork)
		}
	case tag != "":
		i.Ref = tagRef(tag)
	default:
		i.Ref = branchRef(e.first("CI_COMMIT_BRANCH", "CI_COMMIT_REF_NAME"))
	}
	return i
}
