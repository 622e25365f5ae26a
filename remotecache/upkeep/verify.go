package upkeep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/remotecache"
)

// A Problem is a blob that cannot be used.
type Problem struct {
	Blob remotecache.Blob
	Err  error // wraps remotecache.ErrNotFound or ErrCorrupt, or is the service's
}

// A Report says what Verify found.
type Report struct {
	Blobs    int // read to their end
	Bytes    int64
	Problems []Problem // by digest
}

// Verify reads every blob of the indexes, each once and parallel at a time (0
// means 4), and checks sizes and digests. Blobs that cannot be used are in the
// Report; the error is that of ctx.
func Verify(ctx context.Context, b remotecache.Backend, parallel int, indexes ...*remotecache.Index) (Report, error) {
	if parallel <= 0 {
		parallel = 4
	}
	b = remotecache.Verify(b)
	var mu sync.Mutex
	var out Report
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, blob := range blobsOf(indexes) {
		g.Go(func() error {
			err := readAll(gctx, b, blob)
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				out.Problems = append(out.Problems, Problem{blob, err})
				return nil
			}
			out.Blobs++
			out.Bytes += blob.Size
			return nil
		})
	}
	err := g.Wait()
	slices.SortFunc(out.Problems, func(a, b Problem) int {
		return strings.Compare(string(a.Blob.Digest), string(b.Blob.Digest))
	})
	return out, err
}

func blobsOf(indexes []*remotecache.Index) (out []remotecache.Blob) {
	seen := map[digest.Digest]bool{}
	for _, idx := range indexes {
		for _, blob := range idx.Blobs() {
			if !seen[blob.Digest] {
				seen[blob.Digest] = true
				out = append(out, blob)
			}
		}
	}
	return out
}

func readAll(ctx context.Context, b remotecache.Backend, blob remotecache.Blob) error {
	if !blob.Known() {
		return fmt.Errorf("size or media type of blob %s is not known: %w", blob.Digest, remotecache.ErrCorrupt)
	}
	r, err := b.Open(ctx, blob.Descriptor(), 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}
