package treestore

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/remotecache"
)

// A manifest is a zstd stream of manifestMagic, the name, the packs, the
// chunks and the nodes of a tree: numbers as varints, positions as what they
// are beyond the ones before, strings behind their lengths. Names need not be
// UTF-8.
const manifestMagic = "mayfly tree 1\n"

// Bounds of a manifest: bytes before it is compressed, and packs, chunks,
// nodes and their parts together. They do for a million files.
const (
	maxManifest = 256 << 20
	maxItems    = 8 << 20
)

// maxWindow bounds what a zstd stream makes its reader hold; packs and
// manifests are written with half of it.
const maxWindow = 8 << 20

// An encoder appends values.
type encoder struct{ buf []byte }

func (e *encoder) uint(v uint64)    { e.buf = binary.AppendUvarint(e.buf, v) }
func (e *encoder) int(v int64)      { e.buf = binary.AppendVarint(e.buf, v) }
func (e *encoder) raw(b []byte)     { e.buf = append(e.buf, b...) }
func (e *encoder) string(s string)  { e.uint(uint64(len(s))); e.buf = append(e.buf, s...) }
func (e *encoder) time(t time.Time) { e.int(t.Unix()); e.uint(uint64(t.Nanosecond())) }
func (e *encoder) digest(d sum)     { e.raw(d[:]) }
func (e *encoder) count(n int)      { e.uint(uint64(n)) }
func (e *encoder) stamp(t stamp)    { e.int(t.sec); e.uint(uint64(t.nsec)) }

// compressed returns what was appended as a zstd stream.
func (e *encoder) compressed() ([]byte, error) {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(maxWindow/2))
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(e.buf); err != nil {
		return nil, err
	}
	err = w.Close()
	return out.Bytes(), err
}

// A decoder reads what an encoder wrote. The first error stays, and from then
// on all values are zero.
type decoder struct {
	r     *bufio.Reader
	close func()
	items int // that each has read
	err   error
}

func newDecoder(data []byte, magic string) (*decoder, error) {
	z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	d := &decoder{r: bufio.NewReader(io.LimitReader(z, maxManifest)), close: z.Close}
	d.magic(magic)
	return d, nil
}

func (d *decoder) magic(want string) {
	if got := d.bytes(len(want)); d.err == nil && string(got) != want {
		d.err = fmt.Errorf("it begins with %q, not %q", got, want)
	}
}

// end returns the first error, and one when there is more to read.
func (d *decoder) end() error {
	defer d.close()
	if d.err != nil {
		return d.err
	}
	if _, err := d.r.ReadByte(); err != io.EOF {
		return errors.New("it goes on behind its end")
	}
	return nil
}

func (d *decoder) fail(err error) {
	if d.err == nil && err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		d.err = err
	}
}

func (d *decoder) uint() uint64 {
	if d.err != nil {
		return 0
	}
	v, err := binary.ReadUvarint(d.r)
	d.fail(err)
	return v
}

func (d *decoder) int() int64 {
	if d.err != nil {
		return 0
	}
	v, err := binary.ReadVarint(d.r)
	d.fail(err)
	return v
}

// below returns a number that is at most top.
func (d *decoder) below(top uint64) int {
	v := d.uint()
	if v > top {
		d.fail(fmt.Errorf("%d where at most %d may be", v, top))
		return 0
	}
	return int(v)
}

func (d *decoder) uint32() uint32 { return uint32(d.below(1<<32 - 1)) }

func (d *decoder) bytes(n int) []byte {
	if d.err != nil {
		return nil
	}
	b := make([]byte, n)
	_, err := io.ReadFull(d.r, b)
	d.fail(err)
	return b
}

func (d *decoder) string(limit int) string { return string(d.bytes(d.below(uint64(limit)))) }
func (d *decoder) time() time.Time         { return time.Unix(d.int(), int64(d.below(999_999_999))) }
func (d *decoder) stamp() stamp            { return stamp{d.int(), int32(d.below(999_999_999))} }

func (d *decoder) digest() (s sum) {
	copy(s[:], d.bytes(len(s)))
	return s
}

// each calls f as often as a count says.
func (d *decoder) each(f func()) {
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		if d.items++; d.items > maxItems {
			d.fail(fmt.Errorf("it has more than %d parts", maxItems))
			return
		}
		f()
	}
}

// encode returns the manifest of t.
func (t *tree) encode() ([]byte, error) {
	e := &encoder{}
	e.raw([]byte(manifestMagic))
	e.string(t.name.ID)
	e.string(t.name.Platform)
	e.time(t.saved)
	e.int(int64(t.maxAge))
	e.count(len(t.packs))
	for _, p := range t.packs {
		raw, err := sumOf(p.digest)
		if err != nil {
			return nil, err
		}
		e.digest(raw)
		e.uint(uint64(p.size))
		e.uint(uint64(p.raw))
	}
	e.count(len(t.chunks))
	at, end := 0, int64(0)
	for _, c := range t.chunks {
		e.digest(c.sum)
		e.count(c.pack - at)
		if c.pack > at {
			at, end = c.pack, 0
		}
		e.uint(uint64(c.off - end))
		e.uint(uint64(c.size))
		end = c.off + c.size
	}
	e.count(len(t.nodes))
	next := 0 // the chunk after the last one used
	for i := range t.nodes {
		next = e.node(t, i, next)
	}
	if len(e.buf) > maxManifest {
		return nil, fmt.Errorf("%d files and directories are too many: their list has %d bytes", len(t.nodes), len(e.buf))
	}
	return e.compressed()
}

func sumOf(d digest.Digest) (s sum, err error) {
	if d.Algorithm() != digest.SHA256 {
		return s, fmt.Errorf("digest %s is none of SHA-256", d)
	}
	_, err = hex.Decode(s[:], []byte(d.Encoded()))
	return s, err
}

// node appends a node. next is the chunk that the next piece is expected to
// be.
func (e *encoder) node(t *tree, i, next int) int {
	n := &t.nodes[i]
	e.count(i - n.parent)
	e.string(n.name)
	e.count(n.link)
	if n.link != 0 {
		return next
	}
	e.uint(uint64(n.mode))
	e.uint(uint64(n.uid))
	e.uint(uint64(n.gid))
	e.stamp(n.mtime)
	e.int(n.used - t.saved.Unix())
	e.count(len(n.xattrs))
	for _, x := range n.xattrs {
		e.string(x.name)
		e.string(string(x.value))
	}
	switch n.kind() {
	case unix.S_IFREG:
		e.uint(uint64(n.size))
		e.count(len(n.pieces))
		for _, p := range n.pieces {
			if p.chunk == hole { // 0, and how long it is
				e.count(0)
				e.uint(uint64(p.size))
				continue
			}
			e.uint(uint64(zigzag(int64(p.chunk-next))) + 1)
			next = p.chunk + 1
		}
	case unix.S_IFLNK:
		e.string(n.target)
	case unix.S_IFCHR, unix.S_IFBLK:
		e.uint(uint64(n.dev[0]))
		e.uint(uint64(n.dev[1]))
	}
	return next
}

func zigzag(v int64) uint64   { return uint64(v<<1) ^ uint64(v>>63) }
func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

// decode reads a manifest. The error is remotecache.ErrCorrupt for anything
// but the manifest of a sound tree.
func decode(data []byte) (*tree, error) {
	d, err := newDecoder(data, manifestMagic)
	if err != nil {
		return nil, err
	}
	return d.sound()
}

// sound returns the tree there is to read, checked.
func (d *decoder) sound() (*tree, error) {
	t := d.tree()
	err := d.end()
	if err == nil {
		err = t.check()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: manifest of a cache mount: %w", remotecache.ErrCorrupt, err)
	}
	return t, nil
}

const maxID = 64 << 10 // bytes of a name's parts

func (d *decoder) tree() *tree {
	t := &tree{name: Name{ID: d.string(maxID), Platform: d.string(maxID)}, saved: d.time(), maxAge: time.Duration(d.int())}
	d.each(func() {
		s := d.digest()
		t.packs = append(t.packs, pack{
			digest: digest.NewDigestFromBytes(digest.SHA256, s[:]),
			size:   int64(d.below(maxSize)), raw: int64(d.below(maxRaw)),
		})
	})
	at, end := 0, int64(0)
	d.each(func() {
		c := chunk{sum: d.digest(), pack: at + d.below(uint64(len(t.packs)))}
		if c.pack > at {
			at, end = c.pack, 0
		}
		c.off = end + int64(d.below(maxRaw))
		c.size = int64(d.below(maxChunk))
		end = c.off + c.size
		t.chunks = append(t.chunks, c)
	})
	next := 0
	d.each(func() {
		var n node
		n, next = d.node(t, next)
		t.nodes = append(t.nodes, n)
	})
	return t
}

func (d *decoder) node(t *tree, next int) (node, int) {
	i := len(t.nodes)
	n := node{parent: i - d.below(uint64(i)), name: d.string(maxName), link: d.below(uint64(i))}
	if n.link != 0 {
		return n, next
	}
	n.mode, n.uid, n.gid, n.mtime = d.uint32(), d.uint32(), d.uint32(), d.stamp()
	n.used = t.saved.Unix() + d.int()
	d.each(func() {
		n.xattrs = append(n.xattrs, xattr{d.string(maxName), d.bytes(d.below(maxXattr))})
	})
	switch n.kind() {
	case unix.S_IFREG:
		n.size = int64(d.below(maxSize))
		d.each(func() {
			u := d.uint()
			if u == 0 {
				n.pieces = append(n.pieces, piece{hole, int64(d.below(maxSize))})
				return
			}
			c := int64(next) + unzigzag(u-1)
			if c < 0 || c >= int64(len(t.chunks)) {
				d.fail(fmt.Errorf("a piece is chunk %d of %d", c, len(t.chunks)))
				return
			}
			n.pieces = append(n.pieces, piece{int(c), t.chunks[c].size})
			next = int(c) + 1
		})
	case unix.S_IFLNK:
		n.target = d.string(maxTarget)
	case unix.S_IFCHR, unix.S_IFBLK:
		n.dev = [2]uint32{d.uint32(), d.uint32()}
	}
	return n, next
}
