package oci

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A record is one entry of the tar. Its time is 1970.
type record struct {
	name string // ends with a slash when it is a directory
	mode int64
	data []byte              // of a file
	blob *ocispec.Descriptor // of a file instead of data
}

// WriteTar writes the layout as a tar, for docker with the manifest.json that
// `docker load` reads. Blobs are streamed one after another; w is not closed.
func WriteTar(ctx context.Context, w io.Writer, img Image, docker bool) error {
	if err := img.writeTar(ctx, w, docker); err != nil {
		return fmt.Errorf("write image tar: %w", err)
	}
	return nil
}

func (img *Image) writeTar(ctx context.Context, w io.Writer, docker bool) error {
	records, err := img.records(docker)
	if err != nil {
		return err
	}
	for _, r := range records {
		if err := img.writeRecord(ctx, w, r); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	_, err = w.Write(make([]byte, 2*block))
	return err
}

const block = 512 // bytes, of tar

// writeRecord writes headers only through a tar.Writer, which would be between
// the two files of a copy in the kernel.
func (img *Image) writeRecord(ctx context.Context, w io.Writer, r record) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: r.name, Mode: r.mode, Size: int64(len(r.data))}
	if r.blob != nil {
		h.Size = r.blob.Size
	}
	if r.name[len(r.name)-1] == '/' {
		h.Typeflag = tar.TypeDir
	}
	var head bytes.Buffer
	if err := tar.NewWriter(&head).WriteHeader(h); err != nil {
		return err
	}
	head.Write(r.data)
	if r.blob != nil {
		if _, err := w.Write(head.Bytes()); err != nil {
			return err
		}
		if err := img.copyTo(ctx, w, *r.blob); err != nil {
			return err
		}
		head.Reset()
	}
	head.Write(make([]byte, -h.Size&(block-1)))
	_, err := w.Write(head.Bytes())
	return err
}

// records returns what is in the tar, sorted by name.
func (img *Image) records(docker bool) ([]record, error) {
	layout, err := layoutFile()
	if err != nil {
		return nil, err
	}
	index, err := json.Marshal(newIndex(img.indexed()))
	if err != nil {
		return nil, err
	}
	records := []record{
		{name: ocispec.ImageBlobsDir + "/", mode: 0o755},
		{name: ocispec.ImageLayoutFile, mode: 0o444, data: layout},
		{name: ocispec.ImageIndexFile, mode: 0o644, data: index},
	}
	blobs, err := img.blobs()
	if err != nil {
		return nil, err
	}
	algorithms := map[string]bool{}
	for _, b := range blobs {
		if a := b.Digest.Algorithm().String(); !algorithms[a] {
			algorithms[a] = true
			records = append(records, record{name: ocispec.ImageBlobsDir + "/" + a + "/", mode: 0o755})
		}
		records = append(records, record{name: blobPath(b), mode: 0o444, blob: &b})
	}
	if docker {
		m, err := img.dockerManifest()
		if err != nil {
			return nil, err
		}
		records = append(records, record{name: "manifest.json", mode: 0o644, data: m})
	}
	slices.SortFunc(records, func(a, b record) int { return cmp.Compare(a.name, b.name) })
	return records, nil
}

// indexed returns the manifest's descriptor once for each name.
func (img *Image) indexed() []ocispec.Descriptor {
	d := img.described()
	if len(img.Names) == 0 {
		return []ocispec.Descriptor{d}
	}
	var out []ocispec.Descriptor
	for _, n := range img.Names {
		out = append(out, named(d, n, tarRefName(n)))
	}
	return out
}

// dockerManifest returns the manifest.json of `docker save`.
func (img *Image) dockerManifest() ([]byte, error) {
	type item struct {
		Config   string
		RepoTags []string // null when the image has no name
		Layers   []string
	}
	it := item{Config: blobPath(img.ConfigDesc)}
	for _, l := range img.Layers {
		it.Layers = append(it.Layers, blobPath(l))
	}
	for _, n := range img.Names {
		tag, err := repoTag(n)
		if err != nil {
			return nil, err
		}
		it.RepoTags = append(it.RepoTags, tag)
	}
	return json.Marshal([]item{it})
}
