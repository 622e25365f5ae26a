package remotecache

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// An Index says which cache keys have which layers: BuildKit's cacheconfig v0
// in memory. Layers and Records refer to each other by position.
type Index struct {
	Layers  []Layer
	Records []Record

	// Attachments are blobs that say something about the Index, such as a
	// signature. They are stored as layers at the end that no record leads to,
	// which BuildKit passes over; media types that begin with
	// AttachmentPrefix tell them from layers.
	Attachments []Blob

	// Version names what this Index was loaded as: opaque, made by the
	// backend. It is no part of what is stored; see Backend.SaveIndex.
	Version string
}

// AttachmentPrefix begins the media type of every attachment of an Index.
const AttachmentPrefix = "application/vnd.mayfly."

// Absent is the Version of an Index that is to be the first of its ref.
const Absent = "absent"

// Attachment returns the attachment with a media type, false when there is
// none.
func (idx *Index) Attachment(mediaType string) (Blob, bool) {
	i := slices.IndexFunc(idx.Attachments, func(b Blob) bool { return b.MediaType == mediaType })
	if i < 0 {
		return Blob{}, false
	}
	return idx.Attachments[i], true
}

// Attach puts b among the attachments, in the place of one with the same
// media type.
func (idx *Index) Attach(b Blob) {
	idx.Detach(b.MediaType)
	idx.Attachments = append(idx.Attachments, b)
}

// Detach removes the attachment with a media type, if there is one.
func (idx *Index) Detach(mediaType string) {
	idx.Attachments = slices.DeleteFunc(idx.Attachments, func(a Blob) bool { return a.MediaType == mediaType })
}

// StoredLayers returns the layers and, after them, the attachments as layers:
// what a manifest lists.
func (idx *Index) StoredLayers() []Layer {
	out := slices.Clone(idx.Layers)
	for _, b := range idx.Attachments {
		if b.DiffID == "" {
			b.DiffID = b.Digest // BuildKit reads no index with a layer that has none
		}
		out = append(out, Layer{Blob: b, Parent: NoParent})
	}
	return out
}

// splitAttachments moves the attachments out of Layers, once the media types
// are known.
func (idx *Index) splitAttachments() {
	n := len(idx.Layers)
	used := make([]bool, n)
	for _, l := range idx.Layers {
		if l.Parent != NoParent {
			used[l.Parent] = true
		}
	}
	for _, r := range idx.Records {
		for _, res := range r.Results {
			used[res.Layer] = true
		}
		for _, c := range r.Chains {
			for _, l := range c.Layers {
				used[l] = true
			}
		}
	}
	for n > 0 && !used[n-1] && idx.Layers[n-1].Parent == NoParent && strings.HasPrefix(idx.Layers[n-1].MediaType, AttachmentPrefix) {
		n--
	}
	for _, l := range idx.Layers[n:] {
		idx.Attachments = append(idx.Attachments, l.Blob)
	}
	idx.Layers = slices.Clip(idx.Layers[:n])
}

// A Layer is a blob on top of another one.
type Layer struct {
	Blob
	Parent int // position in Layers of the layer below; NoParent for none
}

// NoParent is the Parent of a layer at the bottom.
const NoParent = -1

// A Record is one cache key and what it leads to.
type Record struct {
	// Digest is OutputKey of the operation's digest. Keys that nothing can
	// match again begin with "random:".
	Digest digest.Digest

	// Inputs has, for each input of the operation, the records that name it;
	// any one of them suffices. A record without inputs is named by Digest
	// alone.
	Inputs [][]Input

	Results []Result // a layer with all below it
	Chains  []Chain  // layers named one by one
}

// An Input is a record that names an input of another one.
type Input struct {
	Selector string // which part of the input the key is about; "" for all
	Link     int    // position in Records
}

// A Result is what an operation made: a layer, with its parents.
type Result struct {
	Layer     int // position in Layers
	CreatedAt time.Time
}

// A Chain is a Result whose layers are listed, bottom first; their parents
// play no part.
type Chain struct {
	Layers    []int // positions in Layers
	CreatedAt time.Time
}

// OutputKey returns the digest a record has for output number index of an
// operation with digest dgst.
func OutputKey(dgst digest.Digest, index int) digest.Digest {
	return digest.FromString(fmt.Sprintf("%s@%d", dgst, index))
}

// IsRandom reports whether a key was made to match nothing, and so has no
// place in a cache.
func IsRandom(dgst digest.Digest) bool { return strings.HasPrefix(string(dgst), "random:") }

// Clone returns a copy that shares nothing with idx.
func (idx *Index) Clone() *Index {
	out := &Index{
		Layers: slices.Clone(idx.Layers), Records: slices.Clone(idx.Records),
		Attachments: slices.Clone(idx.Attachments), Version: idx.Version,
	}
	for i := range out.Layers {
		out.Layers[i].Extra = maps.Clone(out.Layers[i].Extra)
	}
	for i := range out.Attachments {
		out.Attachments[i].Extra = maps.Clone(out.Attachments[i].Extra)
	}
	for i := range out.Records {
		r := &out.Records[i]
		r.Results = slices.Clone(r.Results)
		r.Chains = slices.Clone(r.Chains)
		for j := range r.Chains {
			r.Chains[j].Layers = slices.Clone(r.Chains[j].Layers)
		}
		r.Inputs = slices.Clone(r.Inputs)
		for j := range r.Inputs {
			r.Inputs[j] = slices.Clone(r.Inputs[j])
		}
	}
	return out
}

// Blobs returns the blobs of the layers and attachments, each once, in their
// order.
func (idx *Index) Blobs() []Blob {
	seen := map[digest.Digest]bool{}
	var out []Blob
	for _, l := range idx.StoredLayers() {
		if !seen[l.Digest] {
			seen[l.Digest] = true
			out = append(out, l.Blob)
		}
	}
	return out
}

// Join returns an Index with the contents of all of them, as far as positions
// are concerned one after the other. It has no Version and no attachments.
func Join(indexes ...*Index) *Index {
	out := &Index{}
	for _, idx := range indexes {
		layers, records := len(out.Layers), len(out.Records)
		c := idx.Clone()
		for _, l := range c.Layers {
			if l.Parent != NoParent {
				l.Parent += layers
			}
			out.Layers = append(out.Layers, l)
		}
		for _, r := range c.Records {
			for _, links := range r.Inputs {
				for i := range links {
					links[i].Link += records
				}
			}
			for i := range r.Results {
				r.Results[i].Layer += layers
			}
			for _, ch := range r.Chains {
				for i := range ch.Layers {
					ch.Layers[i] += layers
				}
			}
			out.Records = append(out.Records, r)
		}
	}
	return out
}
