package ci

import "strings"

// tekton reads variables that a Tekton task sets by convention, since Tekton
// sets none: TEKTON_PIPELINE_RUN or TEKTON_TASK_RUN from
// $(context.pipelineRun.name) and $(context.taskRun.name), TEKTON_PIPELINE and
// TEKTON_TASK from $(context.pipeline.name) and $(context.task.name), and
// TEKTON_ with the name in capitals for each of Pipelines as Code's variables
// {{ repo_url }},
// {{ source_url }}, {{ revision }}, {{ source_branch }}, {{ target_branch }},
// {{ pull_request_number }}, {{ event_type }} and {{ git_tag }}.
func tekton(e env) Info {
	i := Info{
		Provider: Tekton, SHA: e("TEKTON_REVISION"),
		RunID: e.first("TEKTON_PIPELINE_RUN", "TEKTON_TASK_RUN"), Pipeline: e("TEKTON_PIPELINE"),
		Job: e.first("TEKTON_TASK", "TEKTON_TASK_RUN"), JobID: e("TEKTON_TASK_RUN"), Trusted: true,
	}
	i.ServerURL, i.Repository = repositoryOf(e("TEKTON_REPO_URL"))
	source := e("TEKTON_SOURCE_BRANCH")
	pr, tag := e("TEKTON_PULL_REQUEST_NUMBER"), e("TEKTON_GIT_TAG")
	switch {
	case pr != "" || strings.HasPrefix(e("TEKTON_EVENT_TYPE"), "pull_request"):
		i.PullRequest = number(pr)
		i.Ref = pullRef(pr)
		i.HeadRef, i.BaseRef = shortBranch(source), shortBranch(e("TEKTON_TARGET_BRANCH"))
		switch head := e("TEKTON_SOURCE_URL"); {
		case head == "" || i.Repository == "":
			i.distrust(unknownFork)
		case !sameRepository(head, e("TEKTON_REPO_URL")):
			i.distrust(fork)
		}
	case tag != "":
		i.Ref = tagRef(tag)
	case strings.HasPrefix(source, "refs/tags/"):
		i.Ref = source
	default:
		i.Ref = branchRef(shortBranch(source))
	}
	return i
}
