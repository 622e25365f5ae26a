package ci

// buildkite reads Buildkite's variables. The build of a pull request has the
// name of the head's branch, which for a fork may be that of one of ours.
func buildkite(e env) Info {
	i := Info{
		Provider: Buildkite, DefaultBranch: e("BUILDKITE_PIPELINE_DEFAULT_BRANCH"), SHA: e("BUILDKITE_COMMIT"),
		RunID: e("BUILDKITE_BUILD_NUMBER"), RunURL: e("BUILDKITE_BUILD_URL"), Pipeline: e("BUILDKITE_PIPELINE_SLUG"),
		Job: e.first("BUILDKITE_STEP_KEY", "BUILDKITE_LABEL"), JobID: e("BUILDKITE_JOB_ID"), Worker: e("BUILDKITE_AGENT_NAME"),
		Trusted: true,
	}
	i.ServerURL, i.Repository = repositoryOf(e("BUILDKITE_REPO"))
	if i.RunURL != "" && i.JobID != "" {
		i.JobURL = i.RunURL + "#" + i.JobID
	}
	if i.SHA == "HEAD" { // not resolved yet
		i.SHA = ""
	}
	branch, pr := e("BUILDKITE_BRANCH"), e("BUILDKITE_PULL_REQUEST")
	switch {
	case pr != "" && pr != "false":
		i.PullRequest = number(pr)
		i.HeadRef, i.BaseRef = branch, e("BUILDKITE_PULL_REQUEST_BASE_BRANCH")
		switch head := e("BUILDKITE_PULL_REQUEST_REPO"); {
		case head == "":
			i.distrust(unknownFork)
		case !sameRepository(head, e("BUILDKITE_REPO")):
			i.distrust(fork)
		}
		i.Ref = branchRef(branch)
		if !i.Trusted {
			i.Ref = pullRef(pr)
		}
	case e("BUILDKITE_TAG") != "":
		i.Ref = tagRef(e("BUILDKITE_TAG"))
	default:
		i.Ref = branchRef(branch)
	}
	return i
}
