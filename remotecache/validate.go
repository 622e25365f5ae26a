package remotecache

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Validate reports whether idx is sound: digests are digests, positions exist,
// and neither layers nor records run in a loop. The error is ErrCorrupt and
// names the culprit.
func (idx *Index) Validate() error {
	if err := idx.validateLayers(); err != nil {
		return fmt.Errorf("%w: cache index: %w", ErrCorrupt, err)
	}
	for i := range idx.Records {
		if err := idx.validateRecord(i); err != nil {
			return fmt.Errorf("%w: cache index: record %d: %w", ErrCorrupt, i, err)
		}
	}
	for _, a := range idx.Attachments {
		if err := checkDigest(a.Digest); err != nil || !a.Known() || !strings.HasPrefix(a.MediaType, AttachmentPrefix) {
			return fmt.Errorf("%w: cache index: attachment %q of type %q and %d bytes", ErrCorrupt, a.Digest, a.MediaType, a.Size)
		}
	}
	if _, err := idx.order(); err != nil {
		return fmt.Errorf("%w: cache index: %w", ErrCorrupt, err)
	}
	return nil
}

func (idx *Index) validateLayers() error {
	for i, l := range idx.Layers {
		if err := checkDigest(l.Digest); err != nil {
			return fmt.Errorf("layer %d: blob %q: %w", i, l.Digest, err)
		}
		if l.DiffID != "" {
			if err := checkDigest(l.DiffID); err != nil {
				return fmt.Errorf("layer %d: diff ID %q: %w", i, l.DiffID, err)
			}
		}
		if l.Size < 0 {
			return fmt.Errorf("layer %d has size %d", i, l.Size)
		}
		if l.Parent != NoParent && !within(l.Parent, len(idx.Layers)) {
			return fmt.Errorf("layer %d: parent %d of %d layers", i, l.Parent, len(idx.Layers))
		}
	}
	// Each walk down ends at a layer known to have a bottom, so that every
	// layer is passed once.
	const unseen, walking, sound = 0, 1, 2
	state := make([]byte, len(idx.Layers))
	for i := range idx.Layers {
		at := i
		for at != NoParent && state[at] == unseen {
			state[at] = walking
			at = idx.Layers[at].Parent
		}
		if at != NoParent && state[at] == walking {
			return fmt.Errorf("layer %d is below itself", at)
		}
		for at = i; at != NoParent && state[at] == walking; at = idx.Layers[at].Parent {
			state[at] = sound
		}
	}
	return nil
}

func (idx *Index) validateRecord(i int) error {
	r := idx.Records[i]
	if !IsRandom(r.Digest) {
		if err := checkDigest(r.Digest); err != nil {
			return fmt.Errorf("digest %q: %w", r.Digest, err)
		}
	}
	for n, links := range r.Inputs {
		if len(links) == 0 {
			return fmt.Errorf("input %d has no links", n)
		}
		for _, l := range links {
			if !within(l.Link, len(idx.Records)) {
				return fmt.Errorf("input %d: link to record %d of %d", n, l.Link, len(idx.Records))
			}
		}
	}
	for _, res := range r.Results {
		if !within(res.Layer, len(idx.Layers)) {
			return fmt.Errorf("result is layer %d of %d", res.Layer, len(idx.Layers))
		}
	}
	for _, ch := range r.Chains {
		for _, l := range ch.Layers {
			if !within(l, len(idx.Layers)) {
				return fmt.Errorf("chain has layer %d of %d", l, len(idx.Layers))
			}
		}
	}
	return nil
}

// checkDigest is digest.Validate without its regular expressions, which take
// longer than all else that is done with an Index.
func checkDigest(d digest.Digest) error {
	hex, ok := strings.CutPrefix(string(d), "sha256:")
	if !ok || len(hex) != 64 {
		return d.Validate()
	}
	for _, c := range []byte(hex) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return d.Validate()
		}
	}
	return nil
}

func within(i, n int) bool { return i >= 0 && i < n }

// order returns the positions of the records, inputs before what they are
// inputs of.
func (idx *Index) order() ([]int, error) {
	out := make([]int, 0, len(idx.Records))
	waits := make([]int, len(idx.Records)) // links not in out yet
	uses := make([][]int, len(idx.Records))
	for i, r := range idx.Records {
		for _, links := range r.Inputs {
			for _, l := range links {
				waits[i]++
				uses[l.Link] = append(uses[l.Link], i)
			}
		}
		if waits[i] == 0 {
			out = append(out, i)
		}
	}
	for n := 0; n < len(out); n++ {
		for _, i := range uses[out[n]] {
			if waits[i]--; waits[i] == 0 {
				out = append(out, i)
			}
		}
	}
	if len(out) < len(idx.Records) {
		for i, n := range waits {
			if n > 0 {
				return nil, fmt.Errorf("record %d needs itself, or records that do", i)
			}
		}
	}
	return out, nil
}
