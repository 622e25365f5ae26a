package engine

import (
	"context"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/remotecache"
)

// An eager sends layers on their way as soon as the step that made them is
// done, while later steps run: compression, push and cache upload are then
// over, or almost, when the last step ends. What goes wrong here is met again,
// and reported, by the export that needs the layer.
type eager struct {
	b       *build
	inImage map[digest.Digest]bool

	// start compresses one layer after another, and sends each once it is.
	start func(compress func(context.Context) (send func(context.Context)))
	wait  func() // for what was started
}

// eagerLayers is how many layers are compressed beside the steps at once.
const eagerLayers = 1

// startEager makes ready for the steps of p. Work goes on until ctx is done.
func (b *build) startEager(ctx context.Context, p *product) *eager {
	slots := semaphore.NewWeighted(eagerLayers)
	var work sync.WaitGroup
	e := &eager{b: b, inImage: map[digest.Digest]bool{}, wait: work.Wait}
	e.start = func(compress func(context.Context) func(context.Context)) {
		work.Go(func() {
			if slots.Acquire(ctx, 1) != nil {
				return
			}
			send := compress(ctx)
			slots.Release(1)
			if send != nil {
				send(ctx)
			}
		})
	}
	for _, edge := range p.edges() {
		for v := edge.Vertex; v != nil; v = baseOf(v) {
			e.inImage[v.Digest] = true
		}
	}
	return e
}

// baseOf returns the vertex whose layers v's result is built on, nil for none.
func baseOf(v *llb.Vertex) *llb.Vertex {
	in := int64(-1)
	switch op := v.Op.Op.(type) {
	case *pb.Op_Exec:
		for _, m := range op.Exec.Mounts {
			if m.Dest == pb.RootMount {
				in = m.Input
			}
		}
	case *pb.Op_File:
		in = op.File.Actions[0].Input
	case *pb.Op_Merge:
		if len(v.Inputs) > 0 {
			in = 0
		}
	}
	if in < 0 || int(in) >= len(v.Inputs) {
		return nil
	}
	return v.Inputs[in].Vertex
}

// made is told of every result that a step just made.
func (e *eager) made(v *llb.Vertex, states []*layer.State) {
	if len(v.Inputs) == 0 || len(states) == 0 || states[0] == nil {
		return
	}
	s := states[0]
	for _, o := range e.b.req.Outputs {
		if e.inImage[v.Digest] && o.Kind == OutputImage && o.Push && !o.RewriteTimestamp {
			e.start(func(ctx context.Context) func(context.Context) {
				blob, err := s.Blob(ctx, o.Compression, o.ForceCompression)
				if err != nil {
					return nil
				}
				return func(ctx context.Context) { _ = e.b.pushBlob(ctx, o.Names, placed{blob, s}) }
			})
		}
	}
	for _, ex := range e.b.exports {
		if ex.Denied == nil && (ex.Max || e.inImage[v.Digest]) {
			e.start(func(ctx context.Context) func(context.Context) { return e.cache(ctx, ex, s) })
		}
	}
}

func (e *eager) cache(ctx context.Context, ex *cacheExport, s *layer.State) (send func(context.Context)) {
	blob, err := s.Blob(ctx, ex.Compression, ex.ForceCompression)
	if err != nil {
		return nil
	}
	return func(ctx context.Context) {
		_ = ex.x.Put(ctx, blob.Desc, func(ctx context.Context, _ ocispec.Descriptor) (remotecache.BlobReader, error) {
			return s.OpenAt(ctx, blob)
		})
	}
}
