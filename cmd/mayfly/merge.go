package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/pflag"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/merge"
)

const mergeUsage = `Usage:
  mayfly merge [OPTIONS] SOURCE...    make one index of the images that several jobs pushed

A SOURCE is the metadata file of a build that pushed, or REPOSITORY@DIGEST, or
REPOSITORY:TAG. Attestations stay with their images. The tags move last. The
digest of the index goes to standard output.

Options:
`

// mergeOptions are the options of mayfly merge.
type mergeOptions struct {
	tags         []string // normalised
	annotations  map[string]string
	metadataFile string
	insecure     []string
	dryRun       bool
	sources      []string
}

func parseMerge(w world, args []string) (mergeOptions, error) {
	var o mergeOptions
	var tags, annotations []string
	f := pflag.NewFlagSet("mayfly merge", pflag.ContinueOnError)
	f.SetOutput(w.stderr)
	f.StringArrayVarP(&tags, "tag", "t", nil, "`NAME` of the image, or several, each on a line of its own or between commas")
	f.StringArrayVar(&annotations, "annotation", nil, "`KEY=VALUE` on the index")
	f.StringVar(&o.metadataFile, "metadata-file", "", "write what was made to `FILE`")
	f.StringArrayVar(&o.insecure, "insecure-registry", nil, "`HOST` that speaks HTTP, or whose certificate nobody signed")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the index instead of pushing it")
	f.Usage = func() { fmt.Fprint(w.stderr, mergeUsage, f.FlagUsages()) }
	if err := f.Parse(args); err != nil {
		return o, hint.With(usageError{err}, "`mayfly merge --help` lists the options")
	}
	o.sources = f.Args()
	if len(o.sources) == 0 {
		return o, usagef("mayfly merge: no source is given: name a metadata file, or REPOSITORY@DIGEST")
	}
	for i, t := range tags {
		tags[i] = strings.Join(strings.Fields(t), ",") // as docker/metadata-action lists them
	}
	var err error
	if o.tags, err = imageNames("tag", tags); err != nil {
		return o, err
	}
	if len(o.tags) == 0 && !o.dryRun {
		return o, usagef("mayfly merge: the image has no name: give it with -t")
	}
	for _, name := range o.tags {
		if r, err := registry.ParseRef(name); err == nil && r.Digest != "" {
			return o, usagef("--tag %s: the index has a digest of its own: name a tag", name)
		}
	}
	o.annotations = map[string]string{}
	for _, s := range annotations {
		k, v, err := keyValue("annotation", s)
		if err != nil {
			return o, err
		}
		if kind, rest, ok := strings.Cut(k, ":"); ok {
			if kind != "index" {
				return o, usagef("--annotation %s: only the index gets annotations here: index:%s=%s; those of images are made by mayfly build", s, rest, v)
			}
			k = rest
		}
		o.annotations[k] = v
	}
	return o, nil
}

// mergeCommand makes one index of several images.
func mergeCommand(ctx context.Context, w world, args []string) error {
	o, err := parseMerge(w, args)
	if isHelp(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var sources []merge.Source
	for _, s := range o.sources {
		source, err := mergeSource(s)
		if err != nil {
			return err
		}
		sources = append(sources, source)
	}
	client := registry.New(registry.Config{UserAgent: "mayfly/" + version, Insecure: o.insecure})
	defer client.CloseIdle()
	x, err := merge.Read(ctx, client, sources, o.annotations)
	if err != nil {
		return err
	}
	if o.dryRun {
		_, err := fmt.Fprintf(w.stdout, "%s\n", x.Data)
		return err
	}
	if err := x.Push(ctx, client, o.tags); err != nil {
		return err
	}
	for _, m := range x.Manifests {
		what := m.Platform()
		if m.Attestation() {
			what = "attestation"
		}
		fmt.Fprintf(w.stderr, "%-16s %s  %s\n", what, m.Descriptor.Digest, m.Source)
	}
	for _, name := range o.tags {
		fmt.Fprintf(w.stderr, "pushed %s\n", name)
	}
	if o.metadataFile != "" {
		if err := writeMergeMetadata(o, x); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(w.stdout, x.Descriptor.Digest)
	return err
}

// mergeSource reads an argument: what is no file is a reference.
func mergeSource(arg string) (merge.Source, error) {
	data, err := os.ReadFile(arg)
	if err == nil {
		return merge.FromMetadata(arg, data)
	}
	isRef := strings.ContainsAny(arg, ":@") && !strings.HasSuffix(arg, ".json")
	if !errors.Is(err, fs.ErrNotExist) || !isRef {
		return merge.Source{}, hint.With(fmt.Errorf("source %s: %w", arg, err), "give a metadata file, or REPOSITORY@DIGEST, or REPOSITORY:TAG")
	}
	ref, err := registry.ParseRef(arg)
	if err != nil {
		return merge.Source{}, usagef("source %s: %v", arg, err)
	}
	return merge.Source{Name: ref.String(), Refs: []string{ref.String()}}, nil
}

// A mergedManifest is a manifest of the index in the metadata file.
type mergedManifest struct {
	Platform string        `json:"platform,omitempty"` // of an image
	Digest   digest.Digest `json:"digest"`
	Size     int64         `json:"size"` // bytes of the manifest
	Source   string        `json:"source"`
}

func writeMergeMetadata(o mergeOptions, x *merge.Index) error {
	manifests := []mergedManifest{}
	for _, m := range x.Manifests {
		e := mergedManifest{Digest: m.Descriptor.Digest, Size: m.Descriptor.Size, Source: m.Source}
		if !m.Attestation() {
			e.Platform = m.Platform()
		}
		manifests = append(manifests, e)
	}
	dt, err := json.MarshalIndent(map[string]any{
		"containerimage.digest":     x.Descriptor.Digest,
		"containerimage.descriptor": x.Descriptor,
		"image.name":                strings.Join(o.tags, ","),
		"mayfly.manifests":          manifests,
	}, "", "  ")
	if err != nil {
		return err
	}
	return writeWhole(o.metadataFile, append(dt, '\n'))
}
