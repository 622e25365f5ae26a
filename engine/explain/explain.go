// Package explain says why a step of a build ran.
//
//	engine ──Record per step──▶ Set ──Encode──▶ state dir, attachment of a cache
//	                             │                   │ Decode
//	                             ▼                   ▼
//	                            now ──▶ Explain ◀── earlier Sets
//	                                       └──Reason──▶ log, metadata, mayfly debug why
//
// A Record is what went into a step's cache key, taken apart into pieces that
// have names; the Reason for a step is what differs from the nearest earlier
// Record of the same step. The package is a function of values: it reads no
// file and knows no solver, layer or cache.
//
// What a Set may hold: it is written to caches that others read, so values of
// environment variables and build arguments, which may be secrets, are in it
// only as sums of 16 bits. Such a sum shows a change (but for one in 65,536,
// which is then told as a change of something that is not recorded), and is
// too short to confirm a guess: of a million guesses some fifteen have the
// right one. A longer sum would do so, with or without a salt, since a salt has
// to lie beside it. Where the value of an argument stands in other text, such
// as the source of a COPY, the argument's name stands there instead. Secrets
// appear by their id, and URLs without user and query. Instructions are stored
// as the Dockerfile spells them, before any variable is replaced. The digest of
// an operation, which covers the values too, is here as it is in every cache
// index: what has to withstand guessing belongs into a secret.
package explain

import (
	"time"

	digest "github.com/opencontainers/go-digest"
)

// A Set is the Records of one build, or some of them.
type Set struct {
	Build   string    // names the build; "" in an attachment
	Created time.Time // when the build was over
	Args    []Field   // build arguments that were given, sorted by name; values hidden
	Steps   []Record  // a step after the steps it uses

	// Manifests has the files behind Input.Content; not all of them need be
	// there.
	Manifests map[digest.Digest]*Manifest
}

// A Record is one step of a build and what went into its cache key.
type Record struct {
	// ID is the step's identity from build to build: of its stage, its
	// instruction before any variable is replaced, and its platform.
	ID string

	// Seat is what a step keeps when its instruction is edited: stage, place in
	// the stage and platform. "" when it has none.
	Seat string

	Name  string // for people: "[build 2/5] RUN make"
	Text  string // the instruction alone: "RUN make"
	Where string // "Dockerfile:7"; "" when unknown

	Kind   Kind
	Op     digest.Digest // of the operation without its inputs; "" when it was not needed
	Fields []Field       // the operation's parts
	Inputs []Input

	State State

	// Key is a digest of the operation and of all that it is built on, by
	// definition. It is for people: steps are compared piece by piece.
	Key string

	NoCache bool          // the user asked that it runs
	Known   bool          // a cache had the key, without a result
	Lost    bool          // a cache promised the result and did not have it
	Blob    digest.Digest // what was lost; "" when unknown

	// Why is why the step ran, as it was told then; nil when it did not, and
	// in an attachment.
	Why *Reason
}

// A Kind says what an operation does.
type Kind string

// The kinds of operations.
const (
	Exec  Kind = "exec"
	File  Kind = "file"
	Merge Kind = "merge"
	Diff  Kind = "diff"
	Image Kind = "image" // sources: a base image,
	Git   Kind = "git"   // a repository,
	HTTP  Kind = "http"  // a download,
	Local Kind = "local" // files of the client,
	Other Kind = "other" // anything else
)

// IsSource reports whether the operation has no inputs but the world's.
func (k Kind) IsSource() bool {
	switch k {
	case Image, Git, HTTP, Local:
		return true
	}
	return false
}

// A State says what became of a step.
type State string

// The states of a step.
const (
	Ran    State = "ran"
	Failed State = "failed"
	Cached State = "cached"
	Unused State = "" // not needed, since a step that uses it was cached
)

// An Input is a step that another one uses.
type Input struct {
	Step     int           // position in Set.Steps
	Output   int           // of that step
	Selector digest.Digest // which part is used; "" means all

	// Content is the record of the content that is used, when that was taken:
	// then it plays no part how the step came by it.
	Content digest.Digest

	// Pending says that the Content is yet to be taken: the input is not
	// compared. It is not stored.
	Pending bool
}

// ran reports whether the step was tried.
func (r *Record) ran() bool { return r.State == Ran || r.State == Failed }
