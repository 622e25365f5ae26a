package compression

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// A reader holds at most aheadBlocks blocks of aheadBlock bytes of
	// decompressed data that nobody has read yet.
	aheadBlocks = 6
	aheadBlock  = 256 << 10

	// maxWindow bounds the memory, in bytes, that a zstd stream can ask for:
	// that of zstd --long=27, which the zstd command accepts by default.
	maxWindow = 128 << 20
)

// Detect returns the type of a stream that starts with prefix; 4 bytes are
// enough. What has no magic number of gzip or zstd is Uncompressed.
func Detect(prefix []byte) Type {
	switch {
	case bytes.HasPrefix(prefix, []byte{0x1f, 0x8b, 0x08}):
		return Gzip
	case bytes.HasPrefix(prefix, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd
	case len(prefix) >= 4 && prefix[0]&0xf0 == 0x50 && bytes.Equal(prefix[1:4], []byte{0x2a, 0x4d, 0x18}):
		return Zstd // starts with a skippable frame
	}
	return Uncompressed
}

// NewReader returns a reader of r decompressed: gzip (with any number of
// members), zstd (with any number of frames) or, when r is neither, r's own
// bytes. Decompressing runs ahead of the caller in a goroutine, which Close
// ends; Close waits for a Read of r that is under way and does not close r.
func NewReader(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 128<<10)
	prefix, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch t := Detect(prefix); t {
	case Gzip:
		zr, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("decompress %s: %w", t, err)
		}
		return newAhead(zr, t, func() { zr.Close() }), nil
	case Zstd:
		// One goroutine is as fast as klauspost's three with half the CPU.
		zr, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("decompress %s: %w", t, err)
		}
		return newAhead(zr, t, zr.Close), nil
	default:
		return io.NopCloser(br), nil
	}
}

// An ahead reads a reader in a goroutine of its own.
type ahead struct {
	typ    Type
	full   chan []byte // what was read
	free   chan []byte // buffers
	stop   chan struct{}
	ended  chan struct{} // closed when the goroutine is gone
	cur    []byte        // what Read gives next, part of buf
	buf    []byte
	err    error // of the goroutine; read after full is closed
	closed bool
}

func newAhead(r io.Reader, t Type, release func()) *ahead {
	a := &ahead{
		typ:   t,
		full:  make(chan []byte, aheadBlocks),
		free:  make(chan []byte, aheadBlocks),
		stop:  make(chan struct{}),
		ended: make(chan struct{}),
	}
	for range aheadBlocks {
		a.free <- nil // made by need: most layers are small
	}
	go a.run(r, release)
	return a
}

func (a *ahead) run(r io.Reader, release func()) {
	defer close(a.ended)
	defer release()
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.free:
		case <-a.stop:
			return
		}
		if buf == nil {
			buf = make([]byte, aheadBlock)
		}
		n, err := fill(r, buf[:aheadBlock])
		if n > 0 {
			a.full <- buf[:n] // has room: there are as many buffers as places
		}
		if err != nil {
			if err != io.EOF {
				err = fmt.Errorf("decompress %s: %w", a.typ, err)
			}
			a.err = err
			return
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

// next makes a.cur the next block.
func (a *ahead) next() error {
	if a.closed {
		return io.ErrClosedPipe
	}
	if a.buf != nil {
		a.free <- a.buf
		a.buf, a.cur = nil, nil
	}
	buf, ok := <-a.full
	if !ok {
		return a.err
	}
	a.buf, a.cur = buf, buf
	return nil
}

func (a *ahead) Read(p []byte) (int, error) {
	if len(a.cur) == 0 {
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
		if len(a.cur) == 0 {
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

// Close ends the goroutine and waits for it.
func (a *ahead) Close() error {
	if !a.closed {
		a.closed = true
		a.cur = nil
		close(a.stop)
	}
	<-a.ended
	return nil
}
