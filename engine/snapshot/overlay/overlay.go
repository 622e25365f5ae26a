// Package overlay mounts root file systems with Linux's overlayfs.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/snapshot"
)

// maxLowers is how many lower directories the kernel stacks (fs/overlayfs,
// OVL_MAX_STACK).
const maxLowers = 500

// An Overlay mounts with overlayfs.
type Overlay struct {
	dir      string
	volatile func() bool
	newAPI   func() bool
}

// New returns an Overlay.
func New(cfg snapshot.Config) (*Overlay, error) {
	return &Overlay{
		dir:      cfg.Dir,
		volatile: sync.OnceValue(func() bool { return kernelAtLeast(5, 10) }),
		newAPI:   sync.OnceValue(func() bool { return kernelAtLeast(6, 8) }),
	}, nil
}

// Name returns "overlay".
func (o *Overlay) Name() string { return "overlay" }

// Probe returns why overlay mounts do not work in dir, nil when they do.
func Probe(dir string) error {
	tmp, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	lower := filepath.Join(tmp, "lower")
	if err := os.Mkdir(lower, 0o755); err != nil {
		return err
	}
	o, err := New(snapshot.Config{Dir: tmp})
	if err != nil {
		return err
	}
	m, err := o.Mount(context.Background(), []string{lower}, false)
	if err != nil {
		return err
	}
	return m.Discard()
}

// Mount stacks lowers. A root that needs no stacking is not mounted at all.
func (o *Overlay) Mount(ctx context.Context, lowers []string, readonly bool) (*snapshot.Mounted, error) {
	if readonly && len(lowers) == 1 {
		return snapshot.NewMounted(lowers[0], refuseCommit, func() error { return nil }), nil
	}
	if len(lowers) > maxLowers {
		return nil, fmt.Errorf("overlay: %d layers, the kernel stacks %d", len(lowers), maxLowers)
	}
	tmp, err := os.MkdirTemp(o.dir, "root-")
	if err != nil {
		return nil, err
	}
	m := &mounted{tmp: tmp, upper: filepath.Join(tmp, "upper"), root: filepath.Join(tmp, "root")}
	if err := m.mount(o, lowers, readonly); err != nil {
		os.RemoveAll(tmp)
		return nil, err
	}
	commit := m.commit
	if readonly {
		commit = refuseCommit
	}
	return snapshot.NewMounted(m.root, commit, m.discard), nil
}

func refuseCommit(context.Context) (string, error) {
	return "", errors.New("overlay: a read-only root has no changes")
}

type mounted struct {
	tmp, upper, root string
	isMount          bool
}

func (m *mounted) mount(o *Overlay, lowers []string, readonly bool) error {
	dirs := []string{m.upper}
	if len(lowers) > 0 {
		dirs = append(dirs, m.root, m.work())
	}
	for _, d := range dirs {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if len(lowers) == 0 {
		m.root = m.upper
		return nil
	}
	opts := []string{"index=off", "metacopy=off", "redirect_dir=off"}
	if !readonly {
		opts = append(opts, "upperdir="+m.upper, "workdir="+m.work())
		if o.volatile() {
			opts = append(opts, "volatile")
		}
	}
	err := errors.ErrUnsupported
	if o.newAPI() {
		err = fsmount(lowers, opts, m.root)
	}
	if err != nil {
		if err2 := m.oldMount(lowers, opts); err2 != nil {
			return fmt.Errorf("overlay mount of %d layers: %w", len(lowers), err2)
		}
	}
	m.isMount = true
	return nil
}

func (m *mounted) work() string { return filepath.Join(m.tmp, "work") }

// fsmount mounts with the kernel's file system context, which takes the lower
// directories one by one and so has no limit on their paths' length.
func fsmount(lowers, opts []string, target string) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	for i := range lowers {
		if err := unix.FsconfigSetString(fs, "lowerdir+", lowers[len(lowers)-1-i]); err != nil { // the topmost first
			return err
		}
	}
	for _, opt := range opts {
		k, v, ok := strings.Cut(opt, "=")
		if ok {
			err = unix.FsconfigSetString(fs, k, v)
		} else {
			err = unix.FsconfigSetFlag(fs, k)
		}
		if err != nil {
			return fmt.Errorf("option %s: %w", opt, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	return unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// oldMount mounts with mount(2), whose options fit in a page: the lower
// directories get short names, relative to a working directory that only a
// thread of its own has.
func (m *mounted) oldMount(lowers, opts []string) error {
	links := filepath.Join(m.tmp, "l")
	if err := os.Mkdir(links, 0o755); err != nil {
		return err
	}
	names := make([]string, len(lowers))
	for i, l := range lowers {
		name := strconv.Itoa(i)
		if err := os.Symlink(l, filepath.Join(links, name)); err != nil {
			return err
		}
		names[len(lowers)-1-i] = "l/" + name // the topmost first
	}
	data := strings.Join(append([]string{"lowerdir=" + strings.Join(names, ":")}, opts...), ",")
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			if err := unix.Chdir(m.tmp); err != nil {
				return err
			}
			return unix.Mount("overlay", m.root, "overlay", 0, data)
		}()
	}()
	return <-result
}

func (m *mounted) unmount() error {
	if !m.isMount {
		return nil
	}
	m.isMount = false
	err := unix.Unmount(m.root, 0)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(m.root, unix.MNT_DETACH)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", m.root, err)
	}
	return nil
}

func (m *mounted) commit(context.Context) (string, error) {
	if err := m.unmount(); err != nil {
		return "", err
	}
	os.RemoveAll(m.work())
	return m.upper, nil
}

func (m *mounted) discard() error {
	return errors.Join(m.unmount(), os.RemoveAll(m.tmp))
}

func kernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var a, b int
	if n, _ := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a > major || a == major && b >= minor
}
