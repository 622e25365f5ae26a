// Package layertar turns changes of a root file system into layer tars, and
// layer tars into directories that overlayfs can mount.
//
//	fsdiff.Diff ──Write──▶ tar ──▶ compression, content
//	fsdiff.Diff ──Materialize──▶ ┌───────────┐
//	       tar ──Unpack────────▶ │ directory │ ──▶ snapshot, fsdiff.Dir
//	       tar ──Rewrite──▶ tar  └───────────┘
//
// A directory is in overlay format: a character device 0:0 is a whiteout, and
// the attribute trusted.overlay.opaque marks an opaque directory
// (user.overlay.opaque in a user namespace). Tars are those that BuildKit
// v0.33 writes for the same change, byte for byte, so that diff IDs agree.
// The package knows no digests, no compression and no mounts.
package layertar

import "runtime"

// Stats is what was in a tar.
type Stats struct {
	Size    int64 // bytes: of the tar when written, of the files in it when unpacked
	Entries int   // headers, whiteouts included
}

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	xattrPrefix    = "SCHILY.xattr."
	capability     = "security.capability"
)

// workers is how many goroutines read or write files at once. More than eight
// only wait for one another's directory locks.
func workers() int { return min(max(runtime.GOMAXPROCS(0), 2), 8) }
