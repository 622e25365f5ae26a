package merge

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/registry"
)

const (
	parallel  = 4       // requests, or blobs, in flight
	maxConfig = 8 << 20 // bytes of an image config that is read
)

// content is what a source holds.
type content struct {
	desc        ocispec.Descriptor
	data        []byte
	index       bool
	annotations map[string]string // of an index
	manifests   []Manifest
}

func parse(s string) (registry.Ref, error) {
	r, err := registry.ParseRef(s)
	if err != nil {
		return registry.Ref{}, fmt.Errorf("%q: %w", s, err)
	}
	return r, nil
}

// Read reads the manifests of the sources and makes the index. annotations are
// the index's, beside those that its sources have. The error names the source:
// one that is not there, is no image, or has an image for a platform that
// another one has as well.
func Read(ctx context.Context, client *registry.Client, sources []Source, annotations map[string]string) (*Index, error) {
	if err := oneImage(sources); err != nil {
		return nil, err
	}
	found := make([]content, len(sources))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, s := range sources {
		g.Go(func() (err error) {
			found[i], err = read(gctx, client, s)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return join(found, annotations)
}

// oneImage refuses metadata files that tell of different images: a pattern of
// files has found one too many. A source that is given as a reference may be of
// any repository.
func oneImage(sources []Source) error {
	var first *Source
	for i, s := range sources {
		if len(s.Refs) == 1 && s.Refs[0] == s.Name {
			continue
		}
		if first == nil {
			first = &sources[i]
			continue
		}
		if !slices.ContainsFunc(repositories(s.Refs), func(r string) bool { return slices.Contains(repositories(first.Refs), r) }) {
			return hint.With(fmt.Errorf("%s is of %s and %s of %s: these are different images",
				first.Name, strings.Join(repositories(first.Refs), ", "), s.Name, strings.Join(repositories(s.Refs), ", ")),
				"leave one out, or give it as REPOSITORY@DIGEST")
		}
	}
	return nil
}

// repositories returns the repositories of references that were parsed before.
func repositories(refs []string) []string {
	var out []string
	for _, ref := range refs {
		if r, err := registry.ParseRef(ref); err == nil && !slices.Contains(out, r.Name()) {
			out = append(out, r.Name())
		}
	}
	return out
}

func read(ctx context.Context, client *registry.Client, s Source) (content, error) {
	ref := s.Refs[0]
	desc, data, err := client.Resolve(ctx, ref)
	if err != nil {
		return content{}, s.fail(err)
	}
	repos := repositories(s.Refs)
	c := content{desc: desc, data: data}
	var doc struct {
		Manifests    []ocispec.Descriptor `json:"manifests"`
		Config       ocispec.Descriptor   `json:"config"`
		ArtifactType string               `json:"artifactType"`
		Annotations  map[string]string    `json:"annotations"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return content{}, s.fail(fmt.Errorf("%s is neither an image nor an index: %w", ref, err))
	}
	switch desc.MediaType {
	case ocispec.MediaTypeImageIndex, dockerList:
		c.index, c.annotations = true, doc.Annotations
		for _, m := range doc.Manifests {
			if m.Platform == nil && m.Annotations[attestationType] == "" {
				if m.Platform, err = readPlatform(ctx, client, ref, m); err != nil {
					return content{}, s.fail(err)
				}
			}
			c.manifests = append(c.manifests, Manifest{Descriptor: m, Source: s.Name, repos: repos})
		}
	case ocispec.MediaTypeImageManifest, dockerManifest:
		if desc.Platform, err = platformFrom(ctx, client, ref, doc.Config, doc.ArtifactType); err != nil {
			return content{}, s.fail(err)
		}
		desc.Annotations = nil
		c.manifests = []Manifest{{Descriptor: desc, Source: s.Name, repos: repos}}
	default:
		return content{}, s.fail(fmt.Errorf("%s has the media type %q: it is neither an image nor an index", ref, desc.MediaType))
	}
	return c, nil
}

// fail says which source err is about, unless the error of the reference does.
func (s Source) fail(err error) error {
	if s.Refs[0] == s.Name {
		return err
	}
	return fmt.Errorf("%s: %w", s.Name, err)
}

// readPlatform returns the platform of an image that its index does not tell.
func readPlatform(ctx context.Context, client *registry.Client, ref string, desc ocispec.Descriptor) (*ocispec.Platform, error) {
	switch desc.MediaType {
	case ocispec.MediaTypeImageManifest, dockerManifest:
	default:
		return nil, fmt.Errorf("%s names a manifest %s with the media type %q and no platform", ref, desc.Digest, desc.MediaType)
	}
	data, err := client.Manifest(ctx, ref, desc.Digest)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("manifest %s of %s: %w", desc.Digest, ref, err)
	}
	return platformFrom(ctx, client, ref, m.Config, m.ArtifactType)
}

func platformFrom(ctx context.Context, client *registry.Client, ref string, config ocispec.Descriptor, artifact string) (*ocispec.Platform, error) {
	if config.MediaType != ocispec.MediaTypeImageConfig && config.MediaType != dockerConfig {
		kind := config.MediaType
		if artifact != "" {
			kind = artifact
		}
		return nil, fmt.Errorf("%s is no image, but an artifact of type %q", ref, kind)
	}
	if config.Size > maxConfig {
		return nil, fmt.Errorf("the config of %s has %d bytes, more than %d", ref, config.Size, maxConfig)
	}
	r, err := client.Blob(ctx, ref, config, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if digest.FromBytes(data) != config.Digest {
		return nil, fmt.Errorf("the config of %s has other bytes than its digest %s says", ref, config.Digest)
	}
	var p ocispec.Platform
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("the config of %s: %w", ref, err)
	}
	if p.OS == "" || p.Architecture == "" {
		return nil, fmt.Errorf("the config of %s names no platform", ref)
	}
	return &p, nil
}
