// Package snapshot mounts root file systems for steps that run, and gives back
// what they changed.
//
//	layer ──lower directories──▶ Snapshotter ──Root──▶ op/exec
//	layer ◀─directory of changes── Mounted.Commit ◀──┘
//
// Directories are in overlay format, as layertar unpacks them: a whiteout is a
// character device 0:0, an opaque directory has trusted.overlay.opaque. The
// package knows no blobs, digests or keys.
package snapshot

import "context"

// Config is what a Snapshotter needs.
type Config struct {
	Dir string // an existing directory, for what is mounted and changed; on the file system of the lowers
}

// A Snapshotter mounts root file systems, several at once.
type Snapshotter interface {
	// Name names the way it works, such as "overlay".
	Name() string

	// Mount makes a root of lowers, bottom first, which may be none and are
	// not changed. With readonly the caller promises to change nothing.
	Mount(ctx context.Context, lowers []string, readonly bool) (*Mounted, error)
}

// A Mounted is a mounted root file system. It ends with Commit or Discard;
// Discard after either does nothing.
type Mounted struct {
	Root string // host path

	commit  func(ctx context.Context) (string, error)
	discard func() error
	over    bool
}

// NewMounted returns a Mounted for a Snapshotter: commit unmounts and returns
// the directory of changes, discard unmounts and removes.
func NewMounted(root string, commit func(context.Context) (string, error), discard func() error) *Mounted {
	return &Mounted{Root: root, commit: commit, discard: discard}
}

// Commit unmounts and returns a directory in overlay format with the changes
// alone. It is the caller's, who moves it away; its parent directory goes too
// when the process ends.
func (m *Mounted) Commit(ctx context.Context) (string, error) {
	m.over = true
	return m.commit(ctx)
}

// Discard unmounts and removes what was changed.
func (m *Mounted) Discard() error {
	if m.over {
		return nil
	}
	m.over = true
	return m.discard()
}
