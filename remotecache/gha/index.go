package gha

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/mayfly-build/mayfly/remotecache"
)

// maxIndex bounds what is read as an index.
const maxIndex = 256 * mib

// branch returns the scope whose index is this job's: the one that is written
// to, and where there is none, the first that may be read.
func (b *Backend) branch() string {
	if s, ok := b.token.writable(); ok {
		return s
	}
	if list := b.token.readable(); len(list) > 0 {
		return list[0]
	}
	return ""
}

// LoadIndex implements remotecache.Backend: the Index that this job would
// replace, which is that of its own branch. See LoadIndexes for what it may
// use besides.
func (b *Backend) LoadIndex(ctx context.Context, ref string) (*remotecache.Index, error) {
	idx, err := b.loadBranch(ctx, ref, b.branch())
	if err != nil {
		return nil, remotecache.Tried(fmt.Errorf("load cache index %q: %w", scopeOf(ref), err))
	}
	return idx, nil
}

// LoadIndexes returns the indexes of a ref in all branches that the job may
// read, in the order of preference: its own branch's first. The error is
// ErrNotFound when there is none. When some could not be read, it returns the
// others together with the error. Only that of the own branch has a Version.
func (b *Backend) LoadIndexes(ctx context.Context, ref string) ([]*remotecache.Index, error) {
	branches := b.token.readable()
	found := make([]*remotecache.Index, len(branches))
	errs := make([]error, len(branches))
	var g sync.WaitGroup
	for i, branch := range branches {
		g.Go(func() { found[i], errs[i] = b.loadBranch(ctx, ref, branch) })
	}
	g.Wait()
	var out []*remotecache.Index
	var trouble []error
	for i, branch := range branches {
		switch {
		case errs[i] == nil:
			if branch != b.branch() {
				found[i].Version = "" // it is none of the index that we may save
			}
			out = append(out, found[i])
		case !errors.Is(errs[i], remotecache.ErrNotFound):
			trouble = append(trouble, fmt.Errorf("load cache index %q of %s: %w", scopeOf(ref), branch, errs[i]))
		}
	}
	if len(out) == 0 && len(trouble) == 0 {
		return nil, fmt.Errorf("load cache index %q: %w", scopeOf(ref), remotecache.ErrNotFound)
	}
	return out, remotecache.Tried(errors.Join(trouble...))
}

// loadBranch returns the newest Index of a ref in one branch.
func (b *Backend) loadBranch(ctx context.Context, ref, branch string) (*remotecache.Index, error) {
	if !b.cfg.Mode.reads() {
		return nil, fmt.Errorf("the job's cache-mode is %q: %w", b.cfg.Mode, remotecache.ErrNotFound)
	}
	key := indexKey(scopeOf(ref), branch)
	n, e, err := b.newest(ctx, key)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, remotecache.ErrNotFound
	}
	r, err := b.fetch(ctx, e.key, -1, 0, 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, maxIndex+1))
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	if len(data) > maxIndex {
		return nil, fmt.Errorf("it has more than %d bytes: %w", maxIndex, remotecache.ErrCorrupt)
	}
	idx, err := remotecache.Decode(data)
	if err != nil {
		return nil, err
	}
	idx.Version = strconv.FormatInt(n, 10)
	return idx, nil
}

// newest returns the entry that is the state of an index now, and its number;
// 0 when there is none.
func (b *Backend) newest(ctx context.Context, key string) (int64, entry, error) {
	e, ok, err := b.lookup(ctx, key+"#", true)
	if err != nil || !ok {
		return 0, entry{}, err
	}
	n, ok := numberOf(key, e.key)
	if !ok {
		return 0, entry{}, fmt.Errorf("the entry %q has no number: %w", oneLine(e.key, 80), remotecache.ErrCorrupt)
	}
	// The clock of act, gitea and forgejo has whole seconds: of entries that
	// were made in one, any may be said to be the newest.
	for b.cfg.Version == 1 {
		next, ok, err := b.lookup(ctx, numbered(key, n+1), false)
		if err != nil || !ok {
			return n, e, err
		}
		n, e = n+1, next
	}
	return n, e, nil
}

// SaveIndex implements remotecache.Backend. Reserving the number after the
// newest one is what makes it conditional. A number that another job has
// reserved is waited for, and skipped when nothing comes of it.
func (b *Backend) SaveIndex(ctx context.Context, ref string, idx *remotecache.Index) error {
	err := remotecache.CheckRef(ref)
	if err != nil {
		return err
	}
	var data []byte
	if err = b.Writable(); err == nil {
		data, err = idx.EncodeAnnotated()
	}
	if err == nil {
		s := saving{b: b, key: indexKey(scopeOf(ref), b.branch()), version: idx.Version, data: data}
		err = s.run(ctx)
	}
	if err != nil {
		return remotecache.Tried(fmt.Errorf("save cache index %q: %w", scopeOf(ref), err))
	}
	return nil
}

// saving is one call of SaveIndex.
type saving struct {
	b       *Backend
	key     string
	version string // what the index must have now; "" for any
	data    []byte

	waited time.Duration // for entries of other jobs
	pause  time.Duration // before the next look at them
}

func (s *saving) run(ctx context.Context) error {
	s.pause = firstLook
	for {
		now, err := s.newest(ctx)
		if err != nil {
			return err
		}
		if err := s.unchanged(now); err != nil {
			return err
		}
		saved, err := s.after(ctx, now)
		if saved || err != nil {
			return err
		}
	}
}

// newest returns the number of the index now.
func (s *saving) newest(ctx context.Context) (int64, error) {
	if !s.b.cfg.Mode.reads() {
		// The job may write but not look: a clock gives numbers that grow, too.
		return time.Now().Unix(), nil
	}
	n, _, err := s.b.newest(ctx, s.key)
	return n, err
}

func (s *saving) unchanged(now int64) error {
	version := remotecache.Absent
	if now > 0 {
		version = strconv.FormatInt(now, 10)
	}
	if s.version == "" || s.version == version || !s.b.cfg.Mode.reads() {
		return nil
	}
	return remotecache.ErrConflict
}

// after saves the index with the first number after now that is free. It is
// false when by now there is another index.
func (s *saving) after(ctx context.Context, now int64) (saved bool, err error) {
	for n := now + 1; ; {
		key := numbered(s.key, n)
		err := s.b.store(ctx, key, int64(len(s.data)), bytes.NewReader(s.data), func(context.Context) error { return nil })
		if !errors.Is(err, errExists) {
			return err == nil, err
		}
		again, skip, err := s.look(ctx, now, key)
		switch {
		case err != nil:
			return false, err
		case again:
			return false, nil
		case skip:
			n++
		}
	}
}

// look waits for what becomes of a key that is taken. again: there is another
// index than now. skip: there is none and will be none.
func (s *saving) look(ctx context.Context, now int64, key string) (again, skip bool, err error) {
	if !s.b.cfg.Mode.reads() {
		return false, true, nil
	}
	for {
		// In this order: what is there when it is looked up has its say in
		// which index is the newest after that.
		_, there, err := s.b.lookup(ctx, key, false)
		if err != nil {
			return false, false, err
		}
		n, err := s.newest(ctx)
		switch {
		case err != nil || n != now:
			return true, false, err
		case there:
			return false, true, nil // and yet not the newest
		}
		if s.waited+s.pause > s.b.cfg.Patience {
			return false, true, nil
		}
		if err := sleep(ctx, s.pause); err != nil {
			return false, false, err
		}
		s.waited += s.pause
		s.pause = min(2*s.pause, lastLook)
	}
}
