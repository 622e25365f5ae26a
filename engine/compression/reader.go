package compression

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds the memory, in bytes, that a zstd stream can ask for: that
// of zstd --long=27, which the zstd command accepts by default.
const maxWindow = 128 << 20

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
// bytes. Decompressing runs ahead of the caller, some MiB at most, and on all
// cores for gzip that NewWriter wrote. Close ends that; it waits for a Read of
// r that is under way and does not close r.
func NewReader(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 128<<10)
	prefix, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch t := Detect(prefix); t {
	case Gzip:
		return newAhead(t, func(a *ahead) error { return a.gunzip(br) }), nil
	case Zstd:
		// One goroutine is as fast as klauspost's three with half the CPU.
		zr, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("decompress %s: %w", t, err)
		}
		return newAhead(t, func(a *ahead) error {
			defer zr.Close()
			return a.copy(zr)
		}), nil
	default:
		return io.NopCloser(br), nil
	}
}

// gunzip decompresses members, those of ours several at once.
func (a *ahead) gunzip(br *bufio.Reader) error {
	var d memberDecoder
	var zr gzip.Reader // for members that are not ours
	for {
		header, err := br.Peek(memberHeader)
		if len(header) == 0 {
			return err
		}
		n := memberSize(header)
		if n == 0 {
			if err := zr.Reset(br); err == io.EOF {
				return io.ErrUnexpectedEOF // in a header that has begun
			} else if err != nil {
				return err
			}
			zr.Multistream(false)
			if err := a.copy(&zr); err != io.EOF {
				return err
			}
			continue
		}
		member := make([]byte, n)
		if _, err := io.ReadFull(br, member); err != nil {
			return err
		}
		buf, err := a.buffer()
		if err != nil {
			return err
		}
		a.emit(func() ([]byte, error) { return d.decode(buf[:0], member) })
	}
}
