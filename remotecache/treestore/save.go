package treestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
)

// SaveOptions say how Save works.
type SaveOptions struct {
	Tmp string // a directory for packs on their way; required

	// Known is what Load, or an earlier Save, returned for the directory;
	// files that are still known are not read.
	Known *Known

	// Anew has nothing used of what is stored: Load said that it is corrupt,
	// which Save, as it reads no pack, would not see.
	Anew bool

	MaxSize int64         // bytes of all files, without holes; 0 means any number. Files used longest ago are left out
	MaxAge  time.Duration // files not used for so long are left out, and nothing older is restored; 0 means any age

	Watch    Watch
	Parallel int              // files being read at once; 0 means the number of CPUs, at most 8
	Now      func() time.Time // nil means time.Now
}

const (
	// tries is how often an Index is saved that another job has changed, or
	// whose blobs the backend has lost meanwhile.
	tries = 4

	// refresh is how old what is stored may be for a directory that did not
	// change to be left as it is, or a quarter of its MaxAge: ages are counted
	// from when it was stored.
	refresh = 24 * time.Hour
)

// Save stores the directory dir under name beside the cache of ref, and
// returns what is known of its files for the next Save. What is stored already
// is not sent again. After an error the directory stored before, if any, is
// whole.
//
// Used is a file that was written, or that was read where the file system
// notes it. A file that is written to while it is read is left out, as it is
// when it vanishes. The error is remotecache.ErrEmpty when there are no files
// and nothing is stored.
func Save(ctx context.Context, b remotecache.Backend, ref string, name Name, dir string, opts SaveOptions) (*Known, Stats, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Parallel <= 0 {
		opts.Parallel = min(runtime.NumCPU(), 8)
	}
	r, err := openRoot(dir)
	if err != nil {
		return nil, Stats{}, fmt.Errorf("save cache mount %s: %w", name, err)
	}
	defer r.close()
	s := &saver{b: b, ref: Ref(ref, name), name: name, root: r, opts: opts, known: opts.Known}
	if err = s.run(ctx); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		err = fmt.Errorf("save cache mount %s: %w", name, err)
	}
	return s.known, s.stats, err
}

// A saver saves one directory.
type saver struct {
	b     remotecache.Backend
	ref   string
	name  Name
	root  *root
	opts  SaveOptions
	known *Known
	stats Stats

	version string // of the Index that was loaded
	old     *tree  // what it leads to; nil for nothing that can be read
	packs   []*packAt
	began   time.Time // the scan of the directory
}

func (s *saver) run(ctx context.Context) error {
	load := true
	for try := 1; ; try++ {
		if load {
			if err := s.load(ctx); err != nil {
				return err
			}
			if try > 1 && s.old != nil && s.old.saved.After(s.began) {
				s.stats.Superseded = true
				return nil
			}
		}
		lost, err := s.forgetLost(ctx)
		if err != nil {
			return err
		}
		idx, err := s.save(ctx, lost)
		if idx == nil || err != nil {
			return err
		}
		err = s.b.SaveIndex(ctx, s.ref, idx)
		load = errors.Is(err, remotecache.ErrConflict)
		if !load && !errors.Is(err, remotecache.ErrNotFound) || try == tries {
			return err
		}
	}
}

// load reads what is stored. An Index or manifest that is lost or broken is as
// good as none.
func (s *saver) load(ctx context.Context) error {
	t, idx, err := readNamed(ctx, s.b, s.ref, s.name, nil)
	s.old, s.version = t, ""
	switch {
	case idx != nil:
		s.version = idx.Version
	case errors.Is(err, remotecache.ErrNotFound):
		s.version = remotecache.Absent
	}
	if err != nil && !errors.Is(err, remotecache.ErrNotFound) && !errors.Is(err, remotecache.ErrCorrupt) {
		return err
	}
	ours := s.packs[:0]
	for _, p := range s.packs {
		if p.ours {
			ours = append(ours, p)
		}
	}
	s.packs = ours
	if t == nil {
		return nil
	}
	if s.opts.Anew {
		s.old = nil
		return nil
	}
	packs := make([]*packAt, len(t.packs))
	for i, p := range t.packs {
		packs[i] = &packAt{pack: p}
	}
	for _, c := range t.chunks {
		p := packs[c.pack]
		p.chunks = append(p.chunks, &chunkAt{sum: c.sum, size: c.size, pack: p, off: c.off})
	}
	s.packs = append(packs, ours...)
	return nil
}

// forgetLost drops the packs that the backend does not hold (any more), and
// returns how many they were.
func (s *saver) forgetLost(ctx context.Context) (int, error) {
	if len(s.packs) == 0 {
		return 0, nil
	}
	descs := make([]ocispec.Descriptor, len(s.packs))
	for i, p := range s.packs {
		descs[i] = p.descriptor()
	}
	missing, err := s.b.Missing(ctx, descs)
	if err != nil {
		return 0, fmt.Errorf("look for packs: %w", err)
	}
	gone := map[digest.Digest]bool{}
	for _, d := range missing {
		gone[d.Digest] = true
	}
	stay := s.packs[:0]
	for _, p := range s.packs {
		if !gone[p.digest] {
			stay = append(stay, p)
		}
	}
	s.packs = stay
	return len(missing), nil
}

// put sends a blob.
func (s *saver) put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	done := s.opts.Watch.start(blob)
	err := s.b.Put(ctx, blob, src)
	if err != nil {
		err = fmt.Errorf("put blob %s: %w", blob.Digest, err)
	}
	done(err)
	return err
}

// save reads the directory, sends what is new, and returns the Index to be
// saved, nil when the one that is stored is right. lost is how many packs of
// what is stored are lost.
func (s *saver) save(ctx context.Context, lost int) (*remotecache.Index, error) {
	s.began = s.opts.Now()
	g := newGathering(ctx, s)
	t, unchanged, err := g.all(ctx, lost)
	made, perr := g.packer.wait()
	s.packs, s.stats.Read = append(s.packs, made...), s.stats.Read+g.stats.Read
	s.stats.LeftOut, s.stats.OutBytes = g.stats.LeftOut, g.stats.OutBytes
	switch {
	case perr != nil: // what the packer met, others were told as well
		return nil, perr
	case err != nil:
		return nil, err
	}
	s.known = g.known
	for _, p := range made {
		s.stats.Blobs++
		s.stats.Sent += p.size
	}
	for i, p := range g.used {
		t.packs[i] = p.pack // digest and sizes, now that it is compressed
	}
	s.stats.count(t)
	fresh := refresh
	if s.opts.MaxAge > 0 {
		fresh = min(fresh, s.opts.MaxAge/4)
	}
	if unchanged && s.began.Sub(s.old.saved) < fresh {
		s.stats.Unchanged = true
		return nil, nil
	}
	return s.finish(ctx, t)
}

// finish stores the manifest and returns the Index.
func (s *saver) finish(ctx context.Context, t *tree) (*remotecache.Index, error) {
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("internal: the manifest is unsound: %w", err)
	}
	data, err := t.encode()
	if err != nil {
		return nil, err
	}
	desc := ocispec.Descriptor{MediaType: MediaTypeManifest, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := s.put(ctx, desc, bytes.NewReader(data)); err != nil {
		return nil, err
	}
	s.stats.Blobs++
	s.stats.Sent += desc.Size
	idx := indexOf(s.name, t.saved, t.packs, desc)
	idx.Version = s.version
	return idx, nil
}
