package layer

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"syscall"
	"time"

	"crypto/sha256"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/engine/compression"
	"github.com/mayfly-build/mayfly/engine/content"
	"github.com/mayfly-build/mayfly/engine/layertar"
	"github.com/mayfly-build/mayfly/engine/progress"
	"github.com/mayfly-build/mayfly/engine/statedir"
)

// makeBlob writes the layer's blob to the content store: files → tar → digest
// of the tar → compression → digest of the blob, as one stream.
func (st *Store) makeBlob(ctx context.Context, s *State, c compression.Config) (Blob, error) {
	w, err := st.content.Writer()
	if err != nil {
		return Blob{}, err
	}
	defer w.Abort()
	p := progress.From(ctx).Start("compressing layer "+s.info.Description, 0)
	defer p.Done()
	z, err := compression.NewWriter(w, c)
	if err != nil {
		return Blob{}, err
	}
	h := newHasher()
	defer h.stop()
	if err := st.writeTar(ctx, s, io.MultiWriter(h, countedWriter{z, p})); err != nil {
		_ = z.Close()
		return Blob{}, err
	}
	if err := z.Close(); err != nil {
		return Blob{}, err
	}
	desc, err := w.Commit("", -1)
	if err != nil {
		return Blob{}, err
	}
	desc.MediaType = c.Type.MediaType()
	return Blob{Desc: desc, DiffID: h.sum()}, nil
}

type countedWriter struct {
	io.Writer
	p *progress.Part
}

func (c countedWriter) Write(b []byte) (int, error) {
	c.p.Add(len(b))
	return c.Writer.Write(b)
}

// writeTar writes the layer as a tar: from a blob when there is one, so that
// the diff ID stays what it was, else from its files.
func (st *Store) writeTar(ctx context.Context, s *State, w io.Writer) error {
	if blobs := s.Blobs(); len(blobs) > 0 {
		b := blobs[0]
		r, err := st.open(ctx, s, b)
		if err != nil {
			return err
		}
		defer r.Close()
		plain, err := compression.NewReader(r)
		if err != nil {
			return st.blame(ctx, s, b, err)
		}
		defer plain.Close()
		if _, err := io.Copy(w, plain); err != nil {
			return st.blame(ctx, s, b, err)
		}
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		_, err := s.parent.View(gctx)
		return err
	})
	d, err := s.Diff(ctx)
	if err != nil {
		return err
	}
	if err := g.Wait(); err != nil {
		return err
	}
	base, err := s.parent.View(ctx)
	if err != nil {
		return err
	}
	_, err = layertar.Write(ctx, w, d, base)
	return err
}

// Ingest stores a blob's bytes, for layers that are made elsewhere.
func (st *Store) Ingest() (*content.Writer, error) { return st.content.Writer() }

// A hasher hashes beside the goroutine that writes to it.
type hasher struct {
	h      hash.Hash
	chunks chan []byte
	free   chan []byte
	done   chan struct{}
	over   bool
}

const (
	hashChunk  = 256 << 10 // bytes copied at once
	hashChunks = 8         // in flight
)

func newHasher() *hasher {
	h := &hasher{
		h: sha256.New(), chunks: make(chan []byte, hashChunks),
		free: make(chan []byte, hashChunks), done: make(chan struct{}),
	}
	for range hashChunks {
		h.free <- make([]byte, 0, hashChunk)
	}
	go func() {
		defer close(h.done)
		for c := range h.chunks {
			h.h.Write(c)
			h.free <- c[:0]
		}
	}()
	return h
}

func (h *hasher) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		c := <-h.free
		m := min(len(p), hashChunk)
		h.chunks <- append(c, p[:m]...)
		p = p[m:]
	}
	return n, nil
}

// stop ends the goroutine; sum may follow.
func (h *hasher) stop() {
	if !h.over {
		h.over = true
		close(h.chunks)
		<-h.done
	}
}

func (h *hasher) sum() digest.Digest {
	h.stop()
	return digest.NewDigest(digest.SHA256, h.h)
}

func isNotEmpty(err error) bool { return errors.Is(err, syscall.ENOTEMPTY) }

func writeSealed(path string, v any) error {
	dt, err := statedir.Seal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, dt, 0o644)
}

// Rewritten returns the layer's blob with no file newer than epoch. It is a new
// blob in the content store, compressed as b is; c is how when b's compression
// is c's.
func (st *Store) Rewritten(ctx context.Context, s *State, b Blob, c compression.Config, epoch time.Time) (Blob, error) {
	if s.of != nil {
		s = s.of
	}
	r, err := st.open(ctx, s, b)
	if err != nil {
		return Blob{}, err
	}
	defer r.Close()
	plain, err := compression.NewReader(r)
	if err != nil {
		return Blob{}, st.blame(ctx, s, b, err)
	}
	defer plain.Close()
	w, err := st.content.Writer()
	if err != nil {
		return Blob{}, err
	}
	defer w.Abort()
	if t, err := compression.FromMediaType(b.Desc.MediaType); err == nil && c.Type != t {
		c = compression.Config{Type: t}
	}
	z, err := compression.NewWriter(w, c)
	if err != nil {
		return Blob{}, err
	}
	h := newHasher()
	defer h.stop()
	if err := layertar.Rewrite(ctx, plain, io.MultiWriter(h, z), epoch); err != nil {
		_ = z.Close()
		return Blob{}, st.blame(ctx, s, b, fmt.Errorf("rewrite times of layer %s: %w", b.Desc.Digest, err))
	}
	if err := z.Close(); err != nil {
		return Blob{}, err
	}
	desc, err := w.Commit("", -1)
	if err != nil {
		return Blob{}, err
	}
	desc.MediaType = c.Type.MediaType()
	return Blob{Desc: desc, DiffID: h.sum()}, nil
}
