// Package snapshot mounts root file systems for steps that run, and gives back
// what they changed.
//
//	layer ──lower directories──▶ Snapshotter ──Mounted.Root──▶ op/exec
//	layer ◀──directory of changes── Mounted.Commit ◀──────────────┘
//
// Directories are in overlay format, as layertar unpacks them: a whiteout is a
// character device 0:0, an opaque directory has trusted.overlay.opaque (in a
// user namespace user.overlay.opaque). The package knows no blobs, digests or
// keys. Mounts of a process that was killed are removed with the directory of
// the Config by whoever owns that (statedir).
package snapshot

import (
	"context"
	"errors"
)

// ErrReadOnly is returned by the Commit of a root that was mounted read-only.
var ErrReadOnly = errors.New("a read-only root file system has no changes")

// Config is what a Snapshotter needs.
type Config struct {
	// Dir is an existing directory, for what is mounted and changed; it is on
	// the file system of the lowers, and of what Commit's directory is
	// renamed to.
	Dir string
}

// A Snapshotter mounts root file systems, several at once.
type Snapshotter interface {
	// Name names the way it works, such as "overlay".
	Name() string

	// Mount makes a root of lowers, bottom first, which may be none and are
	// not changed. With readonly, writes to the root fail or, where that
	// cannot be had, are lost. The caller ends it with Commit or Discard.
	Mount(ctx context.Context, lowers []string, readonly bool) (*Mounted, error)
}

// A Mounted is a mounted root file system, used by one goroutine. It ends with
// Commit or Discard, when no process uses it any longer; Discard after either
// does nothing.
type Mounted struct {
	Root string // host path of the root directory

	commit  func(ctx context.Context) (string, error)
	discard func() error
	over    bool
}

// NewMounted returns a Mounted for a Snapshotter: commit unmounts and returns
// the directory of changes, discard unmounts and removes. One of the two is
// called, once; discard also after a commit that failed.
func NewMounted(root string, commit func(context.Context) (string, error), discard func() error) *Mounted {
	return &Mounted{Root: root, commit: commit, discard: discard}
}

// Commit unmounts and returns a directory in overlay format with nothing but
// the changes. It is the caller's, who renames it to where it stays. After an
// error nothing is left.
func (m *Mounted) Commit(ctx context.Context) (string, error) {
	if m.over {
		return "", errors.New("commit of a root file system that is no longer mounted")
	}
	m.over = true
	dir, err := m.commit(ctx)
	if err != nil {
		return "", errors.Join(err, m.discard())
	}
	return dir, nil
}

// Discard unmounts and removes what was changed.
func (m *Mounted) Discard() error {
	if m.over {
		return nil
	}
	m.over = true
	return m.discard()
}
