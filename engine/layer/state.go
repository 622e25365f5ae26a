// Package layer holds file systems as chains of layers, each in whatever form
// is at hand.
//
//	source/image, buildcache ──Blob──▶ ┌───────┐ ──Dirs──▶ snapshot (lower dirs)
//	op/file ───────────────────Diff──▶ │ State │ ──View──▶ contenthash, op/file
//	op/exec ────────────────────Dir──▶ └───────┘ ──Blob──▶ exporter, remotecache
//
// A layer is a blob (here or at an Origin), a directory of the state dir, or a
// fsdiff.Diff in memory; each form is made from another when it is first asked
// for, once, and the layers of a chain side by side. A layer that came from a
// remote cache or registry costs nothing until its files or bytes are needed.
package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/engine/compression"
	"github.com/mayfly-build/mayfly/engine/content"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/internal/memo"
)

// ErrLost is in the chain of an error that says that a blob which a cache
// promised cannot be had: evicted, expired, truncated or corrupt.
var ErrLost = errors.New("lost from the cache")

// A LostError is an ErrLost that says which blob. It is final: whoever reads
// the blob to send it need not try that again.
type LostError struct {
	Blob digest.Digest
	Err  error
}

func (e *LostError) Error() string        { return ErrLost.Error() + ": " + e.Err.Error() }
func (e *LostError) Unwrap() error        { return e.Err }
func (e *LostError) Is(target error) bool { return target == ErrLost }

// Retry implements retry.Advisor.
func (e *LostError) Retry() (again bool, after time.Duration) { return false, 0 }

// A State is a root file system: a layer and those below it. The nil *State
// is the empty root (scratch). States are immutable and shared; all methods
// may be called at once.
type State struct {
	store  *Store
	parent *State
	info   Info

	of  *State      // the same layer on another parent, which holds the forms; nil: s does
	mem fsdiff.Diff // the form a file operation makes; nil otherwise

	mu    sync.Mutex
	id    string // name in the state dir's layers; "" while it has none
	dir   string // made by a step, ready to be a lower directory
	blobs []Blob // known forms, the one to prefer first

	dirMade  memo.Memo[string]
	viewMade memo.Memo[*fsdiff.View]
	making   map[compression.Config]*memo.Memo[Blob]
}

// Info is what a layer's history says.
type Info struct {
	Description string    // of the step that made it
	Created     time.Time // zero when unknown
}

// A Blob is a layer as a registry stores it.
type Blob struct {
	Desc   ocispec.Descriptor // MediaType as OCI names it; Digest and Size as stored
	DiffID digest.Digest      // of the uncompressed tar; "" when not known yet
	Origin Origin             // where its bytes are; nil: in the local content store
}

// An Origin is where blobs can be read that are not here. Origins are compared
// with ==.
type Origin interface {
	// Open reads a blob from byte off. The caller closes.
	Open(ctx context.Context, desc ocispec.Descriptor, off int64) (io.ReadCloser, error)
	// Repository is the registry repository the blobs are in, as
	// "host/name"; "" when it is none.
	Repository() string
	// IsCache says that the blobs may vanish: what cannot be read is made anew.
	IsCache() bool
}

// A Witness is a cache's Origin that is told which of its blobs are of no use,
// and why: they could not be read, or are not what they should be. Lost may be
// called from several goroutines at once.
type Witness interface {
	Origin
	Lost(desc ocispec.Descriptor, err error)
}

// Parent returns the layers below.
func (s *State) Parent() *State { return s.parent }

// Info returns the layer's history.
func (s *State) Info() Info { return s.info }

// Chain returns the layers from the bottom up; none for scratch.
func (s *State) Chain() []*State {
	var out []*State
	for l := s; l != nil; l = l.parent {
		out = append(out, l)
	}
	slices.Reverse(out)
	return out
}

// Blobs returns the blobs that the layer is known as, without making one.
func (s *State) Blobs() []Blob {
	if s.of != nil {
		return s.of.Blobs()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.blobs)
}

// isLocal reports whether the layer's files can be had without any Origin.
func (s *State) isLocal() bool {
	if s.of != nil {
		return s.of.isLocal()
	}
	if s.mem != nil {
		return true
	}
	if _, ok := s.dirMade.Peek(); ok {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir != "" {
		return true
	}
	return slices.ContainsFunc(s.blobs, func(b Blob) bool { return b.Origin == nil || s.store.content.Has(b.Desc) })
}

// Usable reports whether no blob of the chain is known to be lost.
func (s *State) Usable() bool {
	for l := s; l != nil; l = l.parent {
		if !l.hasForm() {
			return false
		}
	}
	return true
}

// hasForm reports whether the layer itself can be had, whatever of those below.
func (s *State) hasForm() bool { return s.isLocal() || len(s.Blobs()) > 0 }

// lose drops a blob that its origin cannot give.
func (s *State) lose(b Blob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs = slices.DeleteFunc(s.blobs, func(x Blob) bool { return x.Desc.Digest == b.Desc.Digest && x.Origin == b.Origin })
}

func (s *State) addBlob(b Blob) {
	s.mu.Lock()
	s.blobs = append(s.blobs, b)
	id := s.id
	s.mu.Unlock()
	if id != "" {
		s.store.writeBlobs(id, s.Blobs())
	}
}

// diffID returns the layer's diff ID, "" when it has none yet.
func (s *State) diffID() digest.Digest {
	for _, b := range s.Blobs() {
		if b.DiffID != "" {
			return b.DiffID
		}
	}
	return ""
}

// chainID returns the chain ID (OCI image-spec, config.md) when every layer's
// diff ID is known.
func (s *State) chainID() (digest.Digest, bool) {
	var ids []digest.Digest
	for _, l := range s.Chain() {
		d := l.diffID()
		if d == "" {
			return "", false
		}
		ids = append(ids, d)
	}
	return identity.ChainID(ids), true
}

// Dirs returns the directories of the chain, bottom first, in overlay format,
// making those that are not there. They must not be changed.
func (s *State) Dirs(ctx context.Context) ([]string, error) {
	chain := s.Chain()
	out := make([]string, len(chain))
	g, ctx := errgroup.WithContext(ctx)
	for i, l := range chain {
		g.Go(func() (err error) {
			out[i], err = l.Dir(ctx)
			return err
		})
	}
	return out, g.Wait()
}

// Dir returns the directory of this layer alone.
func (s *State) Dir(ctx context.Context) (string, error) {
	if s.of != nil {
		return s.of.Dir(ctx)
	}
	return getAgain(ctx, &s.dirMade, func(ctx context.Context) (string, error) {
		if s.dir != "" {
			return s.dir, nil
		}
		if s.mem != nil {
			return s.store.materialize(ctx, s)
		}
		return s.store.unpack(ctx, s)
	})
}

// getAgain returns what m holds. A lost blob is not for ever: the layer may have
// another origin by the time somebody asks again.
func getAgain[T any](ctx context.Context, m *memo.Memo[T], make func(context.Context) (T, error)) (T, error) {
	v, err := m.Get(ctx, make)
	if errors.Is(err, ErrLost) {
		m.Retry()
	}
	return v, err
}

// Diff returns what this layer changes.
func (s *State) Diff(ctx context.Context) (fsdiff.Diff, error) {
	if s.mem != nil {
		return s.mem, nil
	}
	v, err := s.View(ctx)
	if err != nil {
		return nil, err
	}
	ds := v.Diffs()
	return ds[len(ds)-1], nil
}

// View returns the root file system, to be read without a mount.
func (s *State) View(ctx context.Context) (*fsdiff.View, error) {
	if s == nil {
		return nil, nil
	}
	return getAgain(ctx, &s.viewMade, func(ctx context.Context) (*fsdiff.View, error) {
		var dir string
		var below *fsdiff.View
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() (err error) {
			below, err = s.parent.View(ctx)
			return err
		})
		if s.mem == nil {
			g.Go(func() (err error) {
				dir, err = s.Dir(ctx)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		if s.mem != nil {
			return fsdiff.NewView(below, s.mem), nil
		}
		return fsdiff.NewView(below, fsdiff.Dir(dir)), nil
	})
}

// Blob returns the layer as a blob. Without force any blob the layer is known
// as will do; with it the blob has the compression of c. A new blob goes to
// the content store.
func (s *State) Blob(ctx context.Context, c compression.Config, force bool) (Blob, error) {
	if s.of != nil {
		return s.of.Blob(ctx, c, force)
	}
	if b, ok := s.known(c, force); ok {
		return b, nil
	}
	s.mu.Lock()
	if s.making == nil {
		s.making = map[compression.Config]*memo.Memo[Blob]{}
	}
	m, ok := s.making[c]
	if !ok {
		m = &memo.Memo[Blob]{}
		s.making[c] = m
	}
	s.mu.Unlock()
	return getAgain(ctx, m, func(ctx context.Context) (Blob, error) {
		known := len(s.Blobs())
		b, err := s.store.makeBlob(ctx, s, c)
		for errors.Is(err, ErrLost) && len(s.Blobs()) < known { // another origin, or the files, may do
			known = len(s.Blobs())
			b, err = s.store.makeBlob(ctx, s, c)
		}
		if err != nil {
			return Blob{}, fmt.Errorf("layer of %q: %w", s.info.Description, err)
		}
		s.addBlob(b)
		return b, nil
	})
}

func (s *State) known(c compression.Config, force bool) (Blob, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.blobs {
		t, err := compression.FromMediaType(b.Desc.MediaType)
		if b.DiffID != "" && (!force || err == nil && t == c.Type) {
			return b, true
		}
	}
	return Blob{}, false
}

// Open reads a blob of the layer from its start: from the content store when
// it is there, else from its origin. The bytes are checked against the
// descriptor: the last Read fails when they are not the blob's.
func (s *State) Open(ctx context.Context, b Blob) (io.ReadCloser, error) {
	if s.of != nil {
		s = s.of
	}
	return s.store.open(ctx, s, b)
}

// Kept reports whether every layer of the chain is in the state dir.
func (s *State) Kept() bool {
	for l := s; l != nil; l = l.parent {
		k := l
		if k.of != nil {
			k = k.of
		}
		k.mu.Lock()
		id := k.id
		k.mu.Unlock()
		if id == "" {
			return false
		}
	}
	return true
}

// OpenAt reads a blob of the layer at any place; a blob that is only at its
// origin comes to the content store first. The caller closes.
func (s *State) OpenAt(ctx context.Context, b Blob) (*content.Blob, error) {
	if s.of != nil {
		s = s.of
	}
	st := s.store
	if r, err := st.content.Open(b.Desc); err == nil {
		return r, nil
	}
	r, err := s.Open(ctx, b)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := st.content.Ingest(ctx, b.Desc, r); err != nil {
		return nil, st.blame(ctx, s, b, err)
	}
	return st.content.Open(b.Desc)
}
