package buildcache

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/engine/compression"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/solver"
	"github.com/mayfly-build/mayfly/remotecache"
)

// An Exporter turns what a build came by into an Index.
type Exporter struct {
	Records []solver.Record[*layer.State] // inputs first
	Results []llb.Edge                    // those of Records that are the build's results
	Remotes []*Remote                     // whose alternatives for a key are carried on

	Max              bool // every step's result; otherwise those that are part of one of Results
	Compression      compression.Config
	ForceCompression bool
}

// A Source is a blob of an Index and the layer that has its bytes.
type Source struct {
	Layer *layer.State
	Blob  layer.Blob
}

// Index returns the Index and where the bytes of its blobs are. Layers are
// made into blobs where they are not yet. A result that cannot be had any
// more is left out.
func (e *Exporter) Index(ctx context.Context) (*remotecache.Index, map[digest.Digest]Source, error) {
	if len(e.Records) == 0 {
		return &remotecache.Index{}, nil, nil
	}
	states, err := e.load(ctx)
	if err != nil {
		return nil, nil, err
	}
	x := indexer{builder: remotecache.NewBuilder(), remotes: e.Remotes, nodes: map[*solver.Key]*remotecache.Node{}, sources: map[digest.Digest]Source{}}
	results, err := e.blobs(ctx, states, x.sources)
	if err != nil {
		return nil, nil, err
	}
	for i, rec := range e.Records {
		n := x.node(rec.Key)
		if n == nil || results[i] == nil {
			continue
		}
		at := results[i][len(results[i])-1].CreatedAt
		if at.IsZero() {
			at = rec.At
		}
		x.builder.AddResults(n, remotecache.ResultLayers{Layers: results[i], CreatedAt: at})
	}
	return x.builder.Index(), x.sources, nil
}

// load returns the states whose layers are exported, nil for the others.
func (e *Exporter) load(ctx context.Context) ([]*layer.State, error) {
	states := make([]*layer.State, len(e.Records))
	for i, rec := range e.Records {
		v := rec.Edge.Vertex
		if rec.Load == nil || len(v.Inputs) == 0 { // a source is fetched from where it comes from
			continue
		}
		if ex := v.Metadata.ExportCache; ex != nil && !ex.Value {
			continue
		}
		s, err := rec.Load(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			continue // a cache lost it: nothing to carry on
		}
		states[i] = s
	}
	if !e.Max {
		e.onlyResults(states)
	}
	return states, nil
}

// onlyResults drops what is no part of the build's results.
func (e *Exporter) onlyResults(states []*layer.State) {
	part := map[*layer.State]bool{}
	for i, s := range states {
		if s == nil || !slices.ContainsFunc(e.Results, func(r llb.Edge) bool { return same(r, e.Records[i].Edge) }) {
			continue
		}
		for _, l := range s.Chain() {
			part[l] = true
		}
	}
	for i, s := range states {
		if s != nil && !part[s] {
			states[i] = nil
		}
	}
}

// same reports whether two edges are one, whichever definition they are from.
func same(a, b llb.Edge) bool { return a.Vertex.Digest == b.Vertex.Digest && a.Index == b.Index }

// blobs makes every layer of the states a blob, each once.
func (e *Exporter) blobs(ctx context.Context, states []*layer.State, sources map[digest.Digest]Source) ([][]remotecache.Blob, error) {
	var mu sync.Mutex
	made := map[*layer.State]remotecache.Blob{}
	gone := map[*layer.State]bool{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(min(4, max(2, runtime.NumCPU()))) // layers compressed at once: each may use every core, and takes some 20 MiB
	seen := map[*layer.State]bool{}
	for _, s := range states {
		for _, l := range chainOf(s) {
			if seen[l] {
				continue
			}
			seen[l] = true
			g.Go(func() error {
				b, err := l.Blob(gctx, e.Compression, e.ForceCompression)
				mu.Lock()
				defer mu.Unlock()
				if errors.Is(err, layer.ErrLost) {
					gone[l] = true
					return nil
				}
				if err != nil {
					return err
				}
				info := l.Info()
				made[l] = remotecache.Blob{
					Digest: b.Desc.Digest, Size: b.Desc.Size, MediaType: b.Desc.MediaType, DiffID: b.DiffID,
					CreatedAt: info.Created, Description: info.Description, Extra: b.Desc.Annotations,
				}
				sources[b.Desc.Digest] = Source{Layer: l, Blob: b}
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := make([][]remotecache.Blob, len(states))
next:
	for i, s := range states {
		var blobs []remotecache.Blob
		for _, l := range chainOf(s) {
			if gone[l] {
				continue next
			}
			blobs = append(blobs, made[l])
		}
		out[i] = blobs
	}
	return out, nil
}

func chainOf(s *layer.State) []*layer.State {
	if s == nil {
		return nil
	}
	return s.Chain()
}

// An indexer turns keys into the nodes of an Index.
type indexer struct {
	builder *remotecache.Builder
	remotes []*Remote
	nodes   map[*solver.Key]*remotecache.Node
	sources map[digest.Digest]Source
}

// node returns the record of a key, with every name that a remote cache knows
// for it; nil when no other build can have the key.
func (x *indexer) node(k *solver.Key) *remotecache.Node {
	if n, ok := x.nodes[k]; ok {
		return n
	}
	inputs := make([][]remotecache.Link, len(k.Inputs))
	for i, links := range k.Inputs {
		for _, l := range links {
			if n := x.node(l.Key); n != nil {
				inputs[i] = append(inputs[i], remotecache.Link{Node: n, Selector: string(l.Selector)})
			}
		}
	}
	n := x.builder.Add(k.Record, inputs, nil)
	if n != nil {
		for _, r := range x.remotes {
			for _, known := range r.Nodes(k) {
				x.builder.Copy(known, false)
			}
		}
	}
	x.nodes[k] = n
	return n
}
