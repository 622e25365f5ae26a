package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/buildcache"
	"github.com/mayfly-build/mayfly/engine/content"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/progress"
	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/internal/retry"
	"github.com/mayfly-build/mayfly/remotecache"
)

// importTimeout is how long a build waits for the index of a cache, which is
// some kilobytes.
const importTimeout = 30 * time.Second

// An importing is what is known of one import.
type importing struct {
	out    CacheOutcome
	origin *metered // nil when nothing was loaded
}

// importCache starts to load a cache. What goes wrong is a warning: the build
// then runs without the cache.
func (b *build) importCache(ctx context.Context, im Import) *buildcache.Remote {
	r := buildcache.NewRemote(im.Name, b.layers)
	b.beside.Go(func() {
		step := b.req.Progress.Step("importing cache manifest from " + im.Name)
		step.Begin()
		began := time.Now()
		timeout := im.Timeout
		if timeout == 0 {
			timeout = importTimeout
		}
		lctx, cancel := context.WithTimeoutCause(progress.With(ctx, step), timeout, fmt.Errorf("no answer within %s", timeout))
		defer cancel()
		indexes, origin, err := im.Load(lctx)
		err = late(lctx, err)
		got := &importing{out: CacheOutcome{Name: im.Name, Outcome: string(remotecache.OK)}}
		if len(indexes) == 0 {
			_ = r.Loaded(nil, nil) // nothing cannot be wrong
		} else {
			if err != nil {
				got.out.ended(remotecache.Partial, err)
				b.warn(fmt.Errorf("cache import %s: %w; building with the rest of it", im.Name, err))
			}
			got.origin = &metered{Origin: origin}
			b.why.imported(im.Name, indexes, got.origin) // before a step can run
			err = r.Loaded(indexes, got.origin)
		}
		got.out.Seconds = time.Since(began).Seconds()
		switch {
		case errors.Is(err, remotecache.ErrNotFound):
			got.out.Outcome, got.out.Reason = string(remotecache.Skipped), "cold cache: nothing was exported there yet"
			fmt.Fprintln(step.Log(2), got.out.Reason)
			err = nil
		case err != nil && ctx.Err() == nil:
			got.out.ended(remotecache.Failed, err)
			b.warn(fmt.Errorf("cache import %s: %w; building without it", im.Name, err))
			err = nil
		}
		if got.out.Hint != "" {
			fmt.Fprintf(step.Log(2), "hint: %s\n", got.out.Hint)
		}
		b.mu.Lock()
		b.imports = append(b.imports, got)
		b.mu.Unlock()
		step.End(err)
	})
	return r
}

// ended says with which error a cache's import or export has ended.
func (o *CacheOutcome) ended(state remotecache.State, err error) {
	o.Outcome, o.Reason = string(state), err.Error()
	o.Hint = cmp.Or(hint.Of(err), o.Hint)
}

// late makes clear of an error that came when ctx had ended why it had, and
// leaves what else the error says.
func late(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// importOutcomes says what became of the imports, once nothing is read any more.
func (b *build) importOutcomes() (out []CacheOutcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, im := range b.imports {
		if o := im.origin; o != nil {
			im.out.Blobs, im.out.Bytes = int(o.blobs.Load()), o.bytes.Load()
			if err := o.trouble(); err != nil {
				if im.out.Reason != "" {
					err = fmt.Errorf("%s; %w", im.out.Reason, err)
				}
				im.out.ended(remotecache.Partial, err)
			}
		}
		out = append(out, im.out)
	}
	return out
}

// hopeless is how many blobs in a row may cost their time and not be read
// before the cache is not asked for others any more: each was tried as often
// as its backend likes. One that stays silent is not asked again at once.
const hopeless = 4

// A metered origin counts what is read from a cache, and what is of no use.
type metered struct {
	layer.Origin
	blobs, bytes atomic.Int64

	mu    sync.Mutex // guards the fields below
	lost  int
	first error                  // why the first of them
	wrong map[digest.Digest]bool // lost because their bytes are not what they should be
	inRow int                    // lost without a blob that was read between them, but for those that cost no time
}

var _ layer.Witness = (*metered)(nil)

// Open reads a blob, unless the cache has shown that it gives none.
func (m *metered) Open(ctx context.Context, desc ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	m.mu.Lock()
	row, first := m.inRow, m.first
	m.mu.Unlock()
	if row >= hopeless {
		return nil, fmt.Errorf("the cache is not asked for it: it gave none of %d blobs before, the first: %w", row, first)
	}
	r, err := m.Origin.Open(ctx, desc, off)
	if err != nil {
		return nil, err
	}
	m.blobs.Add(1)
	return &meteredReader{r, m}, nil
}

// Lost implements layer.Witness.
func (m *metered) Lost(desc ocispec.Descriptor, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost++
	if m.first == nil {
		m.first = err
	}
	if errors.Is(err, remotecache.ErrCorrupt) || errors.Is(err, content.ErrCorrupt) || errors.Is(err, registry.ErrShort) {
		if m.wrong == nil {
			m.wrong = map[digest.Digest]bool{}
		}
		m.wrong[desc.Digest] = true
		return
	}
	for _, quick := range []error{remotecache.ErrNotFound, registry.ErrNotFound} {
		if errors.Is(err, quick) {
			return
		}
	}
	m.inRow++
	if errors.Is(err, retry.ErrStalled) { // for as long as it takes to notice, several times
		m.inRow = hopeless
	}
}

// wrong reports whether an import had a blob with other bytes than it should.
func (b *build) wrong(d digest.Digest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, im := range b.imports {
		if m := im.origin; m != nil {
			m.mu.Lock()
			wrong := m.wrong[d]
			m.mu.Unlock()
			if wrong {
				return true
			}
		}
	}
	return false
}

// trouble says which blobs were of no use; nil for none.
func (m *metered) trouble() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch m.lost {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("a blob is of no use: %w", m.first)
	}
	return fmt.Errorf("%d blobs are of no use, the first: %w", m.lost, m.first)
}

type meteredReader struct {
	io.ReadCloser
	m *metered
}

func (r *meteredReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.m.bytes.Add(int64(n))
	if err == io.EOF {
		r.m.mu.Lock()
		r.m.inRow = 0
		r.m.mu.Unlock()
	}
	return n, err
}
