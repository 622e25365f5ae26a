package remotecache

import (
	"bytes"
	"context"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Attach returns what is attached to an Index that is about to be saved,
// given the one that it is merged with: nil when it replaces what is there. A
// blob without a digest is nothing to attach. Its bytes are nil when it is an
// attachment that the cache has.
type Attach func(ctx context.Context, old *Index) (blob Blob, data []byte)

// prepare stores the attachment. One that cannot be stored is none: it only
// says something about the Index.
func (x *Exporter) prepare(ctx context.Context, old *Index) Blob {
	if x.opts.Attach == nil {
		return Blob{}
	}
	blob, data := x.opts.Attach(ctx, old)
	if blob.Digest == "" || data == nil {
		return blob
	}
	err := x.put(ctx, blob.Descriptor(), func(context.Context, ocispec.Descriptor) (BlobReader, error) {
		return bytesReader{bytes.NewReader(data)}, nil
	})
	if err != nil {
		return Blob{}
	}
	return blob
}

type bytesReader struct{ *bytes.Reader }

func (bytesReader) Close() error { return nil }
