// Package statedir is the directory that outlives builds.
//
//	engine ──▶ statedir ──blobs/ layers/ keys/ mounts/ git/ tmp/──▶ content, layer, buildcache, cachemount
//
// Any number of processes share one state dir without a lock: what is in it is
// immutable, named by content or key, made below tmp/ and renamed into place.
// Each process has its own directory in tmp/, under a lock that the kernel
// gives back when the process dies; whoever opens the state dir next removes
// what is left of it, mounts included.
package statedir

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A Dir is an open state dir.
type Dir struct {
	root string
	tmp  string   // this process's
	lock *os.File // held while the process lives
}

// Open makes root if need be, sweeps what dead processes left, and returns it.
func Open(root string) (*Dir, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	all := filepath.Join(root, "tmp")
	if err := os.MkdirAll(all, 0o711); err != nil {
		return nil, fmt.Errorf("state dir: %w", err)
	}
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return nil, fmt.Errorf("state dir: %w", err)
	}
	all = filepath.Join(root, "tmp")
	sweep(all)
	for {
		d, err := claim(root, all)
		if d != nil || err != nil {
			return d, err
		}
	}
}

// claim makes the process's directory; nil when a sweep took its lock file in
// the moment before it was locked.
func claim(root, all string) (*Dir, error) {
	tmp, err := os.MkdirTemp(all, "p")
	if err != nil {
		return nil, fmt.Errorf("state dir: %w", err)
	}
	if err := os.Chmod(tmp, 0o711); err != nil {
		return nil, fmt.Errorf("state dir: %w", err)
	}
	name := tmp + ".lock"
	lock, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state dir: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, nil
	}
	held, err1 := lock.Stat()
	there, err2 := os.Stat(name)
	if err1 != nil || err2 != nil || !os.SameFile(held, there) {
		lock.Close()
		os.RemoveAll(tmp)
		return nil, nil
	}
	return &Dir{root: root, tmp: tmp, lock: lock}, nil
}

// Root returns the absolute path.
func (d *Dir) Root() string { return d.root }

// Path returns the path of a part of the state dir.
func (d *Dir) Path(name string) string { return filepath.Join(d.root, name) }

// TmpDir returns the process's own directory.
func (d *Dir) TmpDir() string { return d.tmp }

// Tmp makes a new directory below TmpDir. It belongs to the caller, and goes
// with the process at the latest.
func (d *Dir) Tmp() (string, error) { return os.MkdirTemp(d.tmp, "") }

// Close removes the process's directory and what is mounted in it.
func (d *Dir) Close() error {
	err := remove(d.tmp)
	os.Remove(d.lock.Name())
	return errors.Join(err, d.lock.Close())
}

// sweep removes what dead processes left in tmp. Whatever cannot be removed is
// left to the next sweep.
func sweep(all string) {
	locks, err := filepath.Glob(filepath.Join(all, "p*.lock"))
	if err != nil {
		return
	}
	for _, name := range locks {
		lock, err := os.OpenFile(name, os.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			if remove(strings.TrimSuffix(name, ".lock")) == nil {
				os.Remove(name)
			}
		}
		lock.Close()
	}
}

// remove unmounts all below dir and removes it.
func remove(dir string) error {
	points, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, p := range slices.Backward(points) {
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	return os.RemoveAll(dir)
}

// mountsBelow returns the mount points below dir in the order they were made.
func mountsBelow(dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) > 4 {
			if p := unescape.Replace(fields[4]); strings.HasPrefix(p, dir+"/") {
				out = append(out, p)
			}
		}
	}
	return out, nil
}
