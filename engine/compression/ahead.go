package compression

import (
	"fmt"
	"io"
	"runtime"
	"sync"
)

// aheadBlock is how many bytes a copying producer hands over at a time.
const aheadBlock = 256 << 10

// An ahead is a reader whose bytes are made in other goroutines: a producer
// that emits blocks in order, and one for each block that takes long to make.
// The number of buffers bounds how far it runs ahead of whoever reads.
type ahead struct {
	typ   Type
	queue chan chan block // in order; closed when the producer is done
	free  chan []byte     // buffers
	stop  chan struct{}
	group sync.WaitGroup

	cur, buf []byte // what Read gives next, and the buffer it is part of
	held     bool   // buf goes back to free
	err      error  // sticky
	closed   bool
}

// newAhead starts produce, which returns io.EOF or what went wrong.
func newAhead(t Type, produce func(*ahead) error) *ahead {
	n := runtime.GOMAXPROCS(0) + 4
	a := &ahead{
		typ:   t,
		queue: make(chan chan block, n+1), // a buffer each, and the end
		free:  make(chan []byte, n),
		stop:  make(chan struct{}),
	}
	for range n {
		a.free <- nil // made by need: most layers are small
	}
	a.group.Go(func() {
		defer close(a.queue)
		end := make(chan block, 1)
		end <- block{err: produce(a)}
		a.queue <- end
	})
	return a
}

// buffer returns a buffer of any size for the next block. The error is that
// of a reader that was closed.
func (a *ahead) buffer() ([]byte, error) {
	select {
	case <-a.stop:
		return nil, io.ErrClosedPipe
	default:
	}
	select {
	case buf := <-a.free:
		return buf, nil
	case <-a.stop:
		return nil, io.ErrClosedPipe
	}
}

// emit makes the next block in a goroutine of its own; what fill returns takes
// the place of the buffer that the producer got for it.
func (a *ahead) emit(fill func() ([]byte, error)) {
	b := make(chan block, 1)
	a.queue <- b
	a.group.Go(func() {
		data, err := fill()
		b <- block{data, err}
	})
}

// copy emits the bytes of r.
func (a *ahead) copy(r io.Reader) error {
	for {
		buf, err := a.buffer()
		if err != nil {
			return err
		}
		if cap(buf) < aheadBlock {
			buf = make([]byte, aheadBlock)
		}
		n, err := fill(r, buf[:aheadBlock])
		b := make(chan block, 1)
		b <- block{data: buf[:n]}
		a.queue <- b
		if err != nil {
			return err
		}
	}
}

// fill reads until p is full and returns r's own error: io.ReadFull says
// io.ErrUnexpectedEOF both for a short last block and for a stream cut off.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}

// next makes a.cur the next block, which may be empty.
func (a *ahead) next() error {
	if a.held {
		a.free <- a.buf
		a.buf, a.cur, a.held = nil, nil, false
	}
	if a.err != nil {
		return a.err
	}
	b := <-<-a.queue
	switch {
	case b.err == io.EOF:
		a.err = io.EOF
	case b.err != nil:
		a.err = fmt.Errorf("decompress %s: %w", a.typ, b.err)
	default:
		a.buf, a.cur, a.held = b.data, b.data, true
	}
	return a.err
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.cur) == 0 {
		if err := a.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, a.cur)
	a.cur = a.cur[n:]
	return n, nil
}

// WriteTo gives whole blocks to w, without a copy between.
func (a *ahead) WriteTo(w io.Writer) (int64, error) {
	var written int64
	for {
		for len(a.cur) == 0 {
			if err := a.next(); err == io.EOF {
				return written, nil
			} else if err != nil {
				return written, err
			}
		}
		n, err := w.Write(a.cur)
		a.cur = a.cur[n:]
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
}

// Close ends the goroutines and waits for them.
func (a *ahead) Close() error {
	if !a.closed {
		a.closed = true
		a.cur, a.held, a.err = nil, false, io.ErrClosedPipe
		close(a.stop)
	}
	a.group.Wait()
	return nil
}
