package tracing

import (
	"context"
	"errors"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// A Result is what came of a build, as far as it is known.
type Result struct {
	Ended time.Time // zero means now
	Err   error     // nil when the build succeeded

	Ref       string // names the build
	Digest    digest.Digest
	Names     []string // of the image
	BytesIn   int64    // read from registries
	BytesOut  int64    // written to registries
	Caches    []Cache
	Cancelled bool // Err is that of a build that was stopped
}

// A Cache is what became of one cache, as engine.CacheOutcome says it.
type Cache struct {
	Name    string
	Export  bool   // otherwise an import
	Outcome string // ok, partial, skipped or failed
	Reason  string // why, unless ok
	Blobs   int    // sent by an export; read from an import
	Bytes   int64  // of them
	Carried int    // records of other jobs that an export kept
}

// The values of mayfly.result.
const (
	succeeded = "success"
	failed    = "failure"
	cancelled = "cancellation"
)

func (r Result) word() string {
	switch {
	case r.Err == nil:
		return succeeded
	case r.Cancelled || errors.Is(r.Err, context.Canceled):
		return cancelled
	}
	return failed
}

// cacheOf returns the name of the cache that a step of the stream reads or
// writes, as Cache has it.
func cacheOf(step string) (name string, export, ok bool) {
	if name, ok := strings.CutPrefix(step, "importing cache manifest from "); ok {
		return name, false, true
	}
	if name, ok := strings.CutPrefix(step, "restoring cache mount "); ok {
		return "mounts " + strings.Replace(name, " from ", " ", 1), false, true
	}
	if name, ok := strings.CutPrefix(step, "exporting cache mount "); ok {
		return "mounts " + strings.Replace(name, " to ", " ", 1), true, true
	}
	name, ok = strings.CutPrefix(step, "exporting cache to ")
	return name, true, ok
}
