// Package cachemount keeps the directories of RUN --mount=type=cache.
//
//	op/exec ──id, sharing──▶ cachemount ──directory──▶ op/exec
//
// A directory outlives builds and is shared by all processes on a state dir;
// who may use it at once is said by flock, which a killed process gives back.
package cachemount

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Sharing says who may use a directory at once.
type Sharing int

const (
	Shared  Sharing = iota // everybody
	Private                // one user a directory: another user gets another directory
	Locked                 // one user: another user waits
)

// A Store keeps cache directories below a directory.
type Store struct {
	dir string
	tmp func() (string, error)

	mu    sync.Mutex
	fresh map[string]bool // ids emptied by this process
}

// New returns a Store in dir. tmp makes directories on the same file system.
func New(dir string, tmp func() (string, error)) *Store {
	return &Store{dir: dir, tmp: tmp, fresh: map[string]bool{}}
}

// A Mount is a directory in use.
type Mount struct {
	Dir  string
	lock *os.File
}

// Close gives the directory back.
func (m *Mount) Close() error { return m.lock.Close() }

const (
	pollLock   = 20 * time.Millisecond // between two tries for a lock
	maxPrivate = 1000                  // directories of one id
)

// Get returns the directory of id for a user. A new one is filled by fill,
// which may be nil.
func (s *Store) Get(ctx context.Context, id string, sharing Sharing, fill func(dir string) error) (*Mount, error) {
	sum := sha256.Sum256([]byte(id))
	base := filepath.Join(s.dir, hex.EncodeToString(sum[:16]))
	if err := os.MkdirAll(base, 0o711); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(base, "id"), []byte(id), 0o644); err != nil {
		return nil, err
	}
	switch sharing {
	case Private:
		for i := range maxPrivate {
			m, err := s.try(base, i, unix.LOCK_EX, fill)
			if m != nil || err != nil {
				return m, err
			}
		}
		return nil, fmt.Errorf("cache mount %s: more than %d private directories in use", id, maxPrivate)
	case Locked:
		return s.wait(ctx, base, unix.LOCK_EX, fill)
	}
	return s.wait(ctx, base, unix.LOCK_SH, fill)
}

func (s *Store) wait(ctx context.Context, base string, how int, fill func(string) error) (*Mount, error) {
	for {
		m, err := s.try(base, 0, how, fill)
		if m != nil || err != nil {
			return m, err
		}
		select {
		case <-time.After(pollLock):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// try returns the directory when its lock is free, nil when it is not.
func (s *Store) try(base string, i, how int, fill func(string) error) (*Mount, error) {
	name := filepath.Join(base, fmt.Sprint(i))
	lock, err := os.OpenFile(name+".lock", os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), how|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, err
	}
	dir := filepath.Join(name, "fs")
	if err := s.ensure(name, dir, fill); err != nil {
		lock.Close()
		return nil, err
	}
	return &Mount{Dir: dir, lock: lock}, nil
}

func (s *Store) ensure(name, dir string, fill func(string) error) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	tmp, err := s.tmp()
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	made := filepath.Join(tmp, "fs")
	if err := os.Mkdir(made, 0o755); err != nil {
		return err
	}
	if fill != nil {
		if err := fill(made); err != nil {
			return err
		}
	}
	if err := os.Chmod(tmp, 0o711); err != nil {
		return err
	}
	err = os.Rename(tmp, name)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil // somebody else was first
	}
	return err
}

// Empty throws the directories of id away, once in the life of this process:
// a build that ignores the cache starts without them. Those in use stay.
func (s *Store) Empty(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fresh[id] {
		return nil
	}
	s.fresh[id] = true
	sum := sha256.Sum256([]byte(id))
	base := filepath.Join(s.dir, hex.EncodeToString(sum[:16]))
	locks, err := filepath.Glob(filepath.Join(base, "*.lock"))
	if err != nil {
		return err
	}
	for _, l := range locks {
		if err := s.emptyOne(l); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) emptyOne(lockPath string) error {
	lock, err := os.OpenFile(lockPath, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer lock.Close()
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	tmp, err := s.tmp()
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	err = os.Rename(lockPath[:len(lockPath)-len(".lock")], filepath.Join(tmp, "old"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
