package compression

import (
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
)

// Defaults, measured on 200 MiB of Go sources, shared libraries and binaries
// with two cores, against the 66.8 MB that zlib's level 6 makes at 38 MB/s:
//
//	gzip 3  342 MB/s  +9.8 %      zstd fastest  430 MB/s  +2.1 %
//	gzip 4  279 MB/s  +6.3 %      zstd default  290 MB/s  -5.6 %
//	gzip 5  231 MB/s  +3.5 %
//	gzip 6  217 MB/s  +2.3 %
const (
	gzipLevel = 4

	// gzipBlock is what one core compresses at a time, in bytes. It changes
	// the output, so it changes digests.
	gzipBlock = 1 << 20

	// zstdFrame is the same for zstd, in bytes before compression: frames of
	// 8 MiB cost 0.5 % of size against a single one. It changes the output.
	zstdFrame = 8 << 20
)

// Config says how to compress. Configs can be compared with == and be the
// keys of a map.
type Config struct {
	Type  Type  // the zero Type is Gzip
	Level Level // the zero Level means gzip 4, zstd 3; not used with Uncompressed
}

// A Level trades time for size.
type Level struct {
	n   int
	set bool
}

// At returns the level n of gzip (0 to 9, and -1, -2 as in compress/gzip) or
// of the zstd command (1 to 22).
func At(n int) Level { return Level{n, true} }

// NewWriter returns a writer that compresses onto w. Close ends the stream and
// returns the first error of w; it is needed in every case, since it also ends
// the goroutines behind the writer, and it does not close w.
func NewWriter(w io.Writer, c Config) (io.WriteCloser, error) {
	switch c.Type {
	case Uncompressed:
		return plainWriter{w}, nil
	case Gzip:
		level := gzipLevel
		if c.Level.set {
			level = c.Level.n
		}
		// Lower levels than gzip knows mean other things to pgzip.
		if level < pgzip.HuffmanOnly || level > pgzip.BestCompression {
			return nil, fmt.Errorf("compress with gzip: level %d: want -2 to 9", level)
		}
		zw, err := pgzip.NewWriterLevel(w, level)
		if err != nil {
			return nil, fmt.Errorf("compress with gzip: %w", err)
		}
		if err := zw.SetConcurrency(gzipBlock, max(2, runtime.GOMAXPROCS(0))); err != nil {
			return nil, fmt.Errorf("compress with gzip: %w", err)
		}
		return zw, nil
	case Zstd:
		level := zstd.SpeedDefault
		if c.Level.set {
			level = zstd.EncoderLevelFromZstd(c.Level.n)
		}
		return newZstdWriter(w, level)
	}
	return nil, fmt.Errorf("compress with %v: no such type", c.Type)
}

type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }

// A zstdWriter compresses frames of zstdFrame bytes, several at once, and
// writes them one after the other: concatenated frames are one zstd stream.
type zstdWriter struct {
	enc *zstd.Encoder
	buf []byte
	any bool // a frame was started
	end bool // Close was called

	free  chan []byte      // frame buffers; bounds what is in memory
	queue chan chan []byte // compressed frames, in order
	done  chan error       // the first error of the writer below
	err   error            // set by Close
}

func newZstdWriter(w io.Writer, level zstd.EncoderLevel) (*zstdWriter, error) {
	n := runtime.GOMAXPROCS(0)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(n), zstd.WithZeroFrames(true))
	if err != nil {
		return nil, fmt.Errorf("compress with zstd: %w", err)
	}
	z := &zstdWriter{
		enc:   enc,
		free:  make(chan []byte, n+1),
		queue: make(chan chan []byte, n),
		done:  make(chan error, 1),
	}
	for range n + 1 {
		z.free <- nil // grown by need: most layers are small
	}
	go z.drain(w)
	return z, nil
}

func (z *zstdWriter) Write(p []byte) (int, error) {
	if z.end {
		return 0, fmt.Errorf("compress with zstd: %w", io.ErrClosedPipe)
	}
	written := len(p)
	for len(p) > 0 {
		if z.buf == nil {
			select {
			case err := <-z.done:
				z.done <- err
				return 0, err
			case b := <-z.free:
				z.buf = b[:0]
			}
		}
		n := min(len(p), zstdFrame-len(z.buf))
		z.buf = append(z.buf, p[:n]...)
		p = p[n:]
		if len(z.buf) == zstdFrame {
			z.start()
		}
	}
	return written, nil
}

// start compresses the buffer beside the caller.
func (z *zstdWriter) start() {
	frame := make(chan []byte, 1)
	z.queue <- frame
	buf := z.buf
	z.buf, z.any = nil, true
	go func() {
		out := z.enc.EncodeAll(buf, make([]byte, 0, len(buf)/2))
		z.free <- buf
		frame <- out
	}()
}

// drain writes the frames in order until the queue is closed; after an error
// it only takes them, so that nobody waits forever.
func (z *zstdWriter) drain(w io.Writer) {
	var err error
	for frame := range z.queue {
		out := <-frame
		if err != nil {
			continue
		}
		if _, err = w.Write(out); err != nil {
			z.done <- err
		}
	}
	if err == nil {
		z.done <- nil
	}
}

// Close writes what is left and returns the first error of the writer below.
func (z *zstdWriter) Close() error {
	if z.end {
		return z.err
	}
	z.end = true
	if !z.any && z.buf == nil {
		z.buf = <-z.free // no bytes are one empty frame
	}
	if z.buf != nil {
		z.start()
	}
	close(z.queue)
	z.err = <-z.done
	return z.err
}
