package image

import (
	"encoding/json"
	"fmt"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const dockerIndex = "application/vnd.docker.distribution.manifest.list.v2+json"

// An Entry is an image of an index.
type Entry struct {
	Desc     ocispec.Descriptor // of the manifest; its annotations are kept
	Platform ocispec.Platform
}

// An IndexInput is what an index is made of.
type IndexInput struct {
	Entries     []Entry
	Annotations map[string]string // of the index itself
	DockerTypes bool              // media types of Docker instead of OCI's
}

// An Index names the manifests of several images.
type Index struct {
	Data []byte
	Desc ocispec.Descriptor
}

// BuildIndex makes the index, whose entries have the order of the input.
func BuildIndex(in IndexInput) (*Index, error) {
	idx := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Annotations: in.Annotations,
	}
	if in.DockerTypes {
		idx.MediaType = dockerIndex
	}
	for _, e := range in.Entries {
		d := e.Desc
		d.Platform = &e.Platform
		idx.Manifests = append(idx.Manifests, d)
	}
	data, err := json.MarshalIndent(idx, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("marshal index: %w", err)
	}
	return &Index{Data: data, Desc: ocispec.Descriptor{
		MediaType: idx.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data)),
	}}, nil
}
