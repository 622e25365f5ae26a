// Package image fetches images from registries.
//
//	frontend (config), op/source ──ref, platform──▶ image ──State──▶ op/source
//	                                                  └──▶ internal/registry
//
// A reference is resolved once per build: manifest, config and layer list.
// The layers themselves stay where they are until somebody reads them.
package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"sync"
	"time"

	"github.com/mayfly-build/mayfly/engine/compression"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/internal/memo"
	"github.com/mayfly-build/mayfly/internal/registry"
)

// A Source resolves images. Its methods may be called at once.
type Source struct {
	client *registry.Client

	mu   sync.Mutex
	refs map[string]*memo.Memo[*Image] // by reference and platform
}

// New returns a Source over a registry client.
func New(client *registry.Client) *Source {
	return &Source{client: client, refs: map[string]*memo.Memo[*Image]{}}
}

// An Image is a resolved reference.
type Image struct {
	Ref      string        // normalised, as it was asked for
	Digest   digest.Digest // of what the reference names: a manifest or an index
	Manifest ocispec.Manifest
	Config   []byte
	Parsed   ocispec.Image

	client *registry.Client
}

// maxConfig bounds a manifest's config in bytes: it is held in memory.
const maxConfig = 16 << 20

// Resolve returns the image that ref names for a platform.
func (s *Source) Resolve(ctx context.Context, ref string, p ocispec.Platform) (*Image, error) {
	r, err := registry.ParseRef(ref)
	if err != nil {
		return nil, err
	}
	if img := s.byDigest(r, p); img != nil {
		return img, nil
	}
	key := r.String() + " " + platforms.FormatAll(p)
	s.mu.Lock()
	m, ok := s.refs[key]
	if !ok {
		m = &memo.Memo[*Image]{}
		s.refs[key] = m
	}
	s.mu.Unlock()
	return m.Get(ctx, func(ctx context.Context) (*Image, error) {
		img, err := s.resolve(ctx, r, p)
		if err != nil {
			return nil, err
		}
		s.remember(img, r, p)
		return img, nil
	})
}

// byDigest finds an image that was resolved by its tag before and is now asked
// for by the digest it had.
func (s *Source) byDigest(r registry.Ref, p ocispec.Platform) *Image {
	if r.Digest == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, ok := s.refs[r.Name()+"@"+r.Digest.String()+" "+platforms.FormatAll(p)]; ok {
		if img, ok := m.Peek(); ok {
			return img
		}
	}
	return nil
}

func (s *Source) remember(img *Image, r registry.Ref, p ocispec.Platform) {
	m := &memo.Memo[*Image]{}
	_, _ = m.Get(context.Background(), func(context.Context) (*Image, error) { return img, nil })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refs[r.Name()+"@"+img.Digest.String()+" "+platforms.FormatAll(p)] = m
}

func (s *Source) resolve(ctx context.Context, r registry.Ref, p ocispec.Platform) (*Image, error) {
	desc, data, err := s.client.Resolve(ctx, r.String())
	if err != nil {
		return nil, err
	}
	img := &Image{Ref: r.String(), Digest: desc.Digest, client: s.client}
	if isIndex(desc.MediaType, data) {
		if data, err = s.pick(ctx, r, data, p); err != nil {
			return nil, err
		}
	}
	if err := json.Unmarshal(data, &img.Manifest); err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", r, err)
	}
	if img.Manifest.Config.Digest == "" {
		return nil, fmt.Errorf("manifest of %s (%s) has no image config", r, desc.MediaType)
	}
	if img.Config, err = s.config(ctx, r, img.Manifest.Config); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(img.Config, &img.Parsed); err != nil {
		return nil, fmt.Errorf("config of %s: %w", r, err)
	}
	if n, m := len(img.Manifest.Layers), len(img.Parsed.RootFS.DiffIDs); n != m {
		return nil, fmt.Errorf("image %s has %d layers and %d diff IDs", r, n, m)
	}
	return img, nil
}

func isIndex(mediaType string, data []byte) bool {
	switch mediaType {
	case ocispec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json":
		return true
	case ocispec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json":
		return false
	}
	var probe struct{ Manifests []json.RawMessage }
	return json.Unmarshal(data, &probe) == nil && probe.Manifests != nil
}

// pick fetches the manifest of an index that suits a platform best.
func (s *Source) pick(ctx context.Context, r registry.Ref, data []byte, p ocispec.Platform) ([]byte, error) {
	var idx ocispec.Index
	if err := json.Unmarshal(data, &idx); err != nil {
		return nil, fmt.Errorf("index of %s: %w", r, err)
	}
	only := platforms.Only(p)
	var best *ocispec.Descriptor
	var has []string
	for i := range idx.Manifests {
		d := &idx.Manifests[i]
		if d.Platform == nil {
			continue
		}
		has = append(has, platforms.Format(*d.Platform))
		if only.Match(*d.Platform) && (best == nil || only.Less(*d.Platform, *best.Platform)) {
			best = d
		}
	}
	if best == nil {
		return nil, fmt.Errorf("image %s has no manifest for %s, only %v", r, platforms.Format(p), has)
	}
	return s.client.Manifest(ctx, r.String(), best.Digest)
}

func (s *Source) config(ctx context.Context, r registry.Ref, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > maxConfig {
		return nil, fmt.Errorf("config of %s has %d bytes, more than %d", r, desc.Size, maxConfig)
	}
	if int64(len(desc.Data)) == desc.Size && desc.Size > 0 && digest.FromBytes(desc.Data) == desc.Digest {
		return desc.Data, nil
	}
	body, err := s.client.Blob(ctx, r.String(), desc, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("read config of %s: %w", r, err)
	}
	if got := digest.FromBytes(data); got != desc.Digest {
		return nil, fmt.Errorf("config of %s is %s, not %s", r, got, desc.Digest)
	}
	return data, nil
}

// State returns the image's root file system; nothing of it is fetched.
func (img *Image) State(st *layer.Store) (*layer.State, error) {
	var s *layer.State
	var made []ocispec.History
	for _, h := range img.Parsed.History {
		if !h.EmptyLayer {
			made = append(made, h)
		}
	}
	origin := NewOrigin(img.client, img.Ref, false)
	for i, desc := range img.Manifest.Layers {
		mt, err := compression.OCIMediaType(desc.MediaType)
		if err != nil {
			return nil, fmt.Errorf("layer %d of %s: %w", i, img.Ref, err)
		}
		info := layer.Info{Description: "pulled from " + img.Ref}
		if len(made) == len(img.Manifest.Layers) {
			if made[i].Created != nil {
				info.Created = *made[i].Created
			}
		}
		if info.Created.IsZero() {
			info.Created = time.Unix(0, 0).UTC()
		}
		s = st.FromBlob(s, layer.Blob{
			Desc:   ocispec.Descriptor{MediaType: mt, Digest: desc.Digest, Size: desc.Size, Annotations: desc.Annotations},
			DiffID: img.Parsed.RootFS.DiffIDs[i],
			Origin: origin,
		}, info)
	}
	return s, nil
}

// An Origin is a repository that layers can be read from.
type Origin struct {
	client *registry.Client
	ref    string
	repo   string
	cache  bool
}

// NewOrigin returns the repository of ref. With cache its blobs are held to
// be gone when they cannot be read.
func NewOrigin(client *registry.Client, ref string, cache bool) *Origin {
	o := &Origin{client: client, ref: ref, cache: cache}
	if r, err := registry.ParseRef(ref); err == nil {
		o.repo = r.Name()
	}
	return o
}

// Open reads a blob from byte off.
func (o *Origin) Open(ctx context.Context, desc ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	return o.client.Blob(ctx, o.ref, desc, off)
}

// Repository returns "host/name".
func (o *Origin) Repository() string { return o.repo }

// IsCache reports whether the blobs may vanish.
func (o *Origin) IsCache() bool { return o.cache }
