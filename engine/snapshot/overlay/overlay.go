// Package overlay mounts root file systems with Linux's overlayfs.
//
//	snapshot.Snapshotter ◀── Overlay ──▶ fsopen, fsconfig, fsmount (or mount)
//
// Nothing is synced, and no directory is ever redirected nor a file split into
// data and metadata: what is in the upper directory after a step is the
// change, complete, and independent of the directories it was made on.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/layertar"
	"github.com/mayfly-build/mayfly/engine/snapshot"
)

const (
	// maxLowers is how many lower directories the kernel stacks
	// (OVL_MAX_STACK in fs/overlayfs/params.h).
	maxLowers = 500

	// mergeStep is by how many at a time lower directories are merged when
	// there are more, so that a chain that grows does not merge each time.
	mergeStep = 100
)

// An Overlay is a Snapshotter.
type Overlay struct {
	dir    string
	userns bool // overlay's attributes are user.*

	useMount bool // as if the kernel had no file system contexts

	mu     sync.Mutex
	merged map[string]func() (string, error) // directories made of many lowers
}

// New returns an Overlay that keeps upper directories and mount points in
// cfg.Dir. That overlayfs works there is what Probe says.
func New(cfg snapshot.Config) (*Overlay, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	return &Overlay{dir: dir, userns: inUserNamespace(), merged: map[string]func() (string, error){}}, nil
}

func inUserNamespace() bool {
	m, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(m)), " ") != "0 0 4294967295"
}

// Name returns "overlay".
func (o *Overlay) Name() string { return "overlay" }

// Probe returns nil when overlay mounts work in dir, and else why they do not:
// the kernel has none, does not permit them, or dir's file system cannot be an
// upper one.
func Probe(dir string) error {
	tmp, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	defer os.RemoveAll(tmp)
	lower := filepath.Join(tmp, "lower")
	if err := os.MkdirAll(filepath.Join(lower, "d"), 0o755); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	if err := os.WriteFile(filepath.Join(lower, "f"), []byte("f"), 0o644); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	o, err := New(snapshot.Config{Dir: tmp})
	if err != nil {
		return err
	}
	m, err := o.Mount(context.Background(), []string{lower}, false)
	if err != nil {
		return err
	}
	return errors.Join(probeWrites(m.Root), m.Discard())
}

// probeWrites copies up, makes a whiteout and an opaque directory, which is
// what upper file systems without d_type, RENAME_WHITEOUT or attributes refuse.
func probeWrites(root string) error {
	err := os.Chmod(filepath.Join(root, "f"), 0o600)
	if err == nil {
		err = os.Remove(filepath.Join(root, "f"))
	}
	if err == nil {
		err = os.Remove(filepath.Join(root, "d"))
	}
	if err == nil {
		err = os.Mkdir(filepath.Join(root, "d"), 0o755)
	}
	if err != nil {
		return fmt.Errorf("overlay: write to a mount: %w", err)
	}
	return nil
}

// Mount stacks lowers. A root of no lowers is a plain directory.
func (o *Overlay) Mount(ctx context.Context, lowers []string, readonly bool) (*snapshot.Mounted, error) {
	m, err := o.prepare(ctx, lowers, readonly)
	if err != nil {
		return nil, fmt.Errorf("mount a root file system of %d layers: %w", len(lowers), err)
	}
	commit := m.commit
	if readonly {
		commit = func(context.Context) (string, error) { return "", snapshot.ErrReadOnly }
	}
	return snapshot.NewMounted(m.root, commit, m.discard), nil
}

func (o *Overlay) prepare(ctx context.Context, lowers []string, readonly bool) (*mounted, error) {
	lowers = visible(lowers)
	if len(lowers) > maxLowers {
		var err error
		if lowers, err = o.fold(ctx, lowers); err != nil {
			return nil, err
		}
	}
	tmp, err := os.MkdirTemp(o.dir, "root-")
	if err != nil {
		return nil, err
	}
	m := &mounted{dir: o.dir, tmp: tmp, upper: filepath.Join(tmp, "upper"), root: filepath.Join(tmp, "upper")}
	if err := m.makeUpper(lowers); err != nil {
		return nil, errors.Join(err, os.RemoveAll(tmp))
	}
	if len(lowers) == 0 {
		return m, nil
	}
	if readonly && len(lowers) == 1 {
		// Not the directory itself, which may hold whiteouts; the kernel wants
		// two lower directories when there is no upper one.
		lowers = append([]string{m.upper}, lowers...)
	}
	m.root = filepath.Join(tmp, "root")
	opts := options{lowers: lowers, target: m.root}
	if err := os.Mkdir(m.root, 0o755); err != nil {
		return nil, errors.Join(err, os.RemoveAll(tmp))
	}
	if !readonly {
		opts.upper, opts.work = m.upper, filepath.Join(tmp, "work")
		if err := os.Mkdir(opts.work, 0o700); err != nil {
			return nil, errors.Join(err, os.RemoveAll(tmp))
		}
	}
	if err := o.mount(opts); err != nil {
		return nil, errors.Join(err, os.RemoveAll(tmp))
	}
	m.isMount = true
	return m, nil
}

// visible drops the directories below one whose root is opaque: the kernel
// does not look for that attribute there.
func visible(lowers []string) []string {
	for i := len(lowers) - 1; i > 0; i-- {
		for _, name := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
			var v [2]byte
			if n, err := unix.Lgetxattr(lowers[i], name, v[:]); err == nil && string(v[:n]) == "y" {
				return lowers[i:]
			}
		}
	}
	return lowers
}

// fold makes one directory of the lowest lowers, so that the kernel can stack
// it with the others.
func (o *Overlay) fold(ctx context.Context, lowers []string) ([]string, error) {
	n := mergeStep
	for len(lowers)-n+1 > maxLowers {
		n += mergeStep
	}
	key := strings.Join(lowers[:n], "\x00")
	o.mu.Lock()
	merge := o.merged[key]
	if merge == nil {
		merge = sync.OnceValues(func() (string, error) { return o.merge(ctx, lowers[:n]) })
		o.merged[key] = merge
	}
	o.mu.Unlock()
	dir, err := merge()
	if err != nil {
		o.mu.Lock()
		delete(o.merged, key)
		o.mu.Unlock()
		return nil, fmt.Errorf("merge the lowest %d layers: %w", n, err)
	}
	return append([]string{dir}, lowers[n:]...), nil
}

func (o *Overlay) merge(ctx context.Context, lowers []string) (string, error) {
	var view *fsdiff.View
	for _, l := range lowers {
		view = fsdiff.NewView(view, fsdiff.Dir(l))
	}
	dir, err := os.MkdirTemp(o.dir, "merged-")
	if err != nil {
		return "", err
	}
	if err := layertar.Materialize(ctx, view, dir); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// mounted is one mount and its directories: tmp/{upper,work,root}.
type mounted struct {
	dir              string // of the Overlay
	tmp, upper, root string
	isMount          bool
}

// makeUpper makes the upper directory, whose attributes are those of the root
// directory that the step sees: 0755, and the owner that the topmost layer
// gave it, as in containerd.
func (m *mounted) makeUpper(lowers []string) error {
	if err := os.Mkdir(m.upper, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(m.upper, 0o755); err != nil { // whatever the umask
		return err
	}
	if len(lowers) == 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Lstat(lowers[len(lowers)-1], &st); err != nil {
		return &os.PathError{Op: "lstat", Path: lowers[len(lowers)-1], Err: err}
	}
	if int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid() {
		return os.Lchown(m.upper, int(st.Uid), int(st.Gid))
	}
	return nil
}

func (m *mounted) unmount() error {
	if !m.isMount {
		return nil
	}
	err := unix.Unmount(m.root, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		// Somebody looks at it, or mounted something below; the name at least
		// is free.
		err = unix.Unmount(m.root, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil {
		return &os.PathError{Op: "unmount", Path: m.root, Err: err}
	}
	m.isMount = false
	return nil
}

func (m *mounted) commit(context.Context) (string, error) {
	if err := m.unmount(); err != nil {
		return "", err
	}
	change := filepath.Join(m.dir, "change-"+strings.TrimPrefix(filepath.Base(m.tmp), "root-"))
	if err := os.Rename(m.upper, change); err != nil {
		return "", err
	}
	if err := os.RemoveAll(m.tmp); err != nil {
		return "", errors.Join(err, os.RemoveAll(change))
	}
	return change, nil
}

func (m *mounted) discard() error {
	if err := m.unmount(); err != nil {
		return err // what is mounted must not be removed
	}
	return os.RemoveAll(m.tmp)
}
