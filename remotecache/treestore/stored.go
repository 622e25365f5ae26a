package treestore

import (
	"context"
	"fmt"
	"io"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
)

// An Info says what is stored under a ref.
type Info struct {
	Name  Name
	Saved time.Time // when the directory was read

	// MaxAge is how long after that it is restored; 0 means always.
	MaxAge time.Duration

	Stats // Files, Bytes, Packs and Stored
}

// Describe returns what is stored under a ref, as Ref makes them and a Keeper
// lists them. The error is remotecache.ErrNotFound when that is no directory,
// or when there is nothing.
func Describe(ctx context.Context, b remotecache.Backend, ref string) (Info, error) {
	t, _, err := readTree(ctx, b, ref, nil)
	if err != nil {
		return Info{}, fmt.Errorf("describe %s: %w", ref, err)
	}
	info := Info{Name: t.name, Saved: t.saved, MaxAge: t.maxAge}
	info.count(t)
	return info, nil
}

// readNamed returns the directory that is stored under a ref, if it is that of
// a name. The Index is not nil once it was read.
func readNamed(ctx context.Context, b remotecache.Backend, ref string, name Name, w Watch) (*tree, *remotecache.Index, error) {
	t, idx, err := readTree(ctx, b, ref, w)
	if err == nil && t.name != name {
		t, err = nil, fmt.Errorf("%w: the manifest is that of %s", remotecache.ErrCorrupt, t.name)
	}
	return t, idx, err
}

func readTree(ctx context.Context, b remotecache.Backend, ref string, w Watch) (*tree, *remotecache.Index, error) {
	idx, err := b.LoadIndex(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	desc, err := manifestOf(idx)
	if err != nil {
		return nil, idx, err
	}
	data, err := readBlob(ctx, b, desc, w)
	if err != nil {
		return nil, idx, err
	}
	t, err := decode(data)
	return t, idx, err
}

func readBlob(ctx context.Context, b remotecache.Backend, desc ocispec.Descriptor, w Watch) (data []byte, err error) {
	if desc.Size > maxManifest {
		return nil, fmt.Errorf("%w: the manifest has %d bytes", remotecache.ErrCorrupt, desc.Size)
	}
	done := w.start(desc)
	defer func() { done(err) }()
	r, err := remotecache.Verify(b).Open(ctx, desc, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, desc.Size+1)) // one more, so that the digest is looked at
}
