package ci

import (
	"net/url"
	"strings"
)

// azure reads the predefined variables of Azure Pipelines. Those about pull
// requests give branches in either form.
func azure(e env) Info {
	i := Info{
		Provider: AzurePipelines, SHA: e("BUILD_SOURCEVERSION"), Ref: e("BUILD_SOURCEBRANCH"),
		RunID: e("BUILD_BUILDID"), Attempt: e("SYSTEM_JOBATTEMPT"),
		Pipeline: e("BUILD_DEFINITIONNAME"),
		Job:      e.first("SYSTEM_JOBDISPLAYNAME", "SYSTEM_JOBNAME", "AGENT_JOBNAME"), JobID: e("SYSTEM_JOBID"), Worker: e("AGENT_NAME"), Trusted: true,
	}
	i.ServerURL, i.Repository = repositoryOf(e("BUILD_REPOSITORY_URI"))
	if i.Repository == "" {
		i.Repository = e("BUILD_REPOSITORY_NAME")
	}
	collection := strings.TrimSuffix(e.first("SYSTEM_COLLECTIONURI", "SYSTEM_TEAMFOUNDATIONCOLLECTIONURI"), "/")
	if project := e("SYSTEM_TEAMPROJECT"); collection != "" && project != "" && i.RunID != "" {
		i.RunURL = collection + "/" + url.PathEscape(project) + "/_build/results?buildId=" + url.QueryEscape(i.RunID)
		if i.JobID != "" {
			i.JobURL = i.RunURL + "&view=logs&j=" + url.QueryEscape(i.JobID)
		}
	}
	if !strings.HasPrefix(i.Ref, "refs/") { // a build queued by a branch's name
		i.Ref = branchRef(i.Ref)
	}
	// GitHub's pull requests have an ID besides the number; others only an ID.
	id := e.first("SYSTEM_PULLREQUEST_PULLREQUESTNUMBER", "SYSTEM_PULLREQUEST_PULLREQUESTID")
	i.PullRequest = number(id)
	if i.PullRequest == 0 {
		i.PullRequest = pullNumber(i.Ref)
	}
	if id == "" && i.PullRequest == 0 && e("BUILD_REASON") != "PullRequest" {
		return i
	}
	i.HeadRef = shortBranch(e("SYSTEM_PULLREQUEST_SOURCEBRANCH"))
	i.BaseRef = shortBranch(e.first("SYSTEM_PULLREQUEST_TARGETBRANCH", "SYSTEM_PULLREQUEST_TARGETBRANCHNAME"))
	switch strings.ToLower(e("SYSTEM_PULLREQUEST_ISFORK")) {
	case "false":
	case "true":
		i.distrust(fork)
	default:
		i.distrust(unknownFork)
	}
	if !i.Trusted && i.Branch() != "" {
		i.Ref = pullRef(id)
	}
	return i
}
