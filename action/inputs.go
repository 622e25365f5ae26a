package action

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-build/mayfly/internal/hint"
)

// names are the inputs: those of docker/build-push-action v7.3.0, then ours.
// action.yml has the same.
var names = []string{
	"add-hosts", "allow", "annotations", "attests", "build-args", "build-contexts", "builder", "cache-from", "cache-to",
	"call", "cgroup-parent", "context", "file", "labels", "load", "network", "no-cache", "no-cache-filters", "outputs",
	"platforms", "provenance", "pull", "push", "sbom", "secrets", "secret-envs", "secret-files", "shm-size", "ssh", "tags",
	"target", "ulimit", "github-token",
	"cache", "cache-mounts", "trace", "report", "root", "version",
}

// inputs are the inputs of a step, read.
type inputs struct {
	addHosts, allow, annotations, attests   []string
	buildArgs, buildContexts                []string
	cacheFrom, cacheTo                      []string
	labels, noCacheFilters, outputs         []string
	platforms, ssh, tags, ulimits           []string
	secrets, secretEnvs, secretFiles        []string
	call, cgroupParent, context, file       string
	network, provenance, sbom, shmSize      string
	target, githubToken                     string
	load, noCache, pull, push               bool
	cache, cacheMounts, trace, report, root string
}

// A reader reads inputs and keeps what is wrong with them.
type reader struct {
	getenv func(string) (string, bool)
	errs   []error
}

// variable returns the name of the environment variable that an input is in.
func variable(input string) string {
	return "INPUT_" + strings.ToUpper(strings.ReplaceAll(input, " ", "_"))
}

func (r *reader) raw(name string) string {
	v, _ := r.getenv(variable(name))
	return v
}

func (r *reader) text(name string) string { return strings.TrimSpace(r.raw(name)) }

func (r *reader) boolean(name string) bool {
	b, err := parseBool(r.text(name))
	if err != nil {
		r.fail(name, hint.With(err, "a boolean is true, True, TRUE, false, False or FALSE"))
	}
	return b
}

func (r *reader) list(name string, l list) []string {
	text := r.raw(name)
	if !l.spaces {
		text = strings.TrimSpace(text)
	}
	items, err := l.items(text)
	if err != nil {
		r.fail(name, hint.With(err, `an item of several lines is "NAME=…" in quotes, and "" is a quote in it`))
	}
	return items
}

func (r *reader) lines(name string) []string { return r.list(name, list{}) }
func (r *reader) words(name string) []string { return r.list(name, list{commas: true}) }

func (r *reader) fail(name string, err error) {
	r.errs = append(r.errs, fmt.Errorf("input %s: %w", name, err))
}

// read reads all inputs.
func read(getenv func(string) (string, bool)) (inputs, error) {
	r := &reader{getenv: getenv}
	in := inputs{
		addHosts: r.words("add-hosts"), allow: r.words("allow"), annotations: r.lines("annotations"), attests: r.lines("attests"),
		buildArgs: r.lines("build-args"), buildContexts: r.lines("build-contexts"),
		cacheFrom: r.lines("cache-from"), cacheTo: r.lines("cache-to"),
		labels: r.lines("labels"), noCacheFilters: r.words("no-cache-filters"), outputs: r.list("outputs", list{raw: true}),
		platforms: r.words("platforms"), ssh: r.words("ssh"), tags: r.words("tags"), ulimits: r.lines("ulimit"),
		secrets: r.list("secrets", list{spaces: true}), secretEnvs: r.words("secret-envs"), secretFiles: r.lines("secret-files"),
		call: r.text("call"), cgroupParent: r.text("cgroup-parent"), context: r.text("context"), file: r.text("file"),
		network: r.text("network"), provenance: r.text("provenance"), sbom: r.text("sbom"), shmSize: r.text("shm-size"),
		target: r.text("target"), githubToken: r.text("github-token"),
		load: r.boolean("load"), noCache: r.boolean("no-cache"), pull: r.boolean("pull"), push: r.boolean("push"),
		cache: r.text("cache"), cacheMounts: r.text("cache-mounts"), trace: r.text("trace"), report: r.text("report"), root: r.text("root"),
	}
	return in, errors.Join(r.errs...)
}

// unknown returns the inputs, among the names of environment variables, that
// nobody knows.
func unknown(variables []string) []string {
	var out []string
	for _, v := range variables {
		name, ok := strings.CutPrefix(v, "INPUT_")
		name = strings.ToLower(name)
		if ok && !slices.Contains(names, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// A Given is an input that was given, as it can be shown: of secrets their
// names.
type Given struct {
	Name   string
	Values []string
}

// given returns what was given, in the order of names.
func (in inputs) given(getenv func(string) (string, bool)) []Given {
	r := &reader{getenv: getenv}
	var out []Given
	for _, name := range names {
		g := Given{Name: name}
		switch name {
		case "github-token":
			continue // the runner gives it to every step
		case "secrets", "secret-envs", "secret-files":
			for _, s := range map[string][]string{"secrets": in.secrets, "secret-envs": in.secretEnvs, "secret-files": in.secretFiles}[name] {
				id, _, ok := strings.Cut(s, "=")
				if !ok {
					id = "***" // may be a piece of one
				}
				g.Values = append(g.Values, id)
			}
		default:
			text := r.text(name)
			if isDefault(name, text) {
				continue
			}
			g.Values = slices.Collect(strings.Lines(text))
			for i := range g.Values {
				g.Values[i] = strings.TrimRight(g.Values[i], "\r\n")
			}
		}
		if len(g.Values) > 0 {
			out = append(out, g)
		}
	}
	return out
}

// isDefault reports whether an input says what it says when it is left out.
func isDefault(name, text string) bool {
	switch name {
	case "load", "no-cache", "pull", "push", "cache-mounts":
		return text == "" || strings.EqualFold(text, "false")
	case "cache":
		return text == "" || text == cacheAuto
	}
	return text == ""
}
