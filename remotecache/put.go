package remotecache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/internal/retry"
)

// putMissing stores the blobs of idx that b lacks and that no Put is about.
func (x *Exporter) putMissing(ctx context.Context, idx *Index, blobs Source) error {
	var ask, ahead []ocispec.Descriptor
	x.mu.Lock()
	for _, blob := range idx.Blobs() {
		switch {
		case x.lost[blob.Digest]:
		case x.wrong(blob.Digest):
			delete(x.puts, blob.Digest) // put before that was known
			ask = append(ask, blob.Descriptor())
		case x.puts[blob.Digest] != nil:
			ahead = append(ahead, blob.Descriptor())
		default:
			ask = append(ask, blob.Descriptor())
		}
	}
	x.mu.Unlock()
	missing, err := x.missing(ctx, ask)
	if err != nil {
		return err
	}
	x.mu.Lock()
	x.out.Existing += len(ask) - len(missing)
	for _, blob := range ask {
		if x.wrong(blob.Digest) && !slices.ContainsFunc(missing, func(m ocispec.Descriptor) bool { return m.Digest == blob.Digest }) {
			missing = append(missing, blob)
			x.out.Existing--
		}
	}
	x.mu.Unlock()
	// The largest first, so that none of them is left over at the end.
	slices.SortStableFunc(missing, func(a, b ocispec.Descriptor) int { return cmp.Compare(b.Size, a.Size) })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(x.opts.Uploads + len(ahead)) // those ahead only wait
	for _, blob := range append(ahead, missing...) {
		g.Go(func() error { return x.finally(ctx, blob, blobs) })
	}
	return g.Wait()
}

func (x *Exporter) missing(ctx context.Context, blobs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if len(blobs) == 0 {
		return nil, nil
	}
	missing, err := x.b.Missing(ctx, blobs)
	if err != nil {
		return nil, fmt.Errorf("look for blobs: %w", err)
	}
	return missing, nil
}

// finally stores a blob or gives it up as lost. The error is one that ends
// the export.
func (x *Exporter) finally(ctx context.Context, blob ocispec.Descriptor, blobs Source) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := x.put(ctx, blob, blobs)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrReadOnly):
		return err
	case ctx.Err() != nil:
		return retry.Interrupted(ctx, err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.lost[blob.Digest] = true
	if errors.Is(err, errGivenUp) {
		err = x.last
	}
	if x.why == nil {
		x.why = err
	}
	return nil
}

// errGivenUp is the error of a blob that is not tried, since others before it
// were in vain.
var errGivenUp = errors.New("the cache took none of the blobs before this one")

// errWrong is the error of a blob that stays wrong.
var errWrong = errors.New("the cache holds other bytes than the blob's, and does not part with them")

// wrong reports whether a blob is to be replaced. Whoever calls has locked mu.
func (x *Exporter) wrong(d digest.Digest) bool {
	return x.opts.Wrong != nil && !x.again[d] && x.opts.Wrong(d)
}

// replace removes what is wrong of a blob that is about to be put.
func (x *Exporter) replace(ctx context.Context, blob ocispec.Descriptor) error {
	x.mu.Lock()
	wrong := x.wrong(blob.Digest)
	x.mu.Unlock()
	if !wrong {
		return nil
	}
	err := errors.ErrUnsupported
	if x.opts.Remove != nil {
		err = x.opts.Remove(ctx, blob.Digest)
	}
	if err != nil {
		// It may have been another cache that it was wrong in.
		missing, merr := x.b.Missing(ctx, []ocispec.Descriptor{blob})
		if merr != nil || len(missing) == 0 {
			return fmt.Errorf("%w: %s", errWrong, err.Error()) // not what err means for the cache as a whole
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.again[blob.Digest] = true
	return nil
}

// errSource marks the error of a blob that its source no longer has: that
// says nothing of the backend.
var errSource = errors.New("the blob is lost")

// put stores a blob, or waits for whoever stores it already.
func (x *Exporter) put(ctx context.Context, blob ocispec.Descriptor, blobs Source) error {
	x.mu.Lock()
	if x.shut != nil {
		defer x.mu.Unlock()
		return x.shut
	}
	p, shared := x.puts[blob.Digest]
	if !shared {
		p = &putting{done: make(chan struct{})}
		x.puts[blob.Digest] = p
	}
	x.mu.Unlock()
	if shared {
		select {
		case <-p.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		switch {
		case p.err == nil:
			return nil
		case errors.Is(p.err, errSource), errors.Is(p.err, errGivenUp), errors.Is(p.err, context.Canceled):
			// That says nothing of what another try is good for.
			return x.put(ctx, blob, blobs)
		}
		return p.err
	}
	p.err = x.send(ctx, blob, blobs)
	x.mu.Lock()
	if p.err == nil {
		x.out.Blobs++
		x.out.Bytes += blob.Size
		x.inRow = 0
	} else {
		delete(x.puts, blob.Digest)
		switch {
		case errors.Is(p.err, ErrReadOnly):
			x.shut = p.err
		case errors.Is(p.err, errSource), errors.Is(p.err, errGivenUp), errors.Is(p.err, errWrong), ctx.Err() != nil:
		default:
			x.inRow++
			if errors.Is(p.err, retry.ErrStalled) { // for as long as it takes to notice, several times
				x.inRow = hopeless
			}
			x.last = p.err
		}
	}
	x.mu.Unlock()
	close(p.done)
	return p.err
}

func (x *Exporter) send(ctx context.Context, blob ocispec.Descriptor, blobs Source) error {
	if err := enter(ctx, x.slots); err != nil {
		return err
	}
	defer func() { <-x.slots }()
	x.mu.Lock()
	up := x.inRow >= hopeless
	x.mu.Unlock()
	if up { // known only now: many may have waited for a slot
		return errGivenUp
	}
	if err := x.replace(ctx, blob); err != nil {
		return err
	}
	done := func(error) {}
	if x.opts.Watch != nil {
		done = x.opts.Watch(blob)
	}
	src := &lazyReader{ctx: ctx, blob: blob, open: blobs}
	err := x.b.Put(ctx, blob, src)
	if cerr := src.close(); err != nil { // otherwise all was read that was needed
		err = errors.Join(err, cerr)
	}
	if src.err != nil && errors.Is(src.err, ErrNotFound) {
		err = fmt.Errorf("%w: %w", errSource, err)
	}
	done(err)
	return err
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
	if l.r == nil || l.err != nil { // with an error there is nothing in l.r, whatever it is
		return nil
	}
	return l.r.Close()
}
