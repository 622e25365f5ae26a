package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/buildcache"
	"github.com/mayfly-build/mayfly/engine/exporter/image"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/progress"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/inline"
)

// A cacheExport is a cache being written: its blobs from the first step that
// ran, its index at the end.
type cacheExport struct {
	Export
	x    *remotecache.Exporter
	step atomic.Pointer[progress.Vertex] // nil before the end of the build
}

func (b *build) newCacheExport(ex Export) *cacheExport {
	c := &cacheExport{Export: ex}
	c.x = remotecache.NewExporter(ex.Backend, remotecache.ExportOptions{
		Uploads: ex.Uploads, Merge: ex.Merge, Watch: c.watch,
		Wrong: b.wrong, Remove: ex.Remove,
		Attach: func(ctx context.Context, old *remotecache.Index) (remotecache.Blob, []byte) {
			return b.why.attach(ctx, ex, old)
		},
	})
	return c
}

func (c *cacheExport) watch(blob ocispec.Descriptor) func(error) {
	step := c.step.Load()
	if step == nil {
		return func(error) {}
	}
	part := step.Start("writing layer "+blob.Digest.String(), blob.Size)
	return func(error) { part.Done() }
}

// A cacheExports waits for the exports that run beside a build's outputs.
type cacheExports struct {
	outcomes []CacheOutcome
	errs     []error
	mounts   [][]CacheOutcome    // of the cache mounts in each
	manifest *ocispec.Descriptor // of the last one that has a manifest
}

// exportTimeout is how long an export may take unless the user says.
const exportTimeout = 10 * time.Minute

// startCacheExports writes the caches beside whatever the caller does next.
// The function it returns waits for them; given the error of a failed build
// it stops them first.
func (b *build) startCacheExports(ctx context.Context, p *product) func(error) *cacheExports {
	ctx, cancel := context.WithCancel(ctx)
	n := len(b.exports)
	out := &cacheExports{outcomes: make([]CacheOutcome, n), errs: make([]error, n), mounts: make([][]CacheOutcome, n)}
	manifests := make([]*ocispec.Descriptor, n)
	var work sync.WaitGroup
	for i, ex := range b.exports {
		work.Go(func() {
			out.outcomes[i], out.errs[i] = b.exportCache(ctx, p, ex)
			if ex.Manifest != nil {
				if desc, ok := ex.Manifest(); ok { // before that of a cache mount
					manifests[i] = &desc
				}
			}
			var err error
			out.mounts[i], err = b.exportMounts(ctx, ex.Export)
			out.errs[i] = errors.Join(out.errs[i], err)
		})
	}
	return func(err error) *cacheExports {
		if err != nil {
			cancel()
		}
		work.Wait()
		cancel()
		for _, desc := range manifests {
			if desc != nil {
				out.manifest = desc
			}
		}
		return out
	}
}

// into reports the exports; the error is that of an export which the user
// wants to fail the build.
func (c *cacheExports) into(res *Result) error {
	if c.manifest != nil {
		res.Manifest = c.manifest
	}
	res.Caches = append(res.Caches, c.outcomes...)
	for _, m := range c.mounts {
		res.Caches = append(res.Caches, m...)
	}
	if err := errors.Join(c.errs...); err != nil {
		return &cacheError{err}
	}
	return nil
}

// A cacheError is that of exports which the user wants to fail the build.
type cacheError struct{ error }

func (e *cacheError) Unwrap() error { return e.error }

// exportCache writes one cache in its own domain: whatever goes wrong is an
// outcome. The error is that of an export that may fail the build.
func (b *build) exportCache(ctx context.Context, p *product, ex *cacheExport) (CacheOutcome, error) {
	step := b.req.Progress.Step("exporting cache to " + ex.Name)
	step.Begin()
	ex.step.Store(step)
	began := time.Now()
	timeout := ex.Timeout
	if timeout == 0 {
		timeout = exportTimeout
	}
	ctx, cancel := context.WithTimeoutCause(progress.With(ctx, step), timeout, fmt.Errorf("not done within %s", timeout))
	defer cancel()
	got, err := b.writeCache(ctx, p, ex)
	err = late(ctx, err)
	out := CacheOutcome{
		Name: ex.Name, Export: true, Outcome: string(got.State), Blobs: got.Blobs, Bytes: got.Bytes, Carried: got.Carried,
		Seconds: time.Since(began).Seconds(),
	}
	if out.Outcome == "" {
		out.Outcome = string(remotecache.Failed)
	}
	if errors.Is(err, remotecache.ErrEmpty) {
		out.Outcome, err = string(remotecache.Skipped), nil
		out.Reason = "no step left a result to keep"
	}
	if err == nil {
		step.End(nil)
		return out, nil
	}
	out.ended(remotecache.State(out.Outcome), err)
	if ex.FailBuild && out.Outcome == string(remotecache.Failed) {
		step.End(err)
		return out, fmt.Errorf("cache export %s: %w", ex.Name, err)
	}
	fmt.Fprintf(step.Log(2), "warning: %s: %s\n", out.Outcome, out.Reason)
	if out.Hint != "" {
		fmt.Fprintf(step.Log(2), "hint: %s\n", out.Hint)
	}
	step.End(nil)
	return out, nil
}

func (b *build) writeCache(ctx context.Context, p *product, ex *cacheExport) (remotecache.Outcome, error) {
	if ex.Denied != nil {
		return remotecache.Outcome{State: remotecache.Skipped}, ex.Denied
	}
	edges := p.edges()
	if len(edges) == 0 {
		return remotecache.Outcome{}, remotecache.ErrEmpty
	}
	x := buildcache.Exporter{
		Records: b.solver.Records(ctx, edges...), Results: edges, Remotes: b.remote,
		Max: ex.Max, Compression: ex.Compression, ForceCompression: ex.ForceCompression,
	}
	idx, sources, err := x.Index(ctx)
	if err != nil {
		return remotecache.Outcome{}, err
	}
	return ex.x.Export(ctx, ex.Ref, idx, func(ctx context.Context, desc ocispec.Descriptor) (remotecache.BlobReader, error) {
		src, ok := sources[desc.Digest]
		if !ok {
			return nil, fmt.Errorf("blob %s is of no layer of this build: %w", desc.Digest, remotecache.ErrNotFound)
		}
		return src.Layer.OpenAt(ctx, src.Blob)
	})
}

// inlineCache returns the records for the config of an image, nil unless they
// are asked for. They are a cache: what goes wrong is a warning.
func (b *build) inlineCache(ctx context.Context, t *target, layers []image.Layer) []byte {
	if !b.req.Inline || t.isEmpty() {
		return nil
	}
	out := CacheOutcome{Name: "inline", Export: true, Outcome: "ok"}
	dt, err := b.inlineRecords(ctx, t, layers)
	switch {
	case err != nil:
		out.ended(remotecache.Failed, err)
	case dt == nil:
		out.Outcome, out.Reason = "skipped", "no step left a layer of the image"
	}
	b.mu.Lock()
	b.imports = append(b.imports, &importing{out: out})
	b.mu.Unlock()
	return dt
}

func (b *build) inlineRecords(ctx context.Context, t *target, layers []image.Layer) ([]byte, error) {
	x := buildcache.Exporter{
		Records: b.solver.Records(ctx, t.ref.Edge), Results: []llb.Edge{t.ref.Edge}, Remotes: b.remote,
	}
	idx, _, err := x.Index(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]inline.Layer, len(layers))
	for i, l := range layers {
		list[i] = inline.Layer{Blob: l.Desc.Digest, DiffID: l.DiffID}
	}
	return inline.Encode(idx, list)
}
