package layer

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/compression"
	"github.com/mayfly-build/mayfly/engine/content"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/layertar"
	"github.com/mayfly-build/mayfly/engine/progress"
	"github.com/mayfly-build/mayfly/engine/statedir"
)

// Config is what a Store needs.
type Config struct {
	Dir      string                 // layers of the state dir
	Content  *content.Store         // blobs of the state dir
	Tmp      func() (string, error) // makes a directory on Dir's file system
	Parallel int                    // layers unpacked at once; 0 means 4

	// Origin returns the origin of a repository that layers of the state dir
	// came from ("host/name"); nil means that there are none.
	Origin func(repository string) Origin
}

// A Store makes States and keeps layers in the state dir, which any number of
// processes share: a layer is an immutable directory, renamed into place.
type Store struct {
	dir     string
	content *content.Store
	tmp     func() (string, error)
	slots   chan struct{}
	origin  func(string) Origin

	mu       sync.Mutex
	interned map[blobKey]*State
	loaded   map[loadedKey]*State
	lost     map[lostBlob]bool
}

// A loadedKey is a layer of the state dir on a parent.
type loadedKey struct {
	parent *State
	id     string
}

// New returns the store of a state dir, which is made when missing.
func New(cfg Config) (*Store, error) {
	if cfg.Parallel == 0 {
		cfg.Parallel = 4
	}
	if err := os.MkdirAll(cfg.Dir, 0o711); err != nil {
		return nil, err
	}
	return &Store{dir: cfg.Dir, content: cfg.Content, tmp: cfg.Tmp, slots: make(chan struct{}, cfg.Parallel), interned: map[blobKey]*State{}, loaded: map[loadedKey]*State{}, lost: map[lostBlob]bool{}, origin: cfg.Origin}, nil
}

// FromBlob returns parent with a layer on top that is known as a blob. Equal
// blobs on one parent are one State, which then has all their origins.
func (st *Store) FromBlob(parent *State, b Blob, info Info) *State {
	k := blobKey{parent, b.Desc.Digest}
	st.mu.Lock()
	defer st.mu.Unlock()
	s, ok := st.interned[k]
	if !ok {
		s = &State{store: st, parent: parent, info: info}
		st.interned[k] = s
	}
	if st.lost[lostBlob{b.Desc.Digest, b.Origin}] {
		return s
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.blobs, func(x Blob) bool { return x.Origin == b.Origin }) {
		s.blobs = append(s.blobs, b)
	}
	return s
}

// A lostBlob is a blob that an origin promised and did not give.
type lostBlob struct {
	digest digest.Digest
	origin Origin
}

type blobKey struct {
	parent *State
	digest digest.Digest
}

// FromDiff returns parent with a layer on top that is held in memory.
func (st *Store) FromDiff(parent *State, d fsdiff.Diff, info Info) *State {
	return &State{store: st, parent: parent, info: info, mem: d}
}

// FromDir returns parent with a layer on top made of dir, a directory in
// overlay format on the state dir's file system, which is moved away.
func (st *Store) FromDir(parent *State, dir string, info Info) (*State, error) {
	s := &State{store: st, parent: parent, info: info}
	id := "step-" + randomName()
	place, err := st.place(id, dir, s)
	if err != nil {
		return nil, err
	}
	s.id, s.dir = id, place
	return s, nil
}

// Rebase returns s's own layer on top of another parent. The two share their
// forms: what is made for one serves the other.
func (st *Store) Rebase(parent *State, s *State) *State {
	if s.of != nil {
		s = s.of
	}
	return &State{store: st, parent: parent, info: s.info, mem: s.mem, of: s}
}

// meta is the file meta.json of a layer directory.
type meta struct {
	Description string    `json:"description,omitempty"`
	Created     time.Time `json:"created,omitzero"`
	FS          bool      `json:"fs"` // the directory fs holds the files
}

type blobMeta struct {
	Descriptor ocispec.Descriptor `json:"descriptor"`
	DiffID     digest.Digest      `json:"diffID"`
	Repository string             `json:"repository,omitempty"` // where it can be read
}

// place files dir as the files of layer id and returns where they are now. A
// layer of that name that is there already is as good.
func (st *Store) place(id, dir string, s *State) (string, error) {
	final := filepath.Join(st.dir, id)
	tmp, err := st.tmp()
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if dir != "" {
		if err := os.Rename(dir, filepath.Join(tmp, "fs")); err != nil {
			return "", err
		}
	}
	if err := writeSealed(filepath.Join(tmp, "meta.json"), meta{Description: s.info.Description, Created: s.info.Created, FS: dir != ""}); err != nil {
		return "", err
	}
	if blobs := blobMetas(s.Blobs()); len(blobs) > 0 {
		if err := writeSealed(filepath.Join(tmp, "blobs.json"), blobs); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(tmp, 0o711); err != nil {
		return "", err
	}
	err = os.Rename(tmp, final)
	if errors.Is(err, fs.ErrExist) || isNotEmpty(err) {
		if st.isWhole(id) {
			return filepath.Join(final, "fs"), nil // somebody else was first
		}
		err = st.replace(tmp, final)
	}
	return filepath.Join(final, "fs"), err
}

// isWhole reports whether the state dir has the files of a layer.
func (st *Store) isWhole(id string) bool {
	var m meta
	if statedir.ReadSealed(filepath.Join(st.dir, id, "meta.json"), &m) != nil || !m.FS {
		return false
	}
	var blobs []blobMeta
	if err := statedir.ReadSealed(filepath.Join(st.dir, id, "blobs.json"), &blobs); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	_, err := os.Lstat(filepath.Join(st.dir, id, "fs"))
	return err == nil
}

// replace puts a layer in the place of what is left of a damaged one.
func (st *Store) replace(tmp, final string) error {
	aside, err := st.tmp()
	if err != nil {
		return err
	}
	defer os.RemoveAll(aside)
	if err := os.Rename(final, filepath.Join(aside, "damaged")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(tmp, final)
}

func blobMetas(blobs []Blob) (out []blobMeta) {
	for _, b := range blobs {
		if b.DiffID == "" {
			continue
		}
		m := blobMeta{Descriptor: b.Desc, DiffID: b.DiffID}
		if b.Origin != nil {
			if m.Repository = b.Origin.Repository(); m.Repository == "" {
				continue
			}
		}
		out = append(out, m)
	}
	return out
}

// writeBlobs notes which blobs a layer is known as; a note that cannot be
// written costs a later build the work of making the blob again.
func (st *Store) writeBlobs(id string, blobs []Blob) {
	dir := filepath.Join(st.dir, id)
	tmp := filepath.Join(dir, ".blobs-"+randomName())
	if writeSealed(tmp, blobMetas(blobs)) != nil || os.Rename(tmp, filepath.Join(dir, "blobs.json")) != nil {
		os.Remove(tmp)
	}
}

// Load returns the chain of layers with the given names, bottom first. A
// layer that is not there any more is fs.ErrNotExist. Equal names on one
// parent are one State: of a long chain, every step loads all below it.
func (st *Store) Load(ids []string) (*State, error) {
	var s *State
	for _, id := range ids {
		l, err := st.loadOnce(s, id)
		if err != nil {
			return nil, fmt.Errorf("layer %s of the state dir: %w", id, err)
		}
		s = l
	}
	return s, nil
}

func (st *Store) loadOnce(parent *State, id string) (*State, error) {
	key := loadedKey{parent, id}
	st.mu.Lock()
	s := st.loaded[key]
	st.mu.Unlock()
	if s != nil && s.hasForm() {
		return s, nil
	}
	s, err := st.load(parent, id)
	if err != nil {
		return nil, err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if other := st.loaded[key]; other != nil && other.hasForm() {
		return other, nil // somebody else was first
	}
	st.loaded[key] = s
	return s, nil
}

func (st *Store) load(parent *State, id string) (*State, error) {
	if !filepath.IsLocal(id) || filepath.Base(id) != id {
		return nil, errors.New("not a layer name")
	}
	dir := filepath.Join(st.dir, id)
	var m meta
	if err := statedir.ReadSealed(filepath.Join(dir, "meta.json"), &m); err != nil {
		return nil, err
	}
	s := &State{store: st, parent: parent, id: id, info: Info{Description: m.Description, Created: m.Created}}
	var blobs []blobMeta
	if err := statedir.ReadSealed(filepath.Join(dir, "blobs.json"), &blobs); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, b := range blobs {
		if err := b.Descriptor.Digest.Validate(); err != nil {
			return nil, err
		}
		switch {
		case st.content.Has(b.Descriptor):
			s.blobs = append(s.blobs, Blob{Desc: b.Descriptor, DiffID: b.DiffID})
		case b.Repository != "" && st.origin != nil:
			s.blobs = append(s.blobs, Blob{Desc: b.Descriptor, DiffID: b.DiffID, Origin: st.origin(b.Repository)})
		}
	}
	if m.FS {
		s.dir = filepath.Join(dir, "fs")
		if _, err := os.Lstat(s.dir); err != nil {
			return nil, err
		}
	} else if len(s.blobs) == 0 {
		return nil, fs.ErrNotExist
	}
	return s, nil
}

// Keep makes sure that every layer of the chain is in the state dir and
// returns their names, bottom first. A layer that is only at an Origin is not
// fetched for this: ok is then false.
func (st *Store) Keep(ctx context.Context, s *State) (ids []string, ok bool, err error) {
	for _, l := range s.Chain() {
		if l.of != nil {
			l = l.of
		}
		l.mu.Lock()
		id := l.id
		l.mu.Unlock()
		if id == "" {
			if id, err = st.keep(ctx, l); err != nil || id == "" {
				return nil, false, err
			}
		}
		ids = append(ids, id)
	}
	return ids, true, nil
}

func (st *Store) keep(ctx context.Context, l *State) (string, error) {
	for _, b := range l.Blobs() {
		if b.DiffID != "" && st.content.Has(b.Desc) {
			id := "blob-" + randomName()
			if _, err := st.place(id, "", l); err != nil {
				return "", err
			}
			l.mu.Lock()
			l.id = id
			l.mu.Unlock()
			return id, nil
		}
	}
	if l.mem == nil {
		return "", nil
	}
	if _, err := l.Dir(ctx); err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id, nil
}

// materialize writes a layer held in memory as a directory.
func (st *Store) materialize(ctx context.Context, s *State) (string, error) {
	tmp, err := st.tmp()
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	dir := filepath.Join(tmp, "fs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if err := layertar.Materialize(ctx, s.mem, dir); err != nil {
		return "", err
	}
	return st.adopt("files-"+randomName(), dir, s)
}

func (st *Store) adopt(id, dir string, s *State) (string, error) {
	place, err := st.place(id, dir, s)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.id = id
	s.mu.Unlock()
	return place, nil
}

// unpack fetches and unpacks a layer, unless a layer of the same chain ID is
// there already.
func (st *Store) unpack(ctx context.Context, s *State) (string, error) {
	name, isChain := s.chainID()
	if isChain {
		if id := name.Encoded(); st.isWhole(id) {
			s.mu.Lock()
			s.id = id
			s.mu.Unlock()
			return filepath.Join(st.dir, id, "fs"), nil
		}
	}
	select {
	case st.slots <- struct{}{}:
		defer func() { <-st.slots }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	var errs []error
	for _, b := range s.Blobs() {
		dir, err := st.unpackOne(ctx, s, b, name, isChain)
		if err == nil {
			return dir, nil
		}
		errs = append(errs, err)
		if !errors.Is(err, ErrLost) {
			break
		}
	}
	if len(errs) == 0 {
		return "", fmt.Errorf("layer of %q: no blob is left: %w", s.info.Description, ErrLost)
	}
	return "", errors.Join(errs...)
}

func (st *Store) unpackOne(ctx context.Context, s *State, b Blob, chain digest.Digest, isChain bool) (string, error) {
	tmp, err := st.tmp()
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	dir := filepath.Join(tmp, "fs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	diffID, err := st.unpackBlob(ctx, s, b, dir)
	if err != nil {
		return "", st.blame(ctx, s, b, fmt.Errorf("unpack layer %s: %w", b.Desc.Digest, err))
	}
	if b.DiffID != "" && diffID != b.DiffID {
		return "", st.blame(ctx, s, b, fmt.Errorf("unpack layer %s: diff ID is %s, not the %s promised: %w", b.Desc.Digest, diffID, b.DiffID, content.ErrCorrupt))
	}
	id := "unpacked-" + randomName()
	if isChain {
		id = chain.Encoded()
	}
	return st.adopt(id, dir, s)
}

// blame turns an error of a blob that can be made again into ErrLost and
// forgets the blob: one of a cache, or a damaged one of the state dir.
func (st *Store) blame(ctx context.Context, s *State, b Blob, err error) error {
	switch {
	case ctx.Err() != nil, errors.Is(err, ErrLost):
		return err
	case b.Origin == nil:
		if !errors.Is(err, content.ErrCorrupt) {
			return err
		}
		if rmErr := st.content.Remove(b.Desc.Digest); rmErr != nil {
			return errors.Join(err, rmErr) // it would be found again
		}
	case !b.Origin.IsCache():
		return err
	}
	if w, ok := b.Origin.(Witness); ok {
		w.Lost(b.Desc, err)
	}
	st.mu.Lock()
	st.lost[lostBlob{b.Desc.Digest, b.Origin}] = true
	st.mu.Unlock()
	s.lose(b)
	return &LostError{Blob: b.Desc.Digest, Err: err}
}

func (st *Store) unpackBlob(ctx context.Context, s *State, b Blob, dir string) (digest.Digest, error) {
	r, err := st.open(ctx, s, b)
	if err != nil {
		return "", err
	}
	defer r.Close()
	p := progress.From(ctx).Start("extracting "+b.Desc.Digest.String(), b.Desc.Size)
	defer p.Done()
	plain, err := compression.NewReader(counted{r, p})
	if err != nil {
		return "", err
	}
	defer plain.Close()
	h := newHasher()
	defer h.stop()
	tee := io.TeeReader(plain, h)
	parent := func(ctx context.Context) (*fsdiff.View, error) {
		<-st.slots // the layers below may be waiting for it
		defer func() { st.slots <- struct{}{} }()
		return s.parent.View(ctx)
	}
	if _, err := layertar.Unpack(ctx, tee, dir, parent); err != nil {
		return "", err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil { // the padding behind the tar counts too
		return "", err
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // and what follows the compressed stream
		return "", err
	}
	return h.sum(), nil
}

type counted struct {
	io.Reader
	p *progress.Part
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.p.Add(n)
	return n, err
}

func (st *Store) open(ctx context.Context, s *State, b Blob) (io.ReadCloser, error) {
	var r io.ReadCloser
	if local, err := st.content.Open(b.Desc); err == nil {
		r = local
	} else if b.Origin == nil {
		return nil, err
	} else if r, err = b.Origin.Open(ctx, b.Desc, 0); err != nil {
		return nil, st.blame(ctx, s, b, fmt.Errorf("read layer %s: %w", b.Desc.Digest, err))
	}
	return &blobReader{r: content.Verify(r, b.Desc), closer: r, blame: func(err error) error {
		return st.blame(ctx, s, b, fmt.Errorf("read layer %s: %w", b.Desc.Digest, err))
	}}, nil
}

// A blobReader blames its blob for what goes wrong before it is closed, which
// who sends it may do in the middle of a read.
type blobReader struct {
	r      io.Reader
	closer io.Closer
	blame  func(error) error
	closed atomic.Bool
}

func (r *blobReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF && !r.closed.Load() {
		err = r.blame(err)
	}
	return n, err
}

func (r *blobReader) Close() error {
	r.closed.Store(true)
	return r.closer.Close()
}

func randomName() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
