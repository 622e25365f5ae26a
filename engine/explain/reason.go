package explain

import (
	digest "github.com/opencontainers/go-digest"
)

// A Reason says why a step ran.
type Reason struct {
	Kind   Cause    `json:"kind"`             // of the first of Causes
	Text   string   `json:"text"`             // one line
	Causes []Detail `json:"causes,omitempty"` // all that differs, the most telling first
}

// A Cause is a kind of reason.
type Cause string

// The causes, the most telling first: of several that apply to a step, the
// ones above hide the ones below or stand before them.
const (
	CauseNoCache     Cause = "no-cache"    // --no-cache or --no-cache-filter
	CauseEvicted     Cause = "evicted"     // a cache promised the result and had lost it
	CauseNever       Cause = "never"       // no other build can have made it
	CauseFirst       Cause = "first"       // no earlier build has such a step
	CauseInstruction Cause = "instruction" // another one stands in its place
	CauseField       Cause = "field"       // an argument, variable, option or mount
	CauseSource      Cause = "source"      // the base image, commit or download
	CauseFiles       Cause = "files"       // files that it reads
	CauseParent      Cause = "parent"      // a step that it is built on
	CauseUnknown     Cause = "unknown"     // its key differs, in nothing that is recorded
	CauseFailed      Cause = "failed"      // nothing differs: it failed before
	CauseKeyOnly     Cause = "key-only"    // nothing differs: the cache has the key without a result, as with mode=min
	CauseGone        Cause = "gone"        // nothing differs: no cache has the result any more
)

// Differs reports whether something is known to differ from the earlier
// record, or to make the step run whatever differs.
func (c Cause) Differs() bool {
	switch c {
	case CauseUnknown, CauseFailed, CauseKeyOnly, CauseGone:
		return false
	}
	return true
}

// A Detail is one thing that differs. Which fields are set depends on Kind.
type Detail struct {
	Kind Cause `json:"kind"`

	// Step is the text of the step whose input differs, when it is not the one
	// the Reason is about: the root of the change.
	Step string `json:"step,omitempty"`

	Name   string   `json:"name,omitempty"`   // field: "arg VERSION"; source: what it is
	Change string   `json:"change,omitempty"` // field: Added or Removed; "" when its value differs
	Before string   `json:"before,omitempty"` // "" when it may not be shown
	After  string   `json:"after,omitempty"`
	Args   []string `json:"args,omitempty"` // field: build arguments that made the difference

	Files []FileChange `json:"files,omitempty"` // at most maxListed
	More  int          `json:"more,omitempty"`  // files beyond those
	Input string       `json:"input,omitempty"` // files: the text of the step that made them; "" for a build context

	Blob digest.Digest `json:"blob,omitempty"` // evicted

	// Root is why: of parent, what differs there; of files, why what made them ran.
	Root []Detail `json:"root,omitempty"`
}

// maxListed is how many changed files a Detail lists.
const maxListed = 1000

// Brief returns d with at most n files listed, for where the full list has no
// place.
func (r *Reason) Brief(n int) *Reason {
	out := *r
	out.Causes = briefly(r.Causes, n)
	return &out
}

func briefly(all []Detail, n int) []Detail {
	if all == nil {
		return nil
	}
	out := make([]Detail, len(all))
	for i, d := range all {
		if len(d.Files) > n {
			d.More += len(d.Files) - n
			d.Files = d.Files[:n]
		}
		d.Root = briefly(d.Root, n)
		out[i] = d
	}
	return out
}
