package solver

import (
	"slices"

	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/cachekey"
)

// A Key names what an edge computes: an operation, and for each input the
// ways to name it. Keys are immutable and compared by pointer: a cache may
// remember what it found for one.
type Key struct {
	Record digest.Digest // cachekey.Output of the operation
	Inputs [][]Link      // per input, all of which name the same thing

	// Fresh says that the operation has to run in this build: an edge that
	// uses it is not found through it.
	Fresh bool
}

// A Link names an input.
type Link struct {
	Selector digest.Digest // which part; "" means all
	Key      *Key
	Content  bool // Key is a digest of content rather than of an operation
}

// content returns the link that stands for an input with the given content.
func contentLink(d digest.Digest) Link {
	return Link{Key: &Key{Record: cachekey.Output(d, -1)}, Content: true}
}

// HasContent reports whether input i is named by its content.
func (k *Key) HasContent(i int) bool {
	return slices.ContainsFunc(k.Inputs[i], func(l Link) bool { return l.Content })
}

// WithContent returns k with input i named by the record of a content digest
// too.
func (k *Key) WithContent(i int, record digest.Digest) *Key {
	out := k.clone()
	out.Inputs[i] = append(out.Inputs[i], Link{Key: &Key{Record: record}, Content: true})
	return out
}

func (k *Key) clone() *Key {
	out := &Key{Record: k.Record, Fresh: k.Fresh, Inputs: make([][]Link, len(k.Inputs))}
	for i, links := range k.Inputs {
		out.Inputs[i] = slices.Clone(links)
	}
	return out
}

// IsRandom reports whether only this build can have the key: it, or an input
// without another name, stands for something of this build.
func (k *Key) IsRandom() bool {
	if cachekey.IsRandom(k.Record) {
		return true
	}
	for _, links := range k.Inputs {
		if !slices.ContainsFunc(links, func(l Link) bool { return !l.Key.IsRandom() }) {
			return true
		}
	}
	return false
}
