package engine

import (
	"context"

	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/explain"
	"github.com/mayfly-build/mayfly/remotecache"
)

// maxAttachment is what the records that travel with a cache may take, in bytes.
const maxAttachment = 2 << 20

// attach is a remotecache.Attach: the records of this build's steps, and of
// steps of other jobs that old, the index it is merged with, has records of.
// A build that ran nothing leaves the records that it found.
func (w *why) attach(ctx context.Context, ex Export, old *remotecache.Index) (remotecache.Blob, []byte) {
	ran := w.wait(ctx)
	var there remotecache.Blob
	if old != nil {
		there, _ = old.Attachment(explain.MediaType)
	}
	if !ran && old == nil {
		there = w.importedFrom(ex.Name)
	}
	if !ran && there.Digest != "" {
		return there, nil
	}
	older := w.recordsOf(ctx, ex.Backend, there)
	w.one.Lock()
	defer w.one.Unlock()
	set, _ := w.collect(ctx)
	dt, err := explain.Encode(explain.Keep(set, older), maxAttachment)
	if err != nil {
		return remotecache.Blob{}, nil // more steps than there is room for
	}
	return remotecache.Blob{Digest: digest.FromBytes(dt), Size: int64(len(dt)), MediaType: explain.MediaType}, dt
}

// importedFrom returns the attachment of an imported cache; none without a
// digest.
func (w *why) importedFrom(name string) remotecache.Blob {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.imports {
		if a.name == name {
			return a.blob
		}
	}
	return remotecache.Blob{}
}

// recordsOf returns what the attachment of a cache that is exported to holds.
func (w *why) recordsOf(ctx context.Context, b remotecache.Backend, blob remotecache.Blob) []*explain.Set {
	if blob.Digest == "" {
		return nil
	}
	w.one.Lock()
	sets, ok := w.fetched[blob.Digest]
	w.one.Unlock()
	if ok {
		return sets
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	sets = fetchRecords(ctx, blob, b.Open)
	if ctx.Err() == nil {
		w.one.Lock()
		w.fetched[blob.Digest] = sets
		w.one.Unlock()
	}
	return sets
}
