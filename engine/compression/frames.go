package compression

import (
	"fmt"
	"io"
	"runtime"
)

// A frameWriter cuts what is written into frames of one size, compresses
// several at once, and writes them one after the other. Both gzip members and
// zstd frames, concatenated, are one stream to every reader.
type frameWriter struct {
	typ    Type
	size   int // of a frame, in bytes before compression
	encode func(frame []byte) ([]byte, error)

	buf []byte
	any bool // a frame was started
	end bool // Close was called

	free  chan []byte     // frame buffers; bounds what is in memory
	queue chan chan block // compressed frames, in order
	done  chan error      // the first error of an encoder or the writer below
	err   error           // set by Close
}

// A block is some bytes of a stream, or its end.
type block struct {
	data []byte
	err  error
}

// newFrameWriter returns a writer onto w. encode may be called from several
// goroutines at once, never with more than size bytes; for no bytes at all it
// is called once, with none.
func newFrameWriter(w io.Writer, t Type, size int, encode func([]byte) ([]byte, error)) *frameWriter {
	n := runtime.GOMAXPROCS(0)
	f := &frameWriter{
		typ: t, size: size, encode: encode,
		free:  make(chan []byte, n+1),
		queue: make(chan chan block, n),
		done:  make(chan error, 1),
	}
	for range n + 1 {
		f.free <- nil // grown by need: most layers are small
	}
	go f.drain(w)
	return f
}

func (f *frameWriter) Write(p []byte) (int, error) {
	if f.end {
		return 0, fmt.Errorf("compress with %s: %w", f.typ, io.ErrClosedPipe)
	}
	written := len(p)
	for len(p) > 0 {
		if f.buf == nil {
			select {
			case err := <-f.done:
				f.done <- err
				return 0, err
			case b := <-f.free:
				f.buf = b[:0]
			}
		}
		n := min(len(p), f.size-len(f.buf))
		f.buf = append(f.buf, p[:n]...)
		p = p[n:]
		if len(f.buf) == f.size {
			f.start()
		}
	}
	return written, nil
}

// start compresses the buffer beside the caller.
func (f *frameWriter) start() {
	frame := make(chan block, 1)
	f.queue <- frame
	buf := f.buf
	f.buf, f.any = nil, true
	go func() {
		out, err := f.encode(buf)
		f.free <- buf
		frame <- block{out, err}
	}()
}

// drain writes the frames in order until the queue is closed; after an error
// it only takes them, so that nobody waits forever.
func (f *frameWriter) drain(w io.Writer) {
	var err error
	for frame := range f.queue {
		b := <-frame
		if err != nil {
			continue
		}
		if err = b.err; err == nil {
			_, err = w.Write(b.data)
		}
		if err != nil {
			f.done <- err
		}
	}
	if err == nil {
		f.done <- nil
	}
}

// Close writes what is left and returns the first error.
func (f *frameWriter) Close() error {
	if f.end {
		return f.err
	}
	f.end = true
	if !f.any && f.buf == nil {
		f.buf = <-f.free // no bytes are one empty frame
	}
	if f.buf != nil {
		f.start()
	}
	close(f.queue)
	f.err = <-f.done
	return f.err
}
