package buildcache

import (
	"context"
	"fmt"
	"sync"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/solver"
	"github.com/mayfly-build/mayfly/remotecache"
)

// A Remote is an imported cache. It answers once it is Loaded; until then who
// asks waits.
type Remote struct {
	name   string
	layers *layer.Store
	ready  chan struct{}

	graph   *remotecache.Graph // nil when the import failed
	records map[digest.Digest]bool
	origin  layer.Origin

	mu    sync.Mutex
	nodes map[*solver.Key][]*remotecache.Node
}

// NewRemote returns a cache that waits for Loaded.
func NewRemote(name string, layers *layer.Store) *Remote {
	return &Remote{name: name, layers: layers, ready: make(chan struct{}), nodes: map[*solver.Key][]*remotecache.Node{}}
}

// Loaded gives the cache its indexes, or says that there are none (nil): then
// it knows nothing. It is called once.
func (r *Remote) Loaded(indexes []*remotecache.Index, origin layer.Origin) error {
	defer close(r.ready)
	if len(indexes) == 0 {
		return nil
	}
	g, err := remotecache.NewGraph(remotecache.Join(indexes...))
	if err != nil {
		return err
	}
	r.graph, r.origin, r.records = g, origin, map[digest.Digest]bool{}
	for _, n := range g.Nodes() {
		r.records[n.Digest()] = true
	}
	return nil
}

// Knows reports whether the cache has any record of an operation.
func (r *Remote) Knows(record digest.Digest) bool {
	<-r.ready
	return r.records[record]
}

// Nodes returns the cache's records for a key.
func (r *Remote) Nodes(k *solver.Key) []*remotecache.Node {
	<-r.ready
	if r.graph == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.find(k)
}

func (r *Remote) find(k *solver.Key) []*remotecache.Node {
	if found, ok := r.nodes[k]; ok {
		return found
	}
	var found []*remotecache.Node
	switch {
	case k.Fresh:
	case len(k.Inputs) == 0:
		if n, ok := r.graph.Root(k.Record); ok {
			found = []*remotecache.Node{n}
		}
	default:
		inputs := make([][]remotecache.Link, len(k.Inputs))
		for i, links := range k.Inputs {
			for _, l := range links {
				for _, n := range r.find(l.Key) {
					inputs[i] = append(inputs[i], remotecache.Link{Node: n, Selector: string(l.Selector)})
				}
			}
		}
		found = r.graph.Match(inputs, k.Record)
	}
	r.nodes[k] = found
	return found
}

// Find looks a key up.
func (r *Remote) Find(_ context.Context, k *solver.Key) (m solver.Match[*layer.State]) {
	nodes := r.Nodes(k)
	m.Known = len(nodes) > 0
	for _, n := range nodes {
		for _, res := range n.Results() {
			if len(res.Layers) == 0 {
				continue
			}
			m.Hit = &solver.Hit[*layer.State]{Cache: r.name, Key: k, Load: func(context.Context) (*layer.State, error) {
				s := r.state(res)
				if !s.Usable() {
					return nil, fmt.Errorf("result of %s: %w", k.Record, layer.ErrLost)
				}
				return s, nil
			}}
			return m
		}
	}
	return m
}

func (r *Remote) state(res remotecache.ResultLayers) *layer.State {
	var s *layer.State
	for _, b := range res.Layers {
		s = r.layers.FromBlob(s, layer.Blob{
			Desc:   ocispec.Descriptor{MediaType: b.MediaType, Digest: b.Digest, Size: b.Size, Annotations: b.Extra},
			DiffID: b.DiffID,
			Origin: r.origin,
		}, layer.Info{Description: b.Description, Created: b.CreatedAt})
	}
	return s
}
