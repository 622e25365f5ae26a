package upkeep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
)

// CopyOptions say how Copy works.
type CopyOptions struct {
	// Merge, unless nil, keeps what is at the destination, within the limits.
	Merge *remotecache.Limits

	Parallel int    // blobs in flight; 0 means 4
	TmpDir   string // where a blob lies on its way; "" means the system's

	// Watch is that of remotecache.ExportOptions.
	Watch func(blob ocispec.Descriptor) (done func(error))
}

// Copy brings the Index of a ref and the blobs it names to another ref of the
// same or another backend, such as a pull request's cache to that of the
// branch it went into. Blobs that are there already do not travel; one that is
// gone or corrupt costs the results that need it. Attachments stay behind:
// they say something of the Index as it is at its source.
func Copy(ctx context.Context, from remotecache.Backend, fromRef string, to remotecache.Backend, toRef string, opts CopyOptions) (remotecache.Outcome, error) {
	idx, err := from.LoadIndex(ctx, fromRef)
	if err != nil {
		return remotecache.Outcome{State: remotecache.Failed}, fmt.Errorf("load %s: %w", fromRef, err)
	}
	idx.Attachments, idx.Version = nil, ""
	from = remotecache.Verify(from)
	spool := func(ctx context.Context, blob ocispec.Descriptor) (remotecache.BlobReader, error) {
		return fetch(ctx, from, blob, opts.TmpDir)
	}
	return remotecache.Export(ctx, to, toRef, idx, spool, remotecache.ExportOptions{
		Uploads: opts.Parallel, Merge: opts.Merge, Watch: opts.Watch,
	})
}

// fetch reads a blob, checked, into a file without a name, which is gone once
// it is closed.
func fetch(ctx context.Context, b remotecache.Backend, blob ocispec.Descriptor, dir string) (_ remotecache.BlobReader, err error) {
	r, err := b.Open(ctx, blob, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f, err := os.CreateTemp(dir, "mayfly-copy-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	if _, err := io.Copy(f, r); err != nil {
		if errors.Is(err, remotecache.ErrCorrupt) {
			err = fmt.Errorf("%w: %w", remotecache.ErrNotFound, err) // as good as gone
		}
		return nil, err
	}
	return f, nil
}
