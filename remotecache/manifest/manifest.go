// Package manifest puts an Index into an OCI manifest and gets it out again.
//
//	remotecache/registry ──Index──▶ Encode ──▶ config blob, manifest blob
//	remotecache/local    ◀─Index── Decode ◀── the same, as this package or BuildKit wrote them
//
// The manifest lists the layers with what is known of them, which keeps a
// registry from collecting them; its config blob is the Index. There are two
// forms: an image manifest, and an image index ("manifest list") whose entries
// are the layers and, last, the config.
package manifest

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
)

// What docker calls a manifest and an index.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// Form is how a manifest is written. The zero value is an OCI image manifest.
type Form struct {
	Index  bool // an image index with the layers as entries
	Docker bool // docker's media types; only with Index
}

// FormOf returns the Form for the attributes image-manifest and
// oci-mediatypes, nil where they were not given.
func FormOf(imageManifest, ociMediaTypes *bool) (Form, error) {
	f := Form{Docker: ociMediaTypes != nil && !*ociMediaTypes}
	f.Index = f.Docker
	if imageManifest != nil {
		f.Index = !*imageManifest
	}
	return f, f.check()
}

func (f Form) check() error {
	if f.Docker && !f.Index {
		return errors.New("a cache as an image manifest has OCI media types: image-manifest=true does not go with oci-mediatypes=false")
	}
	return nil
}

// An Encoded is an Index ready to be stored: first the config, then the
// manifest.
type Encoded struct {
	Config       ocispec.Descriptor
	ConfigData   []byte
	Manifest     ocispec.Descriptor
	ManifestData []byte
}

// Encode puts idx into a manifest.
func Encode(idx *remotecache.Index, f Form) (*Encoded, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	var out Encoded
	var err error
	if out.ConfigData, err = idx.Encode(); err != nil {
		return nil, err
	}
	out.Config = describe(remotecache.MediaType, out.ConfigData)
	stored := idx.StoredLayers()
	layers := make([]ocispec.Descriptor, len(stored))
	for i, l := range stored {
		if !l.Known() {
			return nil, fmt.Errorf("layer %s: size or media type is not known", l.Digest)
		}
		layers[i] = l.Descriptor()
		if f.Docker {
			layers[i].MediaType = remotecache.DockerMediaType(layers[i].MediaType)
		}
	}
	var doc any
	mediaType := ocispec.MediaTypeImageManifest
	versioned := specs.Versioned{SchemaVersion: 2}
	if f.Index {
		mediaType = ocispec.MediaTypeImageIndex
		if f.Docker {
			mediaType = dockerIndex
		}
		doc = ocispec.Index{Versioned: versioned, MediaType: mediaType, Manifests: append(layers, out.Config)}
	} else {
		doc = ocispec.Manifest{Versioned: versioned, MediaType: mediaType, Config: out.Config, Layers: layers}
	}
	if out.ManifestData, err = json.Marshal(doc); err != nil {
		return nil, err
	}
	out.Manifest = describe(mediaType, out.ManifestData)
	return &out, nil
}

func describe(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// A Parsed is what a manifest is.
type Parsed struct {
	// Cache is set when the manifest is that of an Index, in its Config.
	// Otherwise it is an image, which may have a cache in its Config, or an
	// index of images.
	Cache bool

	Config    ocispec.Descriptor   // of a cache or an image
	Layers    []ocispec.Descriptor // of a cache or an image
	Manifests []ocispec.Descriptor // of an index of images
}

// Parse reads a manifest. The error is remotecache.ErrCorrupt when it is none.
func Parse(data []byte) (*Parsed, error) {
	var doc struct {
		MediaType string               `json:"mediaType"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
		FSLayers  json.RawMessage      `json:"fsLayers"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("%w: decode manifest: %w", remotecache.ErrCorrupt, err)
	}
	isIndex := doc.Manifests != nil
	switch doc.MediaType {
	case "":
		if isIndex == (doc.Config != nil) { // both or none
			return nil, fmt.Errorf("%w: this is neither a manifest nor an index", remotecache.ErrCorrupt)
		}
	case ocispec.MediaTypeImageIndex, dockerIndex:
		isIndex = true
	case ocispec.MediaTypeImageManifest, dockerManifest:
		isIndex = false
	default:
		return nil, fmt.Errorf("%w: media type %q is neither that of a manifest nor of an index", remotecache.ErrCorrupt, doc.MediaType)
	}
	var p Parsed
	if isIndex {
		for _, d := range doc.Manifests {
			if d.MediaType == remotecache.MediaType {
				p.Cache, p.Config = true, d
			} else {
				p.Manifests = append(p.Manifests, d)
			}
		}
		if p.Cache {
			p.Layers, p.Manifests = p.Manifests, nil
		}
		return &p, check(append(p.Manifests, append(p.Layers, p.Config)...)...)
	}
	if doc.Config == nil {
		return nil, fmt.Errorf("%w: the manifest has no config", remotecache.ErrCorrupt)
	}
	p.Config, p.Layers = *doc.Config, doc.Layers
	p.Cache = p.Config.MediaType == remotecache.MediaType
	return &p, check(append(p.Layers, p.Config)...)
}

// check refuses descriptors that would name something outside the store.
func check(descs ...ocispec.Descriptor) error {
	for _, d := range descs {
		if d.Digest == "" && d.MediaType == "" {
			continue // an index of images has no config
		}
		if err := d.Digest.Validate(); err != nil {
			return fmt.Errorf("%w: manifest names %q: %w", remotecache.ErrCorrupt, d.Digest, err)
		}
		if d.Size < 0 {
			return fmt.Errorf("%w: manifest gives %s %d bytes", remotecache.ErrCorrupt, d.Digest, d.Size)
		}
	}
	return nil
}

// Index returns the Index of a cache manifest whose Config has the given
// bytes.
func (p *Parsed) Index(config []byte) (*remotecache.Index, error) {
	idx, err := remotecache.Decode(config)
	if err != nil {
		return nil, err
	}
	return idx, idx.Describe(p.Layers)
}
