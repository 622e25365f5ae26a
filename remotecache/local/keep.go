package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
)

var _ remotecache.Keeper = (*Backend)(nil)

// List implements remotecache.Keeper. Manifests and configs that index.json
// leads to are no blobs; those that were replaced are, and named by nothing.
func (b *Backend) List(ctx context.Context) (out remotecache.Contents, err error) {
	index, err := b.readIndex()
	if errors.Is(err, remotecache.ErrNotFound) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	used, err := b.reachable(index)
	if err != nil {
		return out, err
	}
	out.Blobs = []remotecache.StoredBlob{}
	for _, m := range index.Manifests {
		if ref := m.Annotations[ocispec.AnnotationRefName]; ref != "" {
			at := remotecache.StoredRef{Ref: ref}
			if path, err := b.path(m.Digest); err == nil {
				if fi, err := os.Stat(path); err == nil {
					at.Saved = fi.ModTime()
				}
			}
			out.Refs = append(out.Refs, at)
		}
	}
	err = b.eachBlob(func(_ string, d digest.Digest, fi fs.FileInfo) error {
		if !used[d] { // it is a layer, or nothing leads to it
			out.Blobs = append(out.Blobs, remotecache.StoredBlob{Digest: d, Size: fi.Size(), Used: fi.ModTime()})
		}
		return context.Cause(ctx)
	})
	return out, err
}

// eachBlob calls f for the file of every blob. Other files are passed over.
func (b *Backend) eachBlob(f func(path string, d digest.Digest, fi fs.FileInfo) error) error {
	return filepath.WalkDir(filepath.Join(b.cfg.Dir, ocispec.ImageBlobsDir), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		d := digest.NewDigestFromEncoded(digest.Algorithm(filepath.Base(filepath.Dir(path))), e.Name())
		if d.Validate() != nil {
			return nil
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		return f(path, d, fi)
	})
}

// RemoveIndex implements remotecache.Keeper.
func (b *Backend) RemoveIndex(ctx context.Context, ref string) error {
	if err := remotecache.CheckRef(ref); err != nil {
		return err
	}
	return b.change(ctx, func(index *ocispec.Index) error {
		remove(index, ref)
		return nil
	})
}

// RemoveBlob implements remotecache.Keeper.
func (b *Backend) RemoveBlob(_ context.Context, dgst digest.Digest) error {
	path, err := b.path(dgst)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return readOnly(err)
	}
	return nil
}
