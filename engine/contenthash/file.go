package contenthash

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

const (
	readBuffer = 128 << 10 // bytes
	workChunk  = 32        // entries a worker takes at a time
)

// A memo is what a Hasher knows already, and what it is about to.
type memo struct {
	mu   sync.Mutex
	sums map[*fsdiff.Entry]digest.Digest
	busy map[*fsdiff.Entry]chan struct{} // closed when the digest is known, or was not to be had
}

// claim fills sums from what is known. It returns the entries that the caller
// has to see to, which then calls release, and a channel to wait for when
// others are seeing to some.
func (m *memo) claim(entries []*fsdiff.Entry, sums []digest.Digest, done chan struct{}) (mine []int, wait chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sums == nil {
		m.sums, m.busy = map[*fsdiff.Entry]digest.Digest{}, map[*fsdiff.Entry]chan struct{}{}
	}
	for i, e := range entries {
		if sums[i] != "" {
			continue
		}
		if sums[i] = m.sums[e]; sums[i] != "" {
			continue
		}
		switch other := m.busy[e]; other {
		case nil:
			m.busy[e] = done
			mine = append(mine, i)
		case done: // the same entry twice
			wait = done
		default:
			wait = other
		}
	}
	return mine, wait
}

func (m *memo) release(entries []*fsdiff.Entry, sums []digest.Digest, mine []int, done chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, i := range mine {
		delete(m.busy, entries[i])
		if sums[i] != "" {
			m.sums[entries[i]] = sums[i]
		}
	}
	close(done)
}

// digests returns the digest of each entry: header and bytes, but nothing of
// what is below a directory. What is not known yet is read on all CPUs.
func (h *Hasher) digests(ctx context.Context, v *fsdiff.View, entries []*fsdiff.Entry) ([]digest.Digest, error) {
	sums := make([]digest.Digest, len(entries))
	m := &h.memos[0]
	if v.IsContext() {
		m = &h.memos[1]
	}
	for {
		done := make(chan struct{})
		mine, wait := m.claim(entries, sums, done)
		err := h.read(ctx, v, entries, sums, mine)
		m.release(entries, sums, mine, done)
		if err != nil {
			return nil, err
		}
		if wait == nil {
			return sums, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// read fills sums for the entries with the indexes todo.
func (h *Hasher) read(ctx context.Context, v *fsdiff.View, entries []*fsdiff.Entry, sums []digest.Digest, todo []int) error {
	var taken atomic.Int64
	inContext := v.IsContext()
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), (len(todo)+workChunk-1)/workChunk) {
		g.Go(func() error {
			w := worker{h: h, v: v, inContext: inContext, sum: sha256.New()}
			for {
				lo := int(taken.Add(workChunk)) - workChunk
				if lo >= len(todo) {
					return nil
				}
				if err := context.Cause(ctx); err != nil {
					return err
				}
				for _, i := range todo[lo:min(lo+workChunk, len(todo))] {
					var err error
					if sums[i], err = w.entry(entries[i]); err != nil {
						return err
					}
				}
			}
		})
	}
	return g.Wait()
}

// A worker takes digests of entries, one after the other.
type worker struct {
	h         *Hasher
	v         *fsdiff.View
	inContext bool // v is a build context
	sum       hash.Hash
	header    []byte
	buf       []byte // readBuffer, once needed
}

func (w *worker) entry(e *fsdiff.Entry) (digest.Digest, error) {
	if e.Path == "" && w.inContext {
		// A client sends no header of the root. BuildKit takes the one of the
		// directory it received into only when there was nothing to receive.
		list, err := w.v.ReadDir("")
		if err != nil {
			return "", err
		}
		if len(list) > 0 {
			return emptyDigest, nil
		}
	}
	w.header = appendHeader(w.header[:0], e, w.inContext)
	file, onDisk := e.Content.(*fsdiff.File)
	var key cacheKey
	if onDisk && e.Size > 0 && w.h.cache != nil {
		key = keyOf(file.ID(), w.header)
		if d, ok := w.h.cache.get(key); ok {
			return d, nil
		}
	}
	w.sum.Reset()
	w.sum.Write(w.header)
	if err := w.bytes(e); err != nil {
		return "", err
	}
	d := digestOf(w.sum)
	if onDisk && e.Size > 0 && w.h.cache != nil {
		w.h.cache.put(key, file.ID(), d)
	}
	return d, nil
}

// digestOf is digest.NewDigest without its formatting, which is what a sum of
// many small trees otherwise spends its time on.
func digestOf(h hash.Hash) digest.Digest {
	var sum [sha256.Size]byte
	return spell(h.Sum(sum[:0]))
}

func spell(sum []byte) digest.Digest {
	const prefix = "sha256:"
	var b [len(prefix) + 2*sha256.Size]byte
	return digest.Digest(hex.AppendEncode(append(b[:0], prefix...), sum))
}

func (w *worker) bytes(e *fsdiff.Entry) (err error) {
	if !e.IsRegular() || e.Size == 0 || e.Content == nil {
		return nil
	}
	if w.buf == nil {
		w.buf = make([]byte, readBuffer)
	}
	if f, ok := e.Content.(*fsdiff.File); ok {
		return f.WriteTo(w.sum, w.buf)
	}
	r, err := e.Content.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	_, err = io.CopyBuffer(struct{ io.Writer }{w.sum}, struct{ io.Reader }{r}, w.buf)
	return err
}
