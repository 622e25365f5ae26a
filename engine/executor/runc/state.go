package runc

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/runc/libcontainer/exeseal"
	"golang.org/x/sys/unix"
)

// lockedDir makes the state directory of a container. The lock tells sweepState
// that it is in use; unlock comes after the directory's removal.
func (e *Executor) lockedDir(id string) (dir string, unlock func(), err error) {
	dir = filepath.Join(e.state, id)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return "", nil, fmt.Errorf("make state directory of container: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		_ = os.Remove(dir)
		return "", nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		_ = f.Close()
		_ = os.Remove(dir)
		return "", nil, fmt.Errorf("lock state directory of container: %w", err)
	}
	return dir, func() { _ = f.Close() }, nil
}

// sweepAge keeps sweepState off a directory that is made but not locked yet.
const sweepAge = time.Minute

// sweepState removes what containers left whose process was killed.
func sweepState(state string) {
	entries, _ := os.ReadDir(state)
	for _, entry := range entries {
		if info, err := entry.Info(); err != nil || !entry.IsDir() || time.Since(info.ModTime()) < sweepAge {
			continue
		}
		path := filepath.Join(state, entry.Name())
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(path)
		}
		_ = f.Close()
	}
}

// sealedExe opens our binary in a form that a container, which sees it as
// /proc/self/exe for a moment, cannot write to: a read-only overlay of it, or a
// sealed copy in memory. dir is any directory.
func sealedExe(dir string) (*os.File, error) {
	f, err := exeseal.CloneSelfExe(dir)
	if err != nil {
		return nil, fmt.Errorf("seal our binary: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("seal our binary: %w", err)
	}
	if st.Type == unix.OVERLAYFS_SUPER_MAGIC || exeseal.IsCloned(f) {
		return f, nil
	}
	// A plain temporary copy could be changed by one container and run by the
	// next.
	_ = f.Close()
	return nil, fmt.Errorf("seal our binary: no overlay and no memfd on this kernel (file system %s)", strconv.FormatInt(int64(st.Type), 16))
}
