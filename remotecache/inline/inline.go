// Package inline keeps a cache inside the config of the image it is about.
//
//	engine/exporter/image ──Encode──▶ "moby.buildkit.cache.v0" of the config ──push──▶ registry
//	remotecache/registry  ──Decode──▶ Index
//
// There are no blobs besides the image's own layers, so only results made of
// those are in it: what mode=min exports. There is no Backend: the cache is
// written with the image and read, through remotecache/registry, from it.
package inline

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
)

// Field is the image config's field for the cache; its value is what Encode
// returns, in base64.
const Field = "moby.buildkit.cache.v0"

// ErrNone says that an image has no cache in its config.
var ErrNone = fmt.Errorf("the image has no inline cache: %w", remotecache.ErrNotFound)

// A Layer is one of an image's.
type Layer struct {
	Blob   digest.Digest // as stored
	DiffID digest.Digest
}

// Encode returns the records of idx for the config of an image with these
// layers, bottom first; nil when no result of idx is made of them. Layers of
// idx and of the image are the same when their blobs or, for an image that is
// compressed in another way, their diff IDs are.
func Encode(idx *remotecache.Index, layers []Layer) ([]byte, error) {
	byBlob, byDiff := map[digest.Digest]int{}, map[digest.Digest]int{}
	for i, l := range layers {
		byBlob[l.Blob] = i
		if l.DiffID != "" {
			byDiff[l.DiffID] = i
		}
	}
	lost := map[digest.Digest]bool{}
	for _, l := range idx.Layers {
		if _, ok := byBlob[l.Digest]; ok {
			continue
		}
		if _, ok := byDiff[l.DiffID]; !ok {
			lost[l.Digest] = true
		}
	}
	part, err := rebuild(idx.Without(lost))
	if err != nil || len(part.Layers) == 0 {
		return nil, err
	}
	position := func(l int) int {
		if i, ok := byBlob[part.Layers[l].Digest]; ok {
			return i
		}
		return byDiff[part.Layers[l].DiffID]
	}
	same := func(l, i int) bool {
		return part.Layers[l].Digest == layers[i].Blob || layers[i].DiffID != "" && part.Layers[l].DiffID == layers[i].DiffID
	}
	for i := range part.Records {
		r := &part.Records[i]
		var results []remotecache.Result
		for _, res := range r.Results {
			chain := chainOf(part, res.Layer)
			if startsWith(layers, chain, same) {
				res.Layer = len(chain) - 1
				results = append(results, res)
				continue
			}
			for n, l := range chain {
				chain[n] = position(l)
			}
			r.Chains = append(r.Chains, remotecache.Chain{Layers: chain, CreatedAt: res.CreatedAt})
		}
		r.Results = results
	}
	part.Layers = part.Layers[:0]
	for i, l := range layers {
		part.Layers = append(part.Layers, remotecache.Layer{Blob: remotecache.Blob{Digest: l.Blob}, Parent: i - 1})
	}
	return part.EncodeRecords()
}

// rebuild puts idx in order, without layers that nothing needs.
func rebuild(idx *remotecache.Index) (*remotecache.Index, error) {
	g, err := remotecache.NewGraph(idx)
	if err != nil {
		return nil, err
	}
	b := remotecache.NewBuilder()
	for _, n := range g.Nodes() {
		b.Copy(n, true)
	}
	return b.Index(), nil
}

// chainOf returns the positions of a layer and those below it, bottom first.
func chainOf(idx *remotecache.Index, l int) []int {
	var out []int
	for ; l != remotecache.NoParent; l = idx.Layers[l].Parent {
		out = append(out, l)
	}
	slices.Reverse(out)
	return out
}

// startsWith reports whether the image begins with the chain, so that a
// position alone stands for all of it.
func startsWith(layers []Layer, chain []int, same func(l, i int) bool) bool {
	if len(chain) > len(layers) {
		return false
	}
	for i, l := range chain {
		if !same(l, i) {
			return false
		}
	}
	return true
}

// Decode returns the cache in an image's config; layers are those of the
// image's manifest. The error is ErrNone when the config has no cache, and
// remotecache.ErrCorrupt when it is none, or is that of another image.
func Decode(config []byte, layers []ocispec.Descriptor) (*remotecache.Index, error) {
	var img struct {
		RootFS struct {
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
		Cache   []byte `json:"moby.buildkit.cache.v0"`
		History []struct {
			Created    *time.Time `json:"created"`
			CreatedBy  string     `json:"created_by"`
			EmptyLayer bool       `json:"empty_layer"`
		} `json:"history"`
	}
	if err := json.Unmarshal(config, &img); err != nil {
		return nil, fmt.Errorf("%w: decode image config: %w", remotecache.ErrCorrupt, err)
	}
	if img.Cache == nil {
		return nil, ErrNone
	}
	if len(img.RootFS.DiffIDs) != len(layers) {
		return nil, fmt.Errorf("%w: the image config has %d layers, the manifest %d", remotecache.ErrCorrupt, len(img.RootFS.DiffIDs), len(layers))
	}
	blobs := make([]remotecache.Blob, len(layers))
	for i, d := range layers {
		b, err := remotecache.BlobOf(d)
		if err != nil {
			return nil, err
		}
		b.DiffID = img.RootFS.DiffIDs[i]
		blobs[i] = b
	}
	// History that does not tell of every layer is no reason to do without
	// the cache: it says only when and how a layer was made.
	i := 0
	for _, h := range img.History {
		if h.EmptyLayer || i >= len(blobs) {
			continue
		}
		if h.Created != nil {
			blobs[i].CreatedAt = *h.Created
		}
		blobs[i].Description = h.CreatedBy
		i++
	}
	idx, err := remotecache.DecodeRecords(img.Cache, blobs)
	if err != nil {
		return nil, err
	}
	return idx, nil
}
