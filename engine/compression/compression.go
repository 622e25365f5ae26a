// Package compression turns layer tars into compressed streams and back.
//
//	layertar ──tar──▶ compression ──▶ content, remotecache, registry
//	content, registry ──▶ compression ──tar──▶ layertar
//
// Both directions work beside their caller: writers compress on every core,
// readers decompress ahead of whoever unpacks. What a writer gives depends on
// the bytes and the Config only, never on the machine or on timing, so that
// the same layer always has the same digest. The package knows no digests and
// no tar.
package compression

import (
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Type is a way to compress a layer.
type Type int

// The types, Gzip being the default as in BuildKit.
const (
	Gzip Type = iota
	Zstd
	Uncompressed
)

// Docker's names for layers; those of OCI are in ocispec.
const (
	dockerLayer            = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerGzip        = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerLayerZstd        = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	dockerLayerForeign     = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	dockerLayerForeignGzip = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
)

// A kind is one row of the media types of layers.
type kind struct {
	typ         Type
	oci, docker string // docker "" where Docker has none
}

func kinds() []kind {
	return []kind{
		{Uncompressed, ocispec.MediaTypeImageLayer, dockerLayer},
		{Gzip, ocispec.MediaTypeImageLayerGzip, dockerLayerGzip},
		{Zstd, ocispec.MediaTypeImageLayerZstd, dockerLayerZstd},
		// Layers that registries refuse to hold, of old Windows images.
		{Uncompressed, ocispec.MediaTypeImageLayerNonDistributable, dockerLayerForeign}, //nolint:staticcheck // old images have them
		{Gzip, ocispec.MediaTypeImageLayerNonDistributableGzip, dockerLayerForeignGzip}, //nolint:staticcheck // old images have them
		{Zstd, ocispec.MediaTypeImageLayerNonDistributableZstd, ""},                     //nolint:staticcheck // old images have them
	}
}

// Parse returns the type that BuildKit's compression attribute names.
func Parse(name string) (Type, error) {
	for _, t := range []Type{Gzip, Zstd, Uncompressed} {
		if t.String() == name {
			return t, nil
		}
	}
	return 0, fmt.Errorf("compression %q: want gzip, zstd or uncompressed", name)
}

// String returns the name in BuildKit's compression attribute.
func (t Type) String() string {
	switch t {
	case Gzip:
		return "gzip"
	case Zstd:
		return "zstd"
	case Uncompressed:
		return "uncompressed"
	}
	return fmt.Sprintf("compression.Type(%d)", int(t))
}

// MediaType returns the OCI media type of a layer compressed with t.
func (t Type) MediaType() string {
	for _, k := range kinds() {
		if k.typ == t {
			return k.oci
		}
	}
	return ""
}

// DockerMediaType returns Docker's media type of a layer compressed with t.
func (t Type) DockerMediaType() string {
	for _, k := range kinds() {
		if k.typ == t {
			return k.docker
		}
	}
	return ""
}

// FromMediaType returns how layers of an OCI or Docker media type are
// compressed. Media types of anything else are an error.
func FromMediaType(mediaType string) (Type, error) {
	k, err := find(mediaType)
	return k.typ, err
}

// OCIMediaType returns the OCI name of a layer's media type, of either kind.
func OCIMediaType(mediaType string) (string, error) {
	k, err := find(mediaType)
	return k.oci, err
}

// ToDockerMediaType returns Docker's name of a layer's media type, of either
// kind.
func ToDockerMediaType(mediaType string) (string, error) {
	k, err := find(mediaType)
	if err == nil && k.docker == "" {
		err = fmt.Errorf("media type %q: Docker has no name for it", mediaType)
	}
	return k.docker, err
}

func find(mediaType string) (kind, error) {
	if mediaType != "" {
		for _, k := range kinds() {
			if mediaType == k.oci || mediaType == k.docker {
				return k, nil
			}
		}
	}
	return kind{}, fmt.Errorf("media type %q is not that of a layer", mediaType)
}
