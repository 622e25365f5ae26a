package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// blobsAtOnce is how many blobs are read and written side by side. Those that
// are still at a registry gain from it; a disk is full with fewer.
const blobsAtOnce = 4

// WriteDir adds the image to the layout in the directory dir, which is made
// when it is missing. Blobs that are there stay; a manifest that had one of
// the names loses it, and an image without a name is the one called "latest".
// index.json is replaced last, under the lock that buildctl takes as well, so
// that several processes may write to one layout at once.
func WriteDir(ctx context.Context, dir string, img Image) error {
	if err := img.writeDir(ctx, dir); err != nil {
		return fmt.Errorf("write OCI layout %s: %w", dir, err)
	}
	return nil
}

func (img *Image) writeDir(ctx context.Context, dir string) error {
	blobs, err := img.blobs()
	if err != nil {
		return err
	}
	for _, b := range blobs {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, blobPath(b))), 0o755); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(blobsAtOnce)
	for _, b := range blobs {
		g.Go(func() error { return img.putBlob(gctx, filepath.Join(dir, blobPath(b)), b) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return img.putIndex(ctx, dir)
}

func (img *Image) putBlob(ctx context.Context, path string, d ocispec.Descriptor) error {
	if st, err := os.Lstat(path); err == nil && st.Mode().IsRegular() && st.Size() == d.Size {
		return nil
	}
	return replace(path, 0o444, func(f *os.File) error { return img.copyTo(ctx, f, d) })
}

// replace puts a file at path when fill has written all of it.
func replace(path string, mode fs.FileMode, fill func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	err = errors.Join(fill(f), f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

func replaceWith(path string, mode fs.FileMode, data []byte) error {
	return replace(path, mode, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

func (img *Image) putIndex(ctx context.Context, dir string) (err error) {
	path := filepath.Join(dir, ocispec.ImageIndexFile)
	unlock, err := lock(ctx, path+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	index, err := readIndex(path)
	if err != nil {
		return err
	}
	layout, err := layoutFile()
	if err != nil {
		return err
	}
	if err := replaceWith(filepath.Join(dir, ocispec.ImageLayoutFile), 0o644, layout); err != nil {
		return err
	}
	data, err := json.Marshal(img.add(index))
	if err != nil {
		return err
	}
	return replaceWith(path, 0o644, data)
}

func readIndex(path string) (ocispec.Index, error) {
	index := newIndex(nil)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(data) == 0 {
		return index, nil
	}
	if err != nil {
		return index, err
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return index, fmt.Errorf("%s: %w", path, err)
	}
	return index, nil
}

// add returns index with the image in it.
func (img *Image) add(index ocispec.Index) ocispec.Index {
	put := func(d ocispec.Descriptor) {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(m ocispec.Descriptor) bool {
			return m.Annotations[imageName] == d.Annotations[imageName] &&
				m.Annotations[ocispec.AnnotationRefName] == d.Annotations[ocispec.AnnotationRefName]
		})
		index.Manifests = append(index.Manifests, d)
	}
	d := img.described()
	if len(img.Names) == 0 {
		put(named(d, "", "latest"))
	}
	for _, n := range img.Names {
		ref, _ := refName(n)
		put(named(d, n, ref))
	}
	return index
}
