package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/mayfly-build/mayfly/internal/hint"
)

// buildOptions are the options of mayfly build, as they were given.
type buildOptions struct {
	context string

	addHosts, allow, annotations       []string
	attests                            []string
	buildArgs, buildContexts           []string
	cacheFrom, cacheTo                 []string
	labels, noCacheFilter, outputs     []string
	platforms, secrets, ssh            []string
	tags, ulimits                      []string
	cgroupParent, file, network        string
	progress, provenance, sbom         string
	shmSize                            string
	target, root, runtime, snapshotter string
	iidFile, metadataFile, trace       string
	report                             string
	noCache, pull, push, quiet         bool
	traceSteps, ciLabels               bool
	dotenv, codeQuality                string
	parallel                           int
}

// parseBuild reads the arguments of mayfly build, whose options are spelled
// as docker buildx build's.
func parseBuild(w world, args []string) (buildOptions, error) {
	var o buildOptions
	f := pflag.NewFlagSet("mayfly build", pflag.ContinueOnError)
	f.SetOutput(w.stderr)
	f.SortFlags = true
	f.StringArrayVar(&o.addHosts, "add-host", nil, "add a `HOST:IP` to /etc/hosts of the steps")
	f.StringArrayVar(&o.allow, "allow", nil, "allow an `ENTITLEMENT`: network.host, security.insecure")
	f.StringArrayVar(&o.annotations, "annotation", nil, "add an annotation `[PLACE:]KEY=VALUE` to the image; PLACE is manifest (default), manifest[PLATFORM], manifest-descriptor, index or index-descriptor")
	f.StringArrayVar(&o.attests, "attest", nil, "attest how the image was built, or what is in it: `type=provenance,mode=min|max,…` or type=sbom,generator=IMAGE")
	f.StringArrayVar(&o.buildArgs, "build-arg", nil, "set a build argument `NAME[=VALUE]`; without a value, the environment's")
	f.StringArrayVar(&o.buildContexts, "build-context", nil, "name another context: `NAME=PATH|URL|docker-image://REF`")
	f.StringArrayVar(&o.cacheFrom, "cache-from", nil, "read a cache: `type=registry,ref=REF` or REF; type=local,src=DIR")
	f.StringArrayVar(&o.cacheTo, "cache-to", nil, "write a cache: `type=registry,ref=REF[,mode=max]`; type=local,dest=DIR; type=inline")
	f.BoolVar(&o.ciLabels, "ci-labels", false, "add labels org.opencontainers.image.* with repository, commit and tag of the CI job; --label goes before")
	f.StringVar(&o.codeQuality, "code-quality", "", "write lint warnings to `FILE`, as GitLab's Code Quality report")
	f.StringVar(&o.dotenv, "dotenv", "", "write digests and names of the image to `FILE`, as GitLab's dotenv report")
	f.StringVar(&o.cgroupParent, "cgroup-parent", "", "parent `CGROUP` of the steps")
	f.StringVarP(&o.file, "file", "f", "", "the Dockerfile: `PATH`, or - for standard input (default PATH/Dockerfile)")
	f.StringVar(&o.iidFile, "iidfile", "", "write the image's config digest to `FILE`")
	f.StringArrayVar(&o.labels, "label", nil, "add a label `KEY=VALUE` to the image")
	f.StringVar(&o.metadataFile, "metadata-file", "", "write what was built to `FILE` as JSON")
	f.StringVar(&o.network, "network", "", "`MODE` of the steps' network: default, host or none")
	f.BoolVar(&o.noCache, "no-cache", false, "run every step")
	f.StringArrayVar(&o.noCacheFilter, "no-cache-filter", nil, "run every step of a `STAGE`")
	f.StringArrayVarP(&o.outputs, "output", "o", nil, "where the result goes: `type=image|oci|docker|tar|local,…`, or a directory, or - for a tar on stdout")
	f.StringArrayVar(&o.platforms, "platform", nil, "`PLATFORM` to build for, such as linux/arm64; several, in a list or each with its own flag, make an image index (default this machine's)")
	f.StringVar(&o.progress, "progress", "auto", "`STYLE` of the progress: "+strings.Join(progressStyles(), ", "))
	f.StringVar(&o.provenance, "provenance", "", "short for --attest type=provenance,`ATTRIBUTES`; or true or false (default mode=min for images that are pushed)")
	f.BoolVar(&o.pull, "pull", false, "ask the registry for base images; always so here, accepted for compatibility")
	f.BoolVar(&o.push, "push", false, "push the image: short for -o type=image,push=true")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress, print the digest")
	f.IntVar(&o.parallel, "max-parallelism", 0, "steps running at once; 0 means `N` = 8")
	f.StringVar(&o.report, "report", "", "write what happened to `FILE` as one HTML page, of a failed build too")
	f.StringVar(&o.root, "root", "", "the state `DIR` (default $XDG_CACHE_HOME/mayfly)")
	f.StringVar(&o.runtime, "oci-runtime", "", "run steps with an external OCI `RUNTIME`, such as crun, instead of the built-in one")
	f.StringVar(&o.sbom, "sbom", "", "short for --attest type=sbom,`ATTRIBUTES`; or true or false")
	f.StringArrayVar(&o.secrets, "secret", nil, "give a secret to the steps that mount it: `id=ID[,src=FILE|env=NAME]`")
	f.StringVar(&o.shmSize, "shm-size", "", "`SIZE` of /dev/shm of the steps")
	f.StringVar(&o.snapshotter, "snapshotter", "auto", "how root file systems are mounted: auto, overlay or native (`NAME`)")
	f.StringArrayVar(&o.ssh, "ssh", nil, "give an SSH agent to the steps that mount it: `default|ID[=SOCKET|KEY[,KEY]]`")
	f.StringArrayVarP(&o.tags, "tag", "t", nil, "`NAME` of the image; may be given several times")
	f.StringVar(&o.target, "target", "", "the `STAGE` to build")
	f.StringVar(&o.trace, "trace", "", "write what the build spent its time on to `FILE`, as OpenTelemetry's JSON")
	f.BoolVar(&o.traceSteps, "trace-steps", false, "give RUN steps the TRACEPARENT of their span; it is no part of their cache key")
	f.StringArrayVar(&o.ulimits, "ulimit", nil, "a `LIMIT` of the steps: nofile=1024:1024")
	f.Usage = func() {
		fmt.Fprintf(w.stderr, "Usage: mayfly build [OPTIONS] PATH|URL|-\n\nOptions:\n%s", f.FlagUsages())
	}
	if err := f.Parse(args); err != nil {
		return o, hint.With(usageError{err}, "`mayfly build --help` lists the options")
	}
	if f.NArg() != 1 {
		return o, usagef("mayfly build takes one context (PATH, URL or -), %d are given", f.NArg())
	}
	o.context = f.Arg(0)
	if styles := progressStyles(); !slices.Contains(styles, o.progress) {
		return o, usagef("--progress: %q is none of %s", o.progress, strings.Join(styles, ", "))
	}
	if err := ciFileFlags(f, o); err != nil {
		return o, err
	}
	var err error
	if o.platforms, err = parsePlatforms(o.platforms); err != nil {
		return o, err
	}
	if o.quiet {
		o.progress = "quiet"
	}
	if o.root == "" {
		o.root = defaultRoot(w)
	}
	return o, nil
}

func defaultRoot(w world) string {
	if d := w.env("XDG_CACHE_HOME"); d != "" {
		return filepath.Join(d, "mayfly")
	}
	home := w.env("HOME")
	if home == "" {
		home = os.TempDir()
	}
	return filepath.Join(home, ".cache", "mayfly")
}

// keyValue splits KEY=VALUE of a flag.
func keyValue(flag, s string) (string, string, error) {
	k, v, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return "", "", usagef("--%s: %q is not KEY=VALUE", flag, s)
	}
	return k, v, nil
}
