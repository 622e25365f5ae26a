// Package cachemount keeps the directories of RUN --mount=type=cache.
//
//	op/exec ──Want──▶ cachemount ──Mount──▶ op/exec
//	                    │  ▲
//	                 Restore  Used, Open ──▶ engine: from and to remote caches
//
// A directory outlives builds and is shared by all processes on a state dir;
// who may use it at once is said by flock, which a killed process gives back.
// One that is not there is first asked for from elsewhere: see Restore.
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
	"slices"
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

// A Config says where directories are and come from.
type Config struct {
	Dir string                 // of the Store; made when missing; required
	Tmp func() (string, error) // makes a directory on the same file system; required

	// Restore, unless nil, is asked for a directory that is not there.
	Restore Restore
}

// A Restore fills an empty directory with what another machine left, and
// reports whether it did; otherwise the directory is empty still. It runs
// under a lock that no other process or goroutine has for the directory at the
// same time, and is not asked again for a directory that is there. The error
// is one that ends the step: that of ctx, or of this machine.
type Restore func(ctx context.Context, u Use, at Place) (bool, error)

// A Use is an id and the platform of the steps that use it. Steps of several
// platforms share the directory of an id, as in BuildKit; from elsewhere it
// comes for the platform of the first.
type Use struct {
	ID       string
	Platform string // "linux/amd64"
}

// A Place is where a directory is.
type Place struct {
	Dir   string
	Notes string // a file beside it for whoever restores and saves it; steps do not see it
}

// A Store keeps cache directories below a directory.
type Store struct {
	cfg Config

	mu    sync.Mutex      // guards the fields below
	fresh map[string]bool // ids emptied by this process
	used  []Use
}

// New returns a Store.
func New(cfg Config) *Store {
	return &Store{cfg: cfg, fresh: map[string]bool{}}
}

// A Want is a directory that a step asks for.
type Want struct {
	Use
	Sharing Sharing
	Fill    func(dir string) error // makes the content of one that is new and was not restored; nil means none
}

// A Mount is a directory in use.
type Mount struct {
	Place
	lock *os.File
}

// Close gives the directory back.
func (m *Mount) Close() error { return m.lock.Close() }

const (
	pollLock   = 20 * time.Millisecond // between two tries for a lock
	maxPrivate = 1000                  // directories of one id
)

// base returns the directory of an id's directories.
func (s *Store) base(id string) string {
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(s.cfg.Dir, hex.EncodeToString(sum[:16]))
}

// Get returns a directory of an id for a user, the first one unless that is
// somebody's Private one. A new one is restored or filled.
func (s *Store) Get(ctx context.Context, w Want) (*Mount, error) {
	base := s.base(w.ID)
	if err := os.MkdirAll(base, 0o711); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(base, "id"), []byte(w.ID), 0o644); err != nil {
		return nil, err
	}
	switch w.Sharing {
	case Private:
		for i := range maxPrivate {
			m, err := s.try(ctx, base, i, unix.LOCK_EX, w)
			if m != nil || err != nil {
				return m, err
			}
		}
		return nil, fmt.Errorf("cache mount %s: more than %d private directories in use", w.ID, maxPrivate)
	case Locked:
		return s.wait(ctx, base, unix.LOCK_EX, w)
	}
	return s.wait(ctx, base, unix.LOCK_SH, w)
}

// Used returns the ids whose first directory was given out, in the order of
// their first use.
func (s *Store) Used() []Use {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.used)
}

// Open returns the first directory of an id for reading: nobody has it Locked
// or Private meanwhile. The error is fs.ErrNotExist when there is none.
func (s *Store) Open(ctx context.Context, id string) (*Mount, error) {
	base := s.base(id)
	for {
		lock, err := tryLock(base+"/0.lock", unix.LOCK_SH)
		if err != nil {
			return nil, err
		}
		if lock != nil {
			m := &Mount{Place: placeIn(filepath.Join(base, "0")), lock: lock}
			if _, err := os.Lstat(m.Dir); err != nil {
				lock.Close()
				return nil, err
			}
			return m, nil
		}
		if err := pause(ctx); err != nil {
			return nil, err
		}
	}
}

func placeIn(dir string) Place {
	return Place{Dir: filepath.Join(dir, "fs"), Notes: filepath.Join(dir, "notes")}
}

func (s *Store) wait(ctx context.Context, base string, how int, w Want) (*Mount, error) {
	for {
		m, err := s.try(ctx, base, 0, how, w)
		if m != nil || err != nil {
			return m, err
		}
		if err := pause(ctx); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-time.After(pollLock):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tryLock returns the file that holds a lock, nil when somebody else has it.
func tryLock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, err
	}
	return f, nil
}

// try returns the directory when its lock is free, nil when it is not.
func (s *Store) try(ctx context.Context, base string, i, how int, w Want) (*Mount, error) {
	name := filepath.Join(base, fmt.Sprint(i))
	lock, err := tryLock(name+".lock", how)
	if lock == nil || err != nil {
		return nil, err
	}
	if err := s.ensure(ctx, name, i, w); err != nil {
		lock.Close()
		return nil, err
	}
	if i == 0 {
		s.mu.Lock()
		if !slices.Contains(s.used, w.Use) {
			s.used = append(s.used, w.Use)
		}
		s.mu.Unlock()
	}
	return &Mount{Place: placeIn(name), lock: lock}, nil
}

// ensure makes a directory that is not there. Of those who want it at once one
// makes it, and the others wait.
func (s *Store) ensure(ctx context.Context, name string, i int, w Want) error {
	there := func() bool { _, err := os.Lstat(placeIn(name).Dir); return err == nil }
	if there() {
		return nil
	}
	for {
		lock, err := tryLock(name+".making", unix.LOCK_EX)
		if err != nil {
			return err
		}
		if lock != nil {
			defer lock.Close()
			break
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
	if there() {
		return nil
	}
	tmp, err := s.cfg.Tmp()
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := s.make(ctx, placeIn(tmp), i, w); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o711); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

func (s *Store) make(ctx context.Context, at Place, i int, w Want) error {
	if err := os.Mkdir(at.Dir, 0o755); err != nil {
		return err
	}
	s.mu.Lock()
	restore := i == 0 && s.cfg.Restore != nil && !s.fresh[w.ID]
	s.mu.Unlock()
	if restore {
		if done, err := s.cfg.Restore(ctx, w.Use, at); done || err != nil {
			return err
		}
	}
	if w.Fill == nil {
		return nil
	}
	return w.Fill(at.Dir)
}

// Empty throws the directories of id away, once in the life of this process:
// a build that ignores the cache starts without them, and what is elsewhere is
// not restored. Those in use stay.
func (s *Store) Empty(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fresh[id] {
		return nil
	}
	s.fresh[id] = true
	locks, err := filepath.Glob(filepath.Join(s.base(id), "*.lock"))
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
	tmp, err := s.cfg.Tmp()
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
