package treestore

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A reader cuts files into chunks. It is for one goroutine.
type reader struct {
	root  *root
	cut   *cutter
	buf   []byte
	done  chan struct{} // for packer.add
	bytes int64         // read
}

func newReader(r *root) *reader {
	return &reader{root: r, cut: newCutter(), buf: make([]byte, 2*maxChunk), done: make(chan struct{})}
}

// A file is what was read of one: its stat before and after, and its content.
type file struct {
	stat   stat
	at     time.Time // when the reading ended
	node   node      // what may have changed since the scan: mode, owner, size, time
	pieces []pieceAt
}

// A pieceAt is a piece whose chunk has no position yet; nil for a hole.
type pieceAt struct {
	chunk *chunkAt
	size  int64
}

// errChanged says that a file is not the one it was at the beginning.
var errChanged = errors.New("the file changed while it was read")

// read cuts a file; chunk is called for each chunk with its bytes, which are
// the reader's again when it returns. The error is errChanged for a file that
// is written to at the same time.
func (r *reader) read(ctx context.Context, e *scanned, chunk func(data []byte) (*chunkAt, error)) (*file, error) {
	f, err := r.root.read(e.path)
	if vanished(err) || errors.Is(err, unix.ENXIO) {
		return nil, errChanged
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	before, err := fstat(f)
	if err != nil {
		return nil, err
	}
	out := &file{stat: statOf(before), node: e.node}
	n := &out.node
	n.mode, n.uid, n.gid, n.size, n.mtime = uint32(before.Mode), before.Uid, before.Gid, before.Size, out.stat.mtime
	if n.kind() != unix.S_IFREG || out.stat.ino != e.stat.ino {
		return nil, errChanged
	}
	for off := int64(0); off < n.size; {
		from, to, err := dataIn(f, off, n.size, out.stat.blocks*512 < n.size)
		if err != nil {
			return nil, err
		}
		if from > off {
			out.pieces = append(out.pieces, pieceAt{nil, from - off})
		}
		if err := r.extent(ctx, f, from, to, chunk, &out.pieces); err != nil {
			return nil, err
		}
		off = to
	}
	after, err := fstat(f)
	if err != nil {
		return nil, err
	}
	if out.at = time.Now(); !out.stat.sameFile(statOf(after)) {
		return nil, errChanged
	}
	return out, nil
}

func fstat(f *os.File) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return &st, nil
}

// dataIn returns the first part of a file from off on that is no hole; from is
// size when there is none. A file that is not sparse is all data.
func dataIn(f *os.File, off, size int64, sparse bool) (from, to int64, err error) {
	if !sparse {
		return off, size, nil
	}
	from, err = unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil // a hole up to the end
	case err != nil:
		return off, size, nil // the file system knows no holes
	}
	if to, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE); err != nil {
		return off, size, nil
	}
	return min(from, size), min(to, size), nil
}

// extent cuts the bytes of a file from off to end.
func (r *reader) extent(ctx context.Context, f *os.File, off, end int64, chunk func([]byte) (*chunkAt, error), pieces *[]pieceAt) error {
	have := r.buf[:0]
	for off < end || len(have) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if len(have) < maxChunk && off < end {
			have = r.buf[:copy(r.buf, have)]
			n, err := f.ReadAt(r.buf[len(have):min(int64(len(r.buf)), int64(len(have))+end-off)], off)
			have, off = r.buf[:len(have)+n], off+int64(n)
			r.bytes += int64(n)
			if errors.Is(err, io.EOF) && off < end {
				return errChanged // it is shorter now
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			continue
		}
		n := r.cut.cut(have)
		c, err := chunk(have[:n])
		if err != nil {
			return err
		}
		*pieces = append(*pieces, pieceAt{c, int64(n)})
		have = have[n:]
	}
	return nil
}

// again reads a chunk from the place where it was found. The bytes are the
// reader's; ok is false when they are no longer those of the chunk.
func (r *reader) again(path string, c *chunkAt) (data []byte, ok bool) {
	f, err := r.root.read(path)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	data = r.buf[:c.size]
	n, _ := f.ReadAt(data, c.offset)
	r.bytes += int64(n)
	return data, int64(n) == c.size && sha256.Sum256(data) == c.sum
}
