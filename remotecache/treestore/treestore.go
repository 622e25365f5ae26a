// Package treestore keeps a directory tree in a remotecache.Backend, so that
// the directory of a RUN --mount=type=cache is there on the next machine.
//
//	directory ──scan──▶ tree ──chunk──▶ packs ──▶ ┌─────────┐
//	                      └──manifest───────────▶ │ Backend │ one Index per directory
//	directory ◀──write── packs ◀──manifest─────── └─────────┘
//
// In: a directory. Out: the same directory elsewhere, with types, modes,
// owners, times, extended attributes, hard links and holes. Files are cut into
// chunks where their content says so, chunks that the backend lacks are put
// together into packs of up to 32 MiB, and a manifest says which chunks of
// which packs make which file. A second Save sends what has changed. The
// package knows nothing of steps, mounts or builds.
//
// An Index leads to the packs and the manifest with one record, so that a
// backend keeps them as it keeps layers. It is saved last: what a killed Save
// leaves behind is blobs that nothing names.
//
// A directory is what one job saw. Two that were saved from the same beginning
// are not merged, since no program ever saw what would come out: the one whose
// reading began last stays.
package treestore

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
)

// Media types of the blobs of a directory. They begin like attachments of an
// Index and are none: the record of the Index leads to them.
const (
	MediaTypePack     = "application/vnd.mayfly.mount.pack.v1+zstd"
	MediaTypeManifest = "application/vnd.mayfly.mount.tree.v1+zstd"
)

var (
	// ErrExpired says that a directory was stored longer ago than it is to be
	// kept. It is an ErrNotFound of remotecache.
	ErrExpired = fmt.Errorf("stored too long ago: %w", remotecache.ErrNotFound)

	// ErrIncomplete says that a directory is stored, and that the cache has
	// lost a part of it. It is an ErrNotFound of remotecache; Save sends what
	// is lost again.
	ErrIncomplete = fmt.Errorf("a part of it is lost: %w", remotecache.ErrNotFound)
)

// A Name tells the directories of one cache from each other.
type Name struct {
	ID       string // as the cache mount has it: "/go-build"
	Platform string // of the steps that use it: "linux/arm64"; may be ""
}

func (n Name) String() string {
	if n.Platform == "" {
		return n.ID
	}
	return n.ID + " for " + n.Platform
}

// Ref returns the ref under which a directory is kept beside the cache of ref.
// It has 38 characters whatever the parts have, and differs when one of them
// does.
func Ref(ref string, n Name) string {
	h := sha256.New()
	for _, s := range []string{"mayfly mount v1", ref, n.ID, n.Platform} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return "mount-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// Stats says what a Save or a Load did.
type Stats struct {
	Files int   // regular files of the directory as stored, hard links once
	Bytes int64 // their content, without holes

	Read     int64 // bytes of files that a Save read
	LeftOut  int   // files that a Save left out for their age, the size of all, or because they kept changing
	OutBytes int64 // the content of those

	Blobs  int   // sent by a Save, read by a Load
	Sent   int64 // bytes of them, as stored
	Packs  int   // that make up the directory
	Stored int64 // bytes of them, as stored

	Unchanged  bool // Save: what is stored is the same, and nothing was sent
	Superseded bool // Save: another job stored a directory that it began to read later; it stays
}

// A Watch is called when a blob is about to be sent or read; what it returns
// is called when that is over.
type Watch func(blob ocispec.Descriptor) (done func(error))

func (w Watch) start(blob ocispec.Descriptor) func(error) {
	if w == nil {
		return func(error) {}
	}
	return w(blob)
}

// indexOf returns the Index of a directory.
func indexOf(n Name, saved time.Time, packs []pack, manifest ocispec.Descriptor) *remotecache.Index {
	saved = saved.UTC()
	idx := &remotecache.Index{}
	add := func(d digest.Digest, size int64, mediaType, what string) {
		idx.Layers = append(idx.Layers, remotecache.Layer{Parent: remotecache.NoParent, Blob: remotecache.Blob{
			Digest: d, Size: size, MediaType: mediaType, CreatedAt: saved, Description: what,
		}})
	}
	for _, p := range packs {
		add(p.digest, p.size, MediaTypePack, "")
	}
	add(manifest.Digest, manifest.Size, MediaTypeManifest, "cache mount "+n.String())
	all := make([]int, len(idx.Layers))
	for i := range all {
		all[i] = i
	}
	idx.Records = []remotecache.Record{{
		Digest: remotecache.OutputKey(digest.FromString(Ref("", n)), 0),
		Chains: []remotecache.Chain{{Layers: all, CreatedAt: saved}},
	}}
	return idx
}

// manifestOf returns the blob of the manifest that an Index leads to.
func manifestOf(idx *remotecache.Index) (ocispec.Descriptor, error) {
	var found []ocispec.Descriptor
	for _, l := range idx.Layers {
		if l.MediaType == MediaTypeManifest && l.Known() {
			found = append(found, l.Descriptor())
		}
	}
	if len(found) == 0 {
		return ocispec.Descriptor{}, fmt.Errorf("the index leads to no manifest of a cache mount: %w", remotecache.ErrNotFound)
	}
	if len(found) > 1 {
		return ocispec.Descriptor{}, fmt.Errorf("%w: the index has %d manifests of a cache mount, not one", remotecache.ErrCorrupt, len(found))
	}
	return found[0], nil
}
