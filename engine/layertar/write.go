package layertar

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

const (
	// segmentSize is how many bytes of tar one goroutine makes at a time:
	// some hundred small files, so that what a hand-over costs is not seen.
	segmentSize = 1 << 20

	// bigFile is the size in bytes from which a file is streamed past the
	// segments: reading it costs little beside compressing it.
	bigFile = 512 << 10

	copyBuffer = 256 << 10 // bytes

	block = 512 // bytes, of tar
)

// Write writes the layer tar of what d changes of base, which is nil for the
// empty root. A Diff that changes nothing is an empty tar. Small files are read
// several at once, ahead of w, with at most some MiB in memory; w gets writes
// of about 1 MiB. A file whose content is longer or shorter than its entry says
// is an error that names it.
func Write(ctx context.Context, w io.Writer, d fsdiff.Diff, base *fsdiff.View) (Stats, error) {
	stats, err := Pack(ctx, w, func(ctx context.Context, add func(*tar.Header, *fsdiff.Entry) error) error {
		h := newHeaders(d, base, add)
		x := &differ{ctx: ctx, diff: d, base: base, emit: h.change}
		return x.walk("", base != nil)
	})
	if err != nil {
		return Stats{}, fmt.Errorf("write layer: %w", err)
	}
	return stats, nil
}

// Pack writes a tar with the headers that walk adds, each followed by the
// content of its entry unless its size is 0. Files are read as Write does.
func Pack(ctx context.Context, w io.Writer, walk func(ctx context.Context, add func(*tar.Header, *fsdiff.Entry) error) error) (Stats, error) {
	g, ctx := errgroup.WithContext(ctx)
	p := &packer{
		ctx:   ctx,
		group: g,
		slots: make(chan struct{}, workers()+2),
		queue: make(chan *segment, workers()+2),
	}
	g.Go(func() error {
		defer close(p.queue)
		if err := walk(ctx, p.add); err != nil {
			return err
		}
		return p.flush()
	})
	var stats Stats
	g.Go(func() (err error) {
		stats, err = p.drain(w)
		return err
	})
	if err := g.Wait(); err != nil {
		return Stats{}, err
	}
	return stats, nil
}

// A packer makes segments of a tar side by side and writes them in order.
type packer struct {
	ctx   context.Context
	group *errgroup.Group
	cur   *segment
	slots chan struct{} // one taken by each segment in flight
	queue chan *segment // in the order of the tar
	bufs  sync.Pool     // *bytes.Buffer
}

// A segment is a run of entries, or of entries and the header of a big file.
type segment struct {
	items []item
	size  int64 // bytes of tar, about
	big   *fsdiff.Entry

	buf  *bytes.Buffer
	done chan error
}

type item struct {
	hdr   *tar.Header
	entry *fsdiff.Entry
}

// add is called by the one goroutine that walks.
func (p *packer) add(hdr *tar.Header, e *fsdiff.Entry) error {
	if p.cur == nil {
		p.cur = &segment{}
	}
	s := p.cur
	s.items = append(s.items, item{hdr, e})
	s.size += block + hdr.Size
	if hdr.Size >= bigFile {
		s.big = e
		return p.flush()
	}
	if s.size >= segmentSize {
		return p.flush()
	}
	return nil
}

// flush starts to fill the segment at hand.
func (p *packer) flush() error {
	s := p.cur
	if s == nil {
		return nil
	}
	p.cur = nil
	select {
	case p.slots <- struct{}{}:
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
	s.buf, _ = p.bufs.Get().(*bytes.Buffer)
	if s.buf == nil {
		s.buf = new(bytes.Buffer)
	}
	s.done = make(chan error, 1)
	p.group.Go(func() error {
		err := s.fill()
		s.done <- err
		return err
	})
	p.queue <- s // has as much room as there are slots
	return nil
}

func (s *segment) fill() error {
	tw := tar.NewWriter(s.buf)
	buf := make([]byte, 32<<10)
	for _, it := range s.items {
		if err := tw.WriteHeader(it.hdr); err != nil {
			return fmt.Errorf("%q: %w", it.hdr.Name, err)
		}
		if it.hdr.Size == 0 || it.entry == s.big {
			continue // the bytes of s.big follow the segment
		}
		if err := copyContent(tw, it.entry, buf); err != nil {
			return err
		}
	}
	if s.big != nil {
		return nil
	}
	return tw.Flush()
}

// drain writes the segments and the end of the tar.
func (p *packer) drain(dst io.Writer) (Stats, error) {
	w := &counter{w: dst}
	entries := 0
	var buf []byte
	for s := range p.queue {
		var err error
		select {
		case err = <-s.done:
		case <-p.ctx.Done():
			err = context.Cause(p.ctx)
		}
		if err != nil {
			return Stats{}, err
		}
		if _, err := w.Write(s.buf.Bytes()); err != nil {
			return Stats{}, err
		}
		if s.buf.Cap() <= 4*segmentSize {
			s.buf.Reset()
			p.bufs.Put(s.buf)
		}
		<-p.slots
		entries += len(s.items)
		if s.big == nil {
			continue
		}
		if buf == nil {
			buf = make([]byte, copyBuffer)
		}
		if err := copyContent(canceler{p.ctx, w}, s.big, buf); err != nil {
			return Stats{}, err
		}
		if _, err := w.Write(make([]byte, -s.big.Size&(block-1))); err != nil {
			return Stats{}, err
		}
	}
	if p.ctx.Err() != nil { // the walk ended early
		return Stats{}, context.Cause(p.ctx)
	}
	_, err := w.Write(make([]byte, 2*block))
	return Stats{Size: w.n, Entries: entries}, err
}

// copyContent writes the e.Size bytes of e's content.
func copyContent(w io.Writer, e *fsdiff.Entry, buf []byte) error {
	if e.Content == nil {
		return fmt.Errorf("%q: entry has %d bytes but no content", e.Path, e.Size)
	}
	if f, ok := e.Content.(*fsdiff.File); ok && f.ID().Size == e.Size {
		if err := f.WriteTo(w, buf); err != nil {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
		return nil
	}
	r, err := e.Content.Open()
	if err != nil {
		return fmt.Errorf("%q: %w", e.Path, err)
	}
	// No WriteTo and ReadFrom, which would go around the limit and buf.
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(r, e.Size), buf)
	if err == nil && n < e.Size {
		err = fmt.Errorf("content has %d bytes, entry says %d", n, e.Size)
	}
	if err == nil {
		if m, endErr := io.ReadFull(r, buf[:1]); m > 0 {
			err = fmt.Errorf("content has more than the %d bytes its entry says", e.Size)
		} else if endErr != io.EOF {
			err = endErr
		}
	}
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("%q: %w", e.Path, err)
	}
	return nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

type canceler struct {
	ctx context.Context
	w   io.Writer
}

func (c canceler) Write(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.w.Write(p)
}
