// Package upkeep looks after caches between builds: what is in them, whether
// it is whole, what may go, and how it gets to another place.
//
//	cmd/mayfly cache ──▶ upkeep ──LoadIndex, Open──▶ any remotecache.Backend
//	                       └──List, Remove…──▶ any remotecache.Keeper
//
// It works on an Index and its blobs alone and knows no service.
package upkeep

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/remotecache"
)

// An Entry is what a cache keeps of one step.
type Entry struct {
	Step    string        // the step's description; "" when the cache does not say
	Layer   digest.Digest // the blob of its topmost layer
	Layers  int           // blobs in all, those of the steps below counted
	Bytes   int64         // of the topmost layer, as stored
	Total   int64         // of all of them
	Created time.Time     // when it was made or, in a cache that is merged, last used
	Keys    int           // records that lead to it
}

// Entries returns what idx keeps, newest first, each list of layers once.
func Entries(idx *remotecache.Index) ([]Entry, error) {
	g, err := remotecache.NewGraph(idx)
	if err != nil {
		return nil, err
	}
	at := map[string]int{}
	var out []Entry
	for _, n := range g.Nodes() {
		for _, res := range n.Results() {
			if len(res.Layers) == 0 {
				continue
			}
			var id strings.Builder
			e := Entry{Layers: len(res.Layers), Created: res.CreatedAt, Keys: 1}
			for _, l := range res.Layers {
				id.WriteString(string(l.Digest))
				e.Total += l.Size
			}
			top := res.Layers[len(res.Layers)-1]
			e.Step, e.Layer, e.Bytes = top.Description, top.Digest, top.Size
			if i, ok := at[id.String()]; ok {
				out[i].Keys++
				if e.Created.After(out[i].Created) {
					out[i].Created = e.Created
				}
				continue
			}
			at[id.String()] = len(out)
			out = append(out, e)
		}
	}
	slices.SortStableFunc(out, func(a, b Entry) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(string(a.Layer), string(b.Layer)))
	})
	return out, nil
}

// A Size says how much an Index keeps.
type Size struct {
	Records, Results, Blobs int
	Bytes                   int64 // of the blobs, as stored
	Newest, Oldest          time.Time
}

// SizeOf returns the size of idx.
func SizeOf(idx *remotecache.Index) Size {
	s := Size{Records: len(idx.Records)}
	for _, b := range idx.Blobs() {
		s.Blobs++
		s.Bytes += b.Size
	}
	see := func(t time.Time) {
		s.Results++
		if t.After(s.Newest) {
			s.Newest = t
		}
		if s.Oldest.IsZero() || t.Before(s.Oldest) {
			s.Oldest = t
		}
	}
	for _, r := range idx.Records {
		for _, res := range r.Results {
			see(res.CreatedAt)
		}
		for _, c := range r.Chains {
			see(c.CreatedAt)
		}
	}
	return s
}

// hasSteps reports whether idx is that of steps. An Index may also be about
// one directory (see treestore): its blobs are of no use one without another.
func hasSteps(idx *remotecache.Index) bool {
	return !slices.ContainsFunc(idx.Layers, func(l remotecache.Layer) bool {
		return strings.HasPrefix(l.MediaType, remotecache.AttachmentPrefix)
	})
}
