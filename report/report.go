// Package report makes one HTML page of a build.
//
//	engine/progress ──SolveStatus──▶ Recorder ──Page──▶ Page ──Write──▶ a file, by cmd/mayfly
//	engine.Build ──Result, or an error─────────▲
//
// In: the events of a build, what came of it, and what its CI job is. Out: a
// page that holds all it needs, and asks no network for anything: a content
// security policy in it names its own style and script by their digests and
// forbids the rest. Without its script the page still shows everything.
// The package reads and writes no file, and does not know what is secret:
// every text of a build passes through Config.Redact.
package report

import (
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/ci"
	"github.com/mayfly-build/mayfly/engine"
)

// Config says how a build is recorded. The zero value is ready for use.
type Config struct {
	Began  time.Time           // of the build; zero means now
	Redact func(string) string // removes what is secret from a text of any number of lines; nil means that nothing is secret

	// LogBytes is how much of the logs of all steps a page has; 0 means 4 MiB.
	// Of logs that are longer, the longest lose lines in their middle.
	LogBytes int
}

// A Build is what came of a build.
type Build struct {
	Ended   time.Time // zero means now
	Title   string    // what was built, in a few words
	Version string    // of mayfly
	CI      ci.Info
	Commit  string // what was built from; "" when it is not known

	Result  *engine.Result // nil when there is none
	Failure *Failure       // nil when the build succeeded; beside a Result, a cache's

	// BytesIn and BytesOut were read from and written to registries.
	BytesIn, BytesOut int64
}

// A Failure is why a build failed.
type Failure struct {
	Text    string        // what went wrong
	Hint    string        // what to do about it; "" where nobody knows
	Stopped bool          // somebody stopped the build
	Step    digest.Digest // the vertex that failed; "" for none
	Place   Place         // zero for none
}

// A Place is lines of a source file.
type Place struct {
	File       string
	Start, End int    // lines, from 1
	Source     []byte // the file
}
