// Package oci writes an image, of one platform or of several, as an OCI image
// layout: a directory, or a tar that `docker load` may be able to read too.
//
//	exporter/image ──manifest, config──▶ ┌─────┐ ──▶ directory
//	layer ──Open(descriptor)───────────▶ │ oci │ ──▶ tar ──▶ file, stdout
//	                                     └─────┘
//
// The layouts are those that buildctl v0.33 leaves behind, byte for byte but
// for the time in index.json. The package makes no blobs and knows no
// registries.
package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Part is a blob at hand.
type Part struct {
	Desc ocispec.Descriptor
	Data []byte
}

// An Image is a manifest, or an index of manifests, and all that it names.
type Image struct {
	Manifest []byte

	// ManifestDesc is what index.json says of the manifest, under every name.
	// Its platform and annotations are kept. Without an annotation
	// org.opencontainers.image.created it gets one with the present time, as
	// BuildKit does: with a SOURCE_DATE_EPOCH the caller sets it.
	ManifestDesc ocispec.Descriptor

	Config     []byte               // nil when Manifest is an index
	ConfigDesc ocispec.Descriptor   // of Config
	Layers     []ocispec.Descriptor // as the manifest, or each of an index, lists them
	Parts      []Part               // manifests and configs that an index leads to

	Names []string // references, normalised; may be none

	// Open reads a layer from its start; its last Read fails when the bytes
	// are not those of the digest. A reader with a method File() *os.File
	// vouches for that file instead, which then may be copied in the kernel.
	// The package closes. WriteDir opens several at once.
	Open func(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
}

const imageName = "io.containerd.image.name"

// blobs returns the image's blobs, layers first, each once.
func (img *Image) blobs() ([]ocispec.Descriptor, error) {
	all := append([]ocispec.Descriptor{}, img.Layers...)
	if img.Config != nil {
		all = append(all, img.ConfigDesc)
	}
	for _, p := range img.Parts {
		all = append(all, p.Desc)
	}
	all = append(all, img.ManifestDesc)
	seen := map[string]bool{}
	var out []ocispec.Descriptor
	for _, d := range all {
		if err := d.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("blob %q: %w", string(d.Digest), err)
		}
		if !seen[d.Digest.String()] {
			seen[d.Digest.String()] = true
			out = append(out, d)
		}
	}
	return out, nil
}

func (img *Image) open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	switch d.Digest {
	case img.ManifestDesc.Digest:
		return io.NopCloser(bytes.NewReader(img.Manifest)), nil
	case img.ConfigDesc.Digest:
		return io.NopCloser(bytes.NewReader(img.Config)), nil
	}
	for _, p := range img.Parts {
		if p.Desc.Digest == d.Digest {
			return io.NopCloser(bytes.NewReader(p.Data)), nil
		}
	}
	return img.Open(ctx, d)
}

// described returns the manifest's descriptor with a time.
func (img *Image) described() ocispec.Descriptor {
	d := img.ManifestDesc
	d.Annotations = maps.Clone(d.Annotations)
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	if d.Annotations[ocispec.AnnotationCreated] == "" {
		d.Annotations[ocispec.AnnotationCreated] = time.Now().UTC().Format(time.RFC3339)
	}
	return d
}

// named returns d for an index that knows it by name; by the tag ref alone
// when name is empty.
func named(d ocispec.Descriptor, name, ref string) ocispec.Descriptor {
	d.Annotations = maps.Clone(d.Annotations)
	if name != "" {
		d.Annotations[imageName] = name
	}
	d.Annotations[ocispec.AnnotationRefName] = ref
	return d
}

func newIndex(manifests []ocispec.Descriptor) ocispec.Index {
	return ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: manifests,
	}
}

func layoutFile() ([]byte, error) {
	return json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
}

func blobPath(d ocispec.Descriptor) string {
	return ocispec.ImageBlobsDir + "/" + d.Digest.Algorithm().String() + "/" + d.Digest.Encoded()
}
