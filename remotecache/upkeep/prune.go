package upkeep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/remotecache"
)

// PruneOptions say what may stay.
type PruneOptions struct {
	Now      time.Time
	MaxAge   time.Duration // results older than this go; 0 means any age
	MaxBytes int64         // of the blobs of one ref: the oldest results go until the rest fits; 0 means any number

	// Grace is how long a blob that no Index names stays: a job may be about to
	// save one that does. 0 means a day.
	Grace  time.Duration
	DryRun bool // only say what would go
}

// Pruned says what went.
type Pruned struct {
	Refs    []string // that have no Index any more
	Records int      // of those that have one
	Blobs   int
	Bytes   int64
	Kept    int // blobs that no Index names but that are within the grace, or of unknown age
}

// Prune drops results from the refs, all of them when none is named, and then
// the blobs that no Index names any more, as far as the service lists and
// removes blobs. A ref that another job saved meanwhile is looked at again.
func Prune(ctx context.Context, k remotecache.Keeper, refs []string, opts PruneOptions) (Pruned, error) {
	if opts.Grace <= 0 {
		opts.Grace = 24 * time.Hour
	}
	p := &pruning{k: k, opts: opts, used: map[digest.Digest]bool{}}
	held, err := k.List(ctx)
	if err != nil {
		return p.out, fmt.Errorf("list the cache: %w", err)
	}
	for _, at := range held.Refs {
		mine := len(refs) == 0 || slices.Contains(refs, at.Ref)
		if err := p.ref(ctx, at.Ref, mine); err != nil {
			return p.out, fmt.Errorf("prune %s: %w", at.Ref, err)
		}
	}
	if held.Blobs != nil && !opts.DryRun && len(p.out.Refs)+p.out.Records > 0 {
		if held, err = k.List(ctx); err != nil { // with what only these refs needed
			return p.out, fmt.Errorf("list the cache: %w", err)
		}
	}
	return p.out, p.blobs(ctx, held.Blobs)
}

type pruning struct {
	k    remotecache.Keeper
	opts PruneOptions
	used map[digest.Digest]bool // by an Index that stays
	out  Pruned
}

// tries is how often a ref is looked at again because another job saved it.
const tries = 10

// ref drops what is too old from a ref, unless it is not one to change, and
// notes which blobs it still needs.
func (p *pruning) ref(ctx context.Context, ref string, change bool) error {
	for n := 1; ; n++ {
		idx, err := p.k.LoadIndex(ctx, ref)
		switch {
		case errors.Is(err, remotecache.ErrNotFound):
			return nil
		case errors.Is(err, remotecache.ErrCorrupt) && change:
			return p.removeRef(ctx, ref)
		case err != nil:
			return err
		}
		rest := idx
		if change {
			if rest, err = p.rest(idx); err != nil {
				return err
			}
		}
		if len(rest.Layers) == 0 {
			return p.removeRef(ctx, ref)
		}
		if dropped := len(idx.Records) - len(rest.Records); rest != idx && (dropped > 0 || len(rest.Layers) < len(idx.Layers)) {
			rest.Version = idx.Version
			if !p.opts.DryRun {
				err = p.k.SaveIndex(ctx, ref, rest)
			}
			if errors.Is(err, remotecache.ErrConflict) && n < tries {
				continue
			}
			if err != nil {
				return err
			}
			p.out.Records += dropped
		}
		for _, b := range rest.Blobs() {
			p.used[b.Digest] = true
		}
		return nil
	}
}

// rest returns what of idx stays. Attachments that say something of the whole,
// such as a signature, do not fit a part; they are left to who saves it.
func (p *pruning) rest(idx *remotecache.Index) (*remotecache.Index, error) {
	if hasSteps(idx) {
		return remotecache.Merge(idx, &remotecache.Index{}, remotecache.Limits{
			Now: p.opts.Now, MaxAge: p.opts.MaxAge, MaxBytes: p.opts.MaxBytes,
		})
	}
	s := SizeOf(idx)
	if p.opts.MaxAge > 0 && p.opts.Now.Sub(s.Newest) > p.opts.MaxAge || p.opts.MaxBytes > 0 && s.Bytes > p.opts.MaxBytes {
		return &remotecache.Index{}, nil
	}
	return idx, nil
}

func (p *pruning) removeRef(ctx context.Context, ref string) error {
	p.out.Refs = append(p.out.Refs, ref)
	if p.opts.DryRun {
		return nil
	}
	return p.k.RemoveIndex(ctx, ref)
}

// blobs removes those that nothing names.
func (p *pruning) blobs(ctx context.Context, held []remotecache.StoredBlob) error {
	for _, b := range held {
		if p.used[b.Digest] {
			continue
		}
		if b.Used.IsZero() || p.opts.Now.Sub(b.Used) < p.opts.Grace {
			p.out.Kept++
			continue
		}
		if !p.opts.DryRun {
			err := p.k.RemoveBlob(ctx, b.Digest)
			if errors.Is(err, errors.ErrUnsupported) {
				return nil // the service collects them itself
			}
			if err != nil {
				return err
			}
		}
		p.out.Blobs++
		p.out.Bytes += b.Size
	}
	return nil
}
