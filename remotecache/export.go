package remotecache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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

// ExportOptions say how an Exporter works. The zero value is ready for use.
type ExportOptions struct {
	Uploads int // blobs in flight; 0 means 4

	// Merge, unless nil, makes Export keep what other jobs saved under the ref,
	// within the limits. Otherwise the Index replaces theirs.
	Merge *Limits

	// Wrong, unless nil, reports whether the backend is known to hold other
	// bytes than the blob's. What it holds is then removed with Remove, and the
	// blob put again; where it cannot be removed, the blob counts as lost.
	Wrong  func(digest.Digest) bool
	Remove func(context.Context, digest.Digest) error // nil: nothing can be

	Attach Attach // nil: nothing besides what the Index has

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
	Carried  int   // records of other jobs that were kept
}

// ErrEmpty says that an Index has no layers, and so nothing to store.
var ErrEmpty = errors.New("no layers to store")

const (
	// hopeless is how many blobs in a row may fail before the others are not
	// tried any more: each has been tried as often as its backend likes. Of
	// those that met silence, one.
	hopeless = 4

	// saves is how often an Index is merged and saved anew because another job
	// saved one meanwhile: as many as a large matrix may have jobs.
	saves = 50
)

// An Exporter brings blobs to a backend, each once, and at last an Index that
// names them. Put may be called from several goroutines at once, before and
// while Export runs.
type Exporter struct {
	b     Backend
	opts  ExportOptions
	slots chan struct{}

	mu    sync.Mutex // guards the fields below
	out   Outcome
	puts  map[digest.Digest]*putting
	lost  map[digest.Digest]bool
	again map[digest.Digest]bool // wrong ones that were removed
	why   error                  // of the first of them
	last  error                  // of a blob that the cache did not take, lost or not
	inRow int                    // failures without a success between them
	shut  error                  // that the cache is read-only, once that is known
}

// A putting is a blob on its way, or there.
type putting struct {
	done chan struct{}
	err  error
}

// NewExporter returns an Exporter to b.
func NewExporter(b Backend, opts ExportOptions) *Exporter {
	if opts.Uploads <= 0 {
		opts.Uploads = 4
	}
	return &Exporter{
		b: b, opts: opts, slots: make(chan struct{}, opts.Uploads),
		puts: map[digest.Digest]*putting{}, lost: map[digest.Digest]bool{}, again: map[digest.Digest]bool{},
	}
}

// Export brings blobs and an Index to b; see Exporter.Export.
func Export(ctx context.Context, b Backend, ref string, idx *Index, blobs Source, opts ExportOptions) (Outcome, error) {
	return NewExporter(b, opts).Export(ctx, ref, idx, blobs)
}

// Put stores a blob that the Index will need, ahead of it. What has gone wrong
// is tried once more by Export.
func (x *Exporter) Put(ctx context.Context, blob ocispec.Descriptor, blobs Source) error {
	return x.put(ctx, blob, blobs)
}

// Export stores the blobs that b lacks, several at a time, and then idx under
// ref, merged with the Index that is there if the options say so. A blob that
// cannot be stored costs the results that need it, not the others. The error
// says why unless the State is OK; with Partial and Skipped it is a warning.
// Export may be called again, after it has ended.
func (x *Exporter) Export(ctx context.Context, ref string, idx *Index, blobs Source) (Outcome, error) {
	err := x.run(ctx, ref, idx, blobs)
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case errors.Is(err, ErrEmpty), errors.Is(err, ErrReadOnly):
		x.out.State = Skipped
	case err != nil:
		x.out.State = Failed
	case len(x.lost) > 0:
		x.out.State = Partial
		err = fmt.Errorf("%s: %w", notStored(len(x.lost)), x.why)
	default:
		x.out.State = OK
	}
	x.out.Lost = len(x.lost)
	return x.out, err
}

func notStored(n int) string {
	if n == 1 {
		return "a blob is not stored"
	}
	return fmt.Sprintf("%d blobs are not stored, the first", n)
}

func (x *Exporter) run(ctx context.Context, ref string, idx *Index, blobs Source) error {
	if err := idx.Validate(); err != nil {
		return err
	}
	if len(idx.Layers) == 0 {
		return ErrEmpty
	}
	x.mu.Lock()
	// What went wrong while the build ran may be over, and what was lost when
	// this was called before may have been made again.
	x.inRow, x.why = 0, nil
	clear(x.lost)
	x.mu.Unlock()
	var old *Index
	var oldErr error
	var attached Blob
	var loading sync.WaitGroup
	lctx, stop := context.WithCancel(ctx)
	defer stop()
	loading.Go(func() { // beside the blobs: it is a round trip or two
		if x.opts.Merge != nil {
			old, oldErr = x.load(lctx, ref)
		}
		if oldErr == nil {
			attached = x.prepare(lctx, old)
		}
	})
	err := x.putMissing(ctx, idx, blobs)
	if err != nil {
		stop()
	}
	loading.Wait()
	if err == nil {
		err = oldErr
	}
	if err != nil {
		return err
	}
	evicted := false
	for n := 1; ; n++ {
		save := idx.Without(x.lost)
		if len(save.Layers) == 0 {
			return fmt.Errorf("no blob could be stored, the first: %w", x.why)
		}
		if x.opts.Merge != nil {
			if len(x.lost) > 0 { // what needs them is of no use to others either
				version := old.Version
				old = old.Without(x.lost)
				old.Version = version
			}
			if save, err = x.merge(old, save); err != nil {
				return err
			}
		}
		if attached.Digest != "" {
			save.Attach(attached)
		}
		err := x.b.SaveIndex(ctx, ref, save)
		switch {
		case errors.Is(err, ErrConflict) && n < saves:
			// Jobs that met here do not come back together.
			if err := sleep(ctx, time.Duration(rand.Int64N(int64(min(n, 10))*int64(50*time.Millisecond)))); err != nil {
				return err
			}
			if old, err = x.load(ctx, ref); err != nil {
				return err
			}
			attached = x.prepare(ctx, old)
		case errors.Is(err, ErrNotFound) && !evicted:
			// Blobs were there but have been evicted, or were believed to be
			// there because an index named them.
			evicted = true
			x.forget()
			save.Detach(attached.MediaType) // it may be the one, and is not worth a third try
			attached = Blob{}
			if err := x.putMissing(ctx, save, blobs); err != nil {
				return err
			}
			if old != nil {
				old = old.Without(x.lost)
			}
		default:
			return err
		}
	}
}

// load returns the Index that others saved, one without records when there is
// none or none that can be used.
func (x *Exporter) load(ctx context.Context, ref string) (*Index, error) {
	idx, err := x.b.LoadIndex(ctx, ref)
	switch {
	case errors.Is(err, ErrNotFound):
		return &Index{Version: Absent}, nil
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrUntrusted):
		// It is replaced: by the first of the jobs that see it, where its
		// version is known.
		old := &Index{}
		if r, ok := errors.AsType[refused](err); ok {
			old.Version = r.RefusedVersion()
		}
		return old, nil
	}
	return idx, err
}

// refused is an error that knows the Version of the Index that is not used.
type refused interface {
	error
	RefusedVersion() string
}

func (x *Exporter) merge(old, idx *Index) (*Index, error) {
	out, err := Merge(old, idx, *x.opts.Merge)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	x.out.Carried = len(out.Records) - len(idx.Records)
	x.mu.Unlock()
	out.Attachments, out.Version = slices.Clone(idx.Attachments), old.Version
	return out, nil
}

// forget makes every blob be looked for and put again.
func (x *Exporter) forget() {
	x.mu.Lock()
	defer x.mu.Unlock()
	clear(x.puts)
	x.out.Existing = 0
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
