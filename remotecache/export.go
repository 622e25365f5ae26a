package remotecache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// A Source opens a blob of an Index that is to be stored; Export closes it.
// It is called only for blobs that a backend lacks and wants to read, from
// several goroutines at once. The error is ErrNotFound when the blob is lost:
// then the results that need it are left out.
type Source func(ctx context.Context, blob ocispec.Descriptor) (BlobReader, error)

// A BlobReader reads a blob at any place, from several goroutines at once.
type BlobReader interface {
	io.ReaderAt
	io.Closer
}

// ExportOptions say how Export works. The zero value is ready for use.
type ExportOptions struct {
	Uploads int // blobs in flight; 0 means 4

	// Watch, unless nil, is called when a blob is about to be put; what it
	// returns is called when that is over.
	Watch func(blob ocispec.Descriptor) (done func(error))
}

// A State is what became of an export, in one word.
type State string

const (
	OK      State = "ok"      // all is stored
	Partial State = "partial" // stored, without the results whose blobs could not be
	Skipped State = "skipped" // nothing was to be stored, or the cache is read-only
	Failed  State = "failed"  // the index is what it was before
)

// An Outcome says what an export did.
type Outcome struct {
	State    State
	Blobs    int   // put
	Bytes    int64 // of them, as stored
	Existing int   // blobs that were there
	Lost     int   // blobs that could not be put
}

// ErrEmpty says that an Index has no layers, and so nothing to store.
var ErrEmpty = errors.New("no layers to store")

// hopeless is how many blobs in a row may fail before the others are not
// tried any more: each has been tried as often as its backend likes.
const hopeless = 4

// Export stores the blobs that b lacks, several at a time, and then idx under
// ref. A blob that cannot be stored costs the results that need it, not the
// others. The error says why unless the State is OK; with Partial and Skipped
// it is a warning.
func Export(ctx context.Context, b Backend, ref string, idx *Index, blobs Source, opts ExportOptions) (Outcome, error) {
	x := &exporting{b: b, blobs: blobs, opts: opts, lost: map[digest.Digest]bool{}}
	if x.opts.Uploads <= 0 {
		x.opts.Uploads = 4
	}
	err := x.run(ctx, ref, idx)
	switch {
	case errors.Is(err, ErrEmpty), errors.Is(err, ErrReadOnly):
		x.out.State = Skipped
	case err != nil:
		x.out.State = Failed
	case len(x.lost) > 0:
		x.out.State = Partial
		err = fmt.Errorf("%d blobs are not stored: %w", len(x.lost), errors.Join(x.why...))
	default:
		x.out.State = OK
	}
	x.out.Lost = len(x.lost)
	return x.out, err
}

type exporting struct {
	b     Backend
	blobs Source
	opts  ExportOptions

	mu    sync.Mutex // guards the fields below
	out   Outcome
	lost  map[digest.Digest]bool
	why   []error // the first few
	inRow int     // failures without a success between them
}

func (x *exporting) run(ctx context.Context, ref string, idx *Index) error {
	if err := idx.Validate(); err != nil {
		return err
	}
	if len(idx.Layers) == 0 {
		return ErrEmpty
	}
	// The second time is for blobs that were there but have been evicted, or
	// that a backend believed to be there because an index named them.
	for n := 1; ; n++ {
		if err := x.putMissing(ctx, idx); err != nil {
			return err
		}
		save := idx.Without(x.lost)
		if len(save.Layers) == 0 {
			return fmt.Errorf("no blob could be stored: %w", errors.Join(x.why...))
		}
		err := x.b.SaveIndex(ctx, ref, save)
		if !errors.Is(err, ErrNotFound) || n == 2 {
			return err
		}
	}
}

func (x *exporting) putMissing(ctx context.Context, idx *Index) error {
	var all []ocispec.Descriptor
	for _, blob := range idx.Blobs() {
		if !x.lost[blob.Digest] {
			all = append(all, blob.Descriptor())
		}
	}
	missing, err := x.b.Missing(ctx, all)
	if err != nil {
		return fmt.Errorf("look for blobs: %w", err)
	}
	x.out.Existing = len(all) - len(missing) - x.out.Blobs
	// The largest first, so that none of them is left over at the end.
	slices.SortStableFunc(missing, func(a, b ocispec.Descriptor) int { return cmp.Compare(b.Size, a.Size) })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(x.opts.Uploads)
	for _, blob := range missing {
		g.Go(func() error { return x.put(ctx, blob) })
	}
	return g.Wait()
}

// put stores a blob. The error is one that ends the export.
func (x *exporting) put(ctx context.Context, blob ocispec.Descriptor) error {
	x.mu.Lock()
	give := x.inRow >= hopeless
	if give {
		x.lost[blob.Digest] = true
	}
	x.mu.Unlock()
	if give {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	done := func(error) {}
	if x.opts.Watch != nil {
		done = x.opts.Watch(blob)
	}
	src := &lazyReader{ctx: ctx, blob: blob, open: x.blobs}
	err := x.b.Put(ctx, blob, src)
	if cerr := src.close(); err != nil { // otherwise all was read that was needed
		err = errors.Join(err, cerr)
	}
	gone := src.err != nil && errors.Is(src.err, ErrNotFound)
	done(err)
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case err == nil:
		x.out.Blobs++
		x.out.Bytes += blob.Size
		x.inRow = 0
		return nil
	case errors.Is(err, ErrReadOnly):
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	x.lost[blob.Digest] = true
	if !gone {
		x.inRow++
	}
	if len(x.why) < hopeless {
		x.why = append(x.why, fmt.Errorf("put blob %s: %w", blob.Digest, err))
	}
	return nil
}

// lazyReader opens a blob when it is first read: a backend that has another
// way to come by the blob costs no reading.
type lazyReader struct {
	ctx  context.Context
	blob ocispec.Descriptor
	open Source

	once sync.Once
	r    BlobReader
	err  error
}

func (l *lazyReader) ReadAt(p []byte, off int64) (int, error) {
	l.once.Do(func() { l.r, l.err = l.open(l.ctx, l.blob) })
	if l.err != nil {
		return 0, l.err
	}
	return l.r.ReadAt(p, off)
}

func (l *lazyReader) close() error {
	l.once.Do(func() {})
	if l.r == nil {
		return nil
	}
	return l.r.Close()
}

// Without returns idx without the results that need one of the blobs.
func (idx *Index) Without(blobs map[digest.Digest]bool) *Index {
	out := idx.Clone()
	if len(blobs) == 0 {
		return out
	}
	out.Attachments = slices.DeleteFunc(out.Attachments, func(b Blob) bool { return blobs[b.Digest] })
	at := idx.positionsWithout(blobs)
	out.Layers = out.Layers[:0]
	for i, l := range idx.Clone().Layers {
		if at[i] < 0 {
			continue
		}
		if l.Parent != NoParent {
			l.Parent = at[l.Parent]
		}
		out.Layers = append(out.Layers, l)
	}
	for i := range out.Records {
		r := &out.Records[i]
		r.Results = slices.DeleteFunc(r.Results, func(res Result) bool { return at[res.Layer] < 0 })
		for j := range r.Results {
			r.Results[j].Layer = at[r.Results[j].Layer]
		}
		r.Chains = slices.DeleteFunc(r.Chains, func(c Chain) bool {
			return slices.ContainsFunc(c.Layers, func(l int) bool { return at[l] < 0 })
		})
		for _, c := range r.Chains {
			for j := range c.Layers {
				c.Layers[j] = at[c.Layers[j]]
			}
		}
	}
	return out
}

// positionsWithout returns where each layer goes once the layers with the
// blobs, and those on top of them, are gone; -1 for those.
func (idx *Index) positionsWithout(blobs map[digest.Digest]bool) []int {
	const unseen, gone, stays = 0, 1, 2
	state := make([]byte, len(idx.Layers))
	var path []int
	for i := range idx.Layers {
		path = path[:0]
		at := i
		for ; at != NoParent && state[at] == unseen; at = idx.Layers[at].Parent {
			path = append(path, at)
		}
		below := at == NoParent || state[at] == stays
		for _, l := range slices.Backward(path) {
			below = below && !blobs[idx.Layers[l].Digest]
			state[l] = gone
			if below {
				state[l] = stays
			}
		}
	}
	pos, n := make([]int, len(state)), 0
	for i, s := range state {
		pos[i] = -1
		if s == stays {
			pos[i] = n
			n++
		}
	}
	return pos
}
