// Package action makes mayfly an action of GitHub: a step of a workflow whose
// inputs are those of docker/build-push-action.
//
//	action/main.js ──the job's environment──▶ cmd/mayfly ──▶ New ──Plan──▶ arguments of mayfly build
//	                                              │
//	engine/progress/steplog ──Step, Warning───────┴──▶ log, annotations, outputs, job summary
//
// In: environment variables as a function, and what became of a build. Out:
// what mayfly build is to do, and text in the forms that GitHub's runner reads.
// The package runs nothing.
package action

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/mayfly-build/mayfly/internal/hint"
)

// A Config says what New may know of the step.
type Config struct {
	Getenv    func(name string) (string, bool)
	Variables []string                          // names of all environment variables
	ReadFile  func(path string) ([]byte, error) // for the event's file, and nothing else; nil means that there is none
	Exists    func(path string) bool            // for secret-files; nil means that all do
	Gha       func() error                      // why GitHub's cache cannot be used; nil means that it can be
	Tmp       string                            // directory for what the build leaves for the action
}

// A Plan is what a step asks for.
type Plan struct {
	Args      []string   // of mayfly build; no secret is among them
	Variables []Variable // that Args name, beside those of the environment
	Masks     []string   // what the log must not show
	Notes     []Note     // what the user is to know before the build
	Inputs    []Given

	MetadataFile string   // that the build writes
	IIDFile      string   // likewise; "" when there is no image
	Load         []string // tars for `docker load`, which the build writes
	Left         []string // what else the build writes, and the job's user owns

	Summary    bool   // a job summary is wanted
	Annotate   bool   // annotations of lint warnings are wanted
	Dockerfile string // where the Dockerfile is in the repository; "" when it is not known
	Image      string // what is built, in a few words

	ownCache bool // the caches in Args are of the input cache
}

// A Variable is an environment variable.
type Variable struct{ Name, Value string }

// Getenv returns getenv with the plan's own variables.
func (p *Plan) Getenv(getenv func(string) (string, bool)) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, v := range p.Variables {
			if v.Name == name {
				return v.Value, true
			}
		}
		return getenv(name)
	}
}

// A Note is something for the user to know.
type Note struct {
	Level Level
	Text  string
}

// A Level is how much a Note matters.
type Level string

// The levels: a line of the log, and the annotations that GitHub has.
const (
	Info    Level = "info"
	Notice  Level = "notice"
	Warning Level = "warning"
)

// job is what is known of the step beside its inputs.
type job struct {
	Config
	server, repository, ref, sha, workspace string
}

func newJob(cfg Config) job {
	env := func(name string) string { v, _ := cfg.Getenv(name); return v }
	j := job{
		Config: cfg,
		server: strings.TrimSuffix(env("GITHUB_SERVER_URL"), "/"), repository: env("GITHUB_REPOSITORY"),
		ref: env("GITHUB_REF"), sha: env("GITHUB_SHA"), workspace: env("GITHUB_WORKSPACE"),
	}
	if j.server == "" {
		j.server = "https://github.com"
	}
	return j
}

// New reads the inputs of a step. The error names the input that cannot be
// honoured.
func New(cfg Config) (*Plan, error) {
	in, err := read(cfg.Getenv)
	if err != nil {
		return nil, err
	}
	p := &planner{in: in, job: newJob(cfg)}
	p.Inputs = in.given(cfg.Getenv)
	p.Summary = !isOff(cfg.Getenv, "DOCKER_BUILD_SUMMARY")
	p.Annotate = !isOff(cfg.Getenv, "DOCKER_BUILD_CHECKS_ANNOTATIONS")
	for _, name := range unknown(cfg.Variables) {
		p.warn("input %s is not known, and ignored", name)
	}
	if err := p.unsupported(); err != nil {
		return nil, err
	}
	if err := p.arguments(); err != nil {
		return nil, err
	}
	return &p.Plan, nil
}

// A planner makes a Plan.
type planner struct {
	Plan
	in  inputs
	job job
}

func (p *planner) note(l Level, format string, args ...any) {
	p.Notes = append(p.Notes, Note{l, fmt.Sprintf(format, args...)})
}

func (p *planner) warn(format string, args ...any) { p.note(Warning, format, args...) }

// add adds a flag for each value.
func (p *planner) add(flag string, values ...string) {
	for _, v := range values {
		p.Args = append(p.Args, "--"+flag, v)
	}
}

// option adds a flag whose value is given.
func (p *planner) option(flag, value string) {
	if value != "" {
		p.add(flag, value)
	}
}

// file adds a flag whose value is a file that the build writes, if one is
// given. The job's user owns it.
func (p *planner) file(flag, path string) {
	p.option(flag, path)
	if path != "" {
		p.Left = append(p.Left, path)
	}
}

// switched adds a flag that is on.
func (p *planner) switched(flag string, on bool) {
	if on {
		p.Args = append(p.Args, "--"+flag)
	}
}

// unsupported says which inputs are not honoured: a warning where the image is
// what it would be, an error where it would not be, or there would be none.
func (p *planner) unsupported() error {
	switch p.in.call {
	case "", "build":
	default:
		return hint.With(fmt.Errorf("input call: %q is not supported: only builds are", p.in.call),
			"lint warnings are shown with every build; run `call: "+p.in.call+"` with docker/build-push-action")
	}
	if p.in.context == "-" || p.in.file == "-" {
		return errors.New("inputs context and file: a step has no standard input to read from")
	}
	return nil
}

// arguments makes those of mayfly build, in the order in which docker's action
// gives them.
func (p *planner) arguments() error {
	in := &p.in
	context, git, err := p.context()
	if err != nil {
		return err
	}
	if err := p.hasFiles(context); err != nil {
		return err
	}
	p.add("add-host", in.addHosts...)
	p.add("allow", in.allow...)
	p.add("build-arg", in.buildArgs...)
	for _, c := range in.buildContexts {
		if hasPlaceholder(c) && git.url == "" {
			return errors.New("input build-contexts: there is no default context: GITHUB_REPOSITORY is not set")
		}
		p.add("build-context", git.expand(c))
	}
	if err := p.caches(); err != nil {
		return err
	}
	p.option("cgroup-parent", in.cgroupParent)
	p.secretEnvs()
	p.option("file", in.file)
	if !p.onlyFiles() {
		p.IIDFile = filepath.Join(p.job.Tmp, "iidfile")
		p.add("iidfile", p.IIDFile)
	}
	p.add("label", in.labels...)
	p.add("no-cache-filter", in.noCacheFilters...)
	if err := p.outputs(); err != nil {
		return err
	}
	p.option("platform", strings.Join(in.platforms, ","))
	if err := p.attests(); err != nil {
		return err
	}
	p.annotations() // which of them have a place is known now
	p.secrets()
	p.secretFiles()
	p.gitToken(context, git)
	p.option("shm-size", in.shmSize)
	p.add("ssh", in.ssh...)
	p.add("tag", in.tags...)
	p.option("target", in.target)
	p.add("ulimit", in.ulimits...)
	p.MetadataFile = filepath.Join(p.job.Tmp, "metadata.json")
	p.add("metadata-file", p.MetadataFile)
	p.option("network", in.network)
	p.switched("no-cache", in.noCache)
	p.switched("pull", in.pull)
	p.switched("push", in.push)
	p.option("root", in.root)
	p.file("report", in.report)
	p.file("trace", in.trace)
	p.Args = append(p.Args, "--", context)
	p.Dockerfile = p.dockerfile(context, git)
	p.Image = WithoutUser(context)
	if len(in.tags) > 0 {
		p.Image = in.tags[0]
	}
	return nil
}

var userOfURL = regexp.MustCompile(`://[^/@\s]+@`)

// WithoutUser returns text in which no URL shows a user or a password.
func WithoutUser(s string) string { return userOfURL.ReplaceAllString(s, "://***@") }

// context returns the build context, and the default one where that is known.
func (p *planner) context() (string, gitContext, error) {
	git, err := defaultContext(p.job)
	if err != nil && (p.in.context == "" || hasPlaceholder(p.in.context)) {
		return "", git, err
	}
	if p.in.context == "" {
		return git.url, git, nil
	}
	return git.expand(p.in.context), git, nil
}

// hasFiles says which input is wrong when a directory has nothing to build.
func (p *planner) hasFiles(context string) error {
	if p.job.Exists == nil || strings.Contains(context, "://") || strings.HasPrefix(context, "git@") || strings.HasPrefix(context, "github.com/") {
		return nil
	}
	if !p.job.Exists(context) {
		return hint.With(fmt.Errorf("input context: there is no directory %s", context),
			"a step with actions/checkout comes before; without the input context the repository itself is built")
	}
	files := []string{p.in.file}
	if p.in.file == "" {
		files = []string{filepath.Join(context, "Dockerfile"), filepath.Join(context, "dockerfile")}
	}
	if !strings.Contains(files[0], "://") && !slices.ContainsFunc(files, p.job.Exists) {
		return hint.With(fmt.Errorf("input file: there is no Dockerfile %s", files[0]),
			"file is a path in the workspace, not in the context; a step with actions/checkout comes before")
	}
	return nil
}

// dockerfile returns where the Dockerfile is in the repository, for
// annotations.
func (p *planner) dockerfile(context string, git gitContext) string {
	if dir, ok := git.directory(context); ok {
		file := p.in.file
		if file == "" {
			file = "Dockerfile"
		}
		return filepath.Join(dir, file)
	}
	if strings.Contains(context, "://") {
		return ""
	}
	file := p.in.file
	if file == "" {
		file = filepath.Join(context, "Dockerfile")
	}
	if filepath.IsAbs(file) {
		rel, err := filepath.Rel(p.job.workspace, file)
		if err != nil || !filepath.IsLocal(rel) {
			return ""
		}
		file = rel
	}
	return filepath.Clean(file)
}

// annotations adds those that have a place: the image of a single platform is
// no index.
func (p *planner) annotations() {
	var dropped []string
	for _, a := range p.in.annotations {
		key, _, _ := strings.Cut(a, "=")
		levels, _, ok := strings.Cut(key, ":")
		if !ok || !areLevels(levels) || p.hasIndex() {
			p.add("annotation", a) // without a level it is the manifest's
			continue
		}
		rest := strings.TrimPrefix(a, levels+":")
		if onManifest(levels) {
			p.add("annotation", "manifest:"+rest)
		} else {
			name, _, _ := strings.Cut(rest, "=")
			dropped = append(dropped, levels+":"+name)
		}
	}
	if len(dropped) > 0 {
		p.warn("input annotations: the image has no index for %s: left out", strings.Join(dropped, ", "))
	}
}

// areLevels reports whether what stands before the colon of an annotation
// names levels: "manifest,index", "manifest[linux/amd64]".
func areLevels(s string) bool {
	for _, l := range strings.Split(s, ",") {
		l, _, _ = strings.Cut(l, "[")
		if !slices.Contains([]string{"manifest", "index", "manifest-descriptor", "index-descriptor"}, l) {
			return false
		}
	}
	return true
}

func onManifest(levels string) bool {
	for _, l := range strings.Split(levels, ",") {
		if l, _, _ = strings.Cut(l, "["); l == "manifest" {
			return true
		}
	}
	return false
}
