package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/compression"
	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/registry"
)

// outputs turns --output, --push and --tag into the engine's outputs.
func outputs(w world, o buildOptions) ([]engine.Output, error) {
	names, err := imageNames("tag", o.tags)
	if err != nil {
		return nil, err
	}
	var out []engine.Output
	for _, text := range o.outputs {
		e, err := output(w, text, o.tags)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	annotations, err := annotationsOf(o)
	if err != nil {
		return nil, err
	}
	hasImage := false
	for i := range out {
		if out[i].Kind == engine.OutputDocker && len(o.platforms) > 1 {
			return nil, hint.With(usagef("-o type=docker: docker loads an image of one platform, not an index of several"),
				"give one --platform, or use -o type=oci, which holds all of them")
		}
		out[i].Annotations = slices.Concat(annotations, out[i].Annotations)
		if out[i].Kind == engine.OutputImage {
			hasImage = true
			out[i].Push = out[i].Push || o.push
		}
	}
	wantsImage := len(names) > 0 || o.progress == "quiet" || o.iidFile != "" || o.metadataFile != ""
	if !hasImage && (o.push || len(out) == 0 && wantsImage) {
		out = append(out, engine.Output{Kind: engine.OutputImage, Names: names, Push: o.push, Annotations: annotations})
	}
	for _, e := range out {
		if e.Kind == engine.OutputImage && e.Push && len(e.Names) == 0 {
			return nil, usagef("--push needs a name: give it with -t")
		}
	}
	return out, nil
}

// imageNames normalises references.
func imageNames(flag string, list []string) ([]string, error) {
	return eachName(flag, list, func(name string) (string, error) {
		ref, err := registry.ParseRef(name)
		return ref.String(), err
	})
}

// repositories normalises names that have neither tag nor digest.
func repositories(flag string, list []string) ([]string, error) {
	return eachName(flag, list, func(name string) (string, error) {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return "", fmt.Errorf("parse image name %q: %w", name, err)
		}
		if !reference.IsNameOnly(named) {
			return "", fmt.Errorf("%s is to be pushed by digest: give the name without a tag, %s", name, reference.FamiliarName(named))
		}
		return named.Name(), nil
	})
}

func eachName(flag string, list []string, normal func(string) (string, error)) ([]string, error) {
	var out []string
	for _, s := range list {
		for _, name := range strings.Split(s, ",") {
			if name = strings.TrimSpace(name); name == "" {
				continue
			}
			n, err := normal(name)
			if err != nil {
				return nil, usagef("--%s: %v", flag, err)
			}
			out = append(out, n)
		}
	}
	return out, nil
}

func output(w world, text string, tags []string) (engine.Output, error) {
	a, plain, err := parseAttrs("output", text)
	if err != nil {
		return engine.Output{}, err
	}
	switch {
	case a == nil && plain == "-":
		return engine.Output{Kind: engine.OutputTar, Open: toStdout(w)}, nil
	case a == nil:
		return engine.Output{Kind: engine.OutputLocal, Dir: plain}, nil
	}
	kind := a.oneOf("type", "", "image", "registry", "oci", "docker", "tar", "local")
	e := engine.Output{Kind: engine.OutputKind(kind)}
	switch kind {
	case "registry":
		e.Kind, e.Push = engine.OutputImage, true
	case "image":
		e.Push = a.boolean("push", false)
	case "oci", "docker":
		e.Tar = a.boolean("tar", true)
	}
	switch kind {
	case "image", "registry", "oci", "docker":
		imageAttrs(a, &e, tags)
	}
	if kind == "registry" {
		a.boolean("push", true)
	}
	if e.Kind != engine.OutputImage {
		destination(w, a, &e)
	}
	epochAttr(a, &e)
	if kind == "local" || kind == "tar" {
		e.AttestationPrefix = a.str("attestation-prefix", "")
	}
	if kind == "local" && a.fields["platform-split"] != "" {
		split := a.boolean("platform-split", true)
		e.Split = &split
	}
	return e, a.done()
}

func imageAttrs(a *attrs, e *engine.Output, tags []string) {
	e.Names = imageNamesAttr(a, e, tags)
	e.Compression, e.ForceCompression = compressionAttrs(a)
	e.DockerTypes = !a.boolean("oci-mediatypes", true)
	e.RewriteTimestamp = a.boolean("rewrite-timestamp", false)
	e.Annotations = annotationAttrs(a)
	e.PlainAttestations = !a.boolean("oci-artifact", true)
	e.InlineAttestations = a.boolean("attestation-inline", e.Kind == engine.OutputImage)
	a.boolean("registry.insecure", false) // read before, see insecureHosts
	a.boolean("unpack", false)            // nothing to unpack into
	a.boolean("store", true)
}

// imageNamesAttr returns the names of an image: name=, or else those of -t. One
// that is pushed by digest has repositories for names.
func imageNamesAttr(a *attrs, e *engine.Output, tags []string) []string {
	flag, list := "tag", tags
	if s := a.str("name", ""); s != "" {
		flag, list = "output", []string{s}
	}
	if e.Kind == engine.OutputImage {
		e.ByDigest = a.boolean("push-by-digest", false)
		a.boolean("name-canonical", false) // REPO@DIGEST beside the name in an image store; there is none
	}
	read := imageNames
	if e.ByDigest {
		read = repositories
	}
	names, err := read(flag, list)
	if err != nil && a.err == nil {
		a.err = err
	}
	return names
}

func compressionAttrs(a *attrs) (compression.Config, bool) {
	var c compression.Config
	if name := a.str("compression", ""); name != "" {
		t, err := compression.Parse(name)
		if err != nil {
			a.fail("%v", err)
		}
		c.Type = t
	}
	if n, ok := a.integer("compression-level"); ok {
		c.Level = compression.At(n)
	}
	return c, a.boolean("force-compression", false)
}

func epochAttr(a *attrs, e *engine.Output) {
	v := a.str("source-date-epoch", "")
	if v == "" {
		return
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		a.fail("source-date-epoch=%s is not a number of seconds", v)
		return
	}
	t := time.Unix(n, 0).UTC()
	e.Epoch = &t
}

// destination says where a file or directory goes: dest, or standard output.
func destination(w world, a *attrs, e *engine.Output) {
	dest := a.str("dest", "")
	isDir := e.Kind == engine.OutputLocal || (e.Kind != engine.OutputTar && !e.Tar)
	switch {
	case isDir && (dest == "" || dest == "-"):
		a.fail("dest is missing: the directory to write to")
	case isDir:
		e.Dir = dest
	case dest == "" || dest == "-":
		e.Open = toStdout(w)
	default:
		e.Open = toFile(dest)
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func toStdout(w world) func() (io.WriteCloser, error) {
	return func() (io.WriteCloser, error) { return nopCloser{w.stdout}, nil }
}

// toFile writes a file that is there whole or not at all. What is no regular
// file, such as /dev/null or a pipe, is written to as it is.
func toFile(path string) func() (io.WriteCloser, error) {
	return func() (io.WriteCloser, error) {
		if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() {
			return os.OpenFile(path, os.O_WRONLY, 0)
		}
		f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
		if err != nil {
			return nil, err
		}
		return &wholeFile{File: f, path: path}, nil
	}
}

// A wholeFile takes its name when it is closed; Abandon removes it instead.
type wholeFile struct {
	*os.File
	path string
	done bool
}

func (f *wholeFile) Close() error {
	if f.done {
		return nil
	}
	f.done = true
	err := f.File.Close()
	if err == nil {
		err = os.Chmod(f.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(f.Name(), f.path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// Abandon gives the file up.
func (f *wholeFile) Abandon() {
	if !f.done {
		f.done = true
		f.File.Close()
		os.Remove(f.Name())
	}
}

// writesStdout reports whether an output goes to standard output, where the
// digest then does not.
func writesStdout(o buildOptions) bool {
	for _, s := range o.outputs {
		a, plain, err := parseAttrs("output", s)
		switch {
		case err != nil:
		case a == nil:
			if plain == "-" {
				return true
			}
		default:
			kind, dest := a.str("type", ""), a.str("dest", "")
			if (dest == "" || dest == "-") && (kind == "tar" || kind == "oci" || kind == "docker") {
				return true
			}
		}
	}
	return false
}
