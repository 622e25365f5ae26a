package remotecache

import (
	"fmt"
	"maps"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Annotations by which a descriptor in a cache manifest says what its media
// type does not; BuildKit reads and writes them.
const (
	annotationDiffID      = "containerd.io/uncompressed"
	annotationCreated     = "buildkit/createdat"
	annotationDescription = "buildkit/description"
)

// A Blob is a layer as a backend stores it.
type Blob struct {
	Digest      digest.Digest // of the bytes as stored: compressed
	Size        int64         // of them; 0 when unknown
	MediaType   string        // as OCI names it; "" when unknown
	DiffID      digest.Digest // of the uncompressed tar; "" when unknown
	CreatedAt   time.Time     // when the step that made it ended; zero when unknown
	Description string        // of that step; "" when unknown

	// Extra has what else its descriptor said, such as the digest of an
	// eStargz table of contents; it travels along unread.
	Extra map[string]string
}

// Known reports whether it is known what the digest stands for, and not only
// that there is such a blob. An index may name blobs that its manifest does
// not list; results that need them are as good as absent.
func (b Blob) Known() bool { return b.Size > 0 && b.MediaType != "" }

// Descriptor returns the blob as a manifest lists it.
func (b Blob) Descriptor() ocispec.Descriptor {
	a := maps.Clone(b.Extra)
	set := func(key, value string) {
		if value == "" {
			return
		}
		if a == nil {
			a = map[string]string{}
		}
		a[key] = value
	}
	set(annotationDiffID, string(b.DiffID))
	set(annotationDescription, b.Description)
	if !b.CreatedAt.IsZero() {
		set(annotationCreated, b.CreatedAt.Format(time.RFC3339Nano))
	}
	return ocispec.Descriptor{MediaType: b.MediaType, Digest: b.Digest, Size: b.Size, Annotations: a}
}

// BlobOf returns the blob that a manifest lists as desc, with the media type
// as OCI names it. The error is ErrCorrupt when desc cannot be right.
func BlobOf(desc ocispec.Descriptor) (Blob, error) {
	b := Blob{Digest: desc.Digest, Size: desc.Size, MediaType: OCIMediaType(desc.MediaType)}
	if err := desc.Digest.Validate(); err != nil {
		return Blob{}, fmt.Errorf("%w: blob %q: %w", ErrCorrupt, desc.Digest, err)
	}
	if desc.Size < 0 {
		return Blob{}, fmt.Errorf("%w: blob %s has size %d", ErrCorrupt, desc.Digest, desc.Size)
	}
	for k, v := range desc.Annotations {
		switch k {
		case annotationDiffID:
			b.DiffID = digest.Digest(v)
			if err := b.DiffID.Validate(); err != nil {
				return Blob{}, fmt.Errorf("%w: blob %s: diff ID %q: %w", ErrCorrupt, desc.Digest, v, err)
			}
		case annotationCreated:
			// A time that cannot be read costs nothing but the time.
			b.CreatedAt, _ = time.Parse(time.RFC3339Nano, v)
		case annotationDescription:
			b.Description = v
		default:
			if b.Extra == nil {
				b.Extra = map[string]string{}
			}
			b.Extra[k] = v
		}
	}
	return b, nil
}

// layerTypes pairs what OCI and docker call a layer.
var layerTypes = [...]struct{ oci, docker string }{
	{ocispec.MediaTypeImageLayer, "application/vnd.docker.image.rootfs.diff.tar"},
	{ocispec.MediaTypeImageLayerGzip, "application/vnd.docker.image.rootfs.diff.tar.gzip"},
	{ocispec.MediaTypeImageLayerZstd, "application/vnd.docker.image.rootfs.diff.tar.zstd"},
	{"application/vnd.oci.image.layer.nondistributable.v1.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar"},
	{"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"},
}

// OCIMediaType returns OCI's name for a layer's media type; other types as
// they are.
func OCIMediaType(t string) string {
	for _, p := range layerTypes {
		if t == p.docker {
			return p.oci
		}
	}
	return t
}

// DockerMediaType returns docker's name for a layer's media type; other types
// as they are.
func DockerMediaType(t string) string {
	for _, p := range layerTypes {
		if t == p.oci {
			return p.docker
		}
	}
	return t
}
