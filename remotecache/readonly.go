package remotecache

import (
	"context"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ReadOnly returns b without the means to write: Put and SaveIndex return
// ErrReadOnly.
func ReadOnly(b Backend) Backend { return readOnly{b} }

type readOnly struct{ Backend }

func (readOnly) Put(_ context.Context, blob ocispec.Descriptor, _ io.ReaderAt) error {
	return fmt.Errorf("put blob %s: %w", blob.Digest, ErrReadOnly)
}

func (readOnly) SaveIndex(_ context.Context, ref string, _ *Index) error {
	return fmt.Errorf("save index %q: %w", ref, ErrReadOnly)
}
