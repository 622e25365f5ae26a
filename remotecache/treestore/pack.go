package treestore

import (
	"context"
	"crypto/sha256"
	"io"
	"os"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const (
	// packSize is how many bytes of chunks a pack has at most: a directory of
	// 500 MiB is 16 entries of a CI service's cache, and its packs are read
	// and written side by side.
	packSize = 32 << 20

	// packsAtOnce bounds the packs that are being compressed or sent. Those
	// that are sent lie in a file; buffers bounds those that are in memory.
	packsAtOnce = 6
	buffers     = 3

	// A pack is made anew when less than half of it is still used, and packs
	// below smallPack are put together when there are more than maxSmall of
	// them. So no more than twice of what is used is stored and read, and many
	// small changes do not end as many small blobs.
	minLive   = 0.5
	smallPack = packSize / 4
	maxSmall  = 8
)

// A chunkAt is a chunk and where it is, or will be, stored.
type chunkAt struct {
	sum  sum
	size int64
	pack *packAt
	off  int64 // in the pack's stream

	// While a tree is put together: where the chunk's bytes are in the
	// directory, and its position in the tree.
	file   int
	offset int64
	pos    int
}

// A packAt is a pack that is stored, or on its way.
type packAt struct {
	pack
	ours   bool // made by this Save
	live   int64
	chunks []*chunkAt // those of them that are used
}

// A packer puts chunks together into packs, compresses them, and sends them.
type packer struct {
	ctx   context.Context
	tmp   string
	store func(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error

	in      chan packing
	ended   chan struct{} // closed when in was read to its end
	group   *errgroup.Group
	free    chan []byte // for the chunks of a pack
	writers sync.Pool   // *zstd.Encoder

	made []*packAt // valid after wait
}

// A packing is a chunk to be packed. Its data is the caller's again once done
// has been sent to.
type packing struct {
	chunk *chunkAt
	data  []byte
	done  chan struct{}
}

func newPacker(ctx context.Context, tmp string, store func(context.Context, ocispec.Descriptor, io.ReaderAt) error) *packer {
	p := &packer{
		tmp: tmp, store: store, in: make(chan packing), ended: make(chan struct{}),
		free: make(chan []byte, buffers),
	}
	for range buffers {
		p.free <- nil // made when it is needed
	}
	p.group, p.ctx = errgroup.WithContext(ctx)
	p.group.SetLimit(packsAtOnce)
	go p.run()
	return p
}

// add packs a chunk and returns when its data is no longer needed. done is the
// calling goroutine's own.
func (p *packer) add(c *chunkAt, data []byte, done chan struct{}) error {
	select {
	case p.in <- packing{c, data, done}:
		<-done
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// wait sends what is left and returns the packs that were made, once all of
// them are stored. It is called once, when nobody adds any more.
func (p *packer) wait() ([]*packAt, error) {
	close(p.in)
	<-p.ended
	err := p.group.Wait()
	return p.made, err
}

// run fills one pack after the other.
func (p *packer) run() {
	defer close(p.ended)
	var at *packAt
	var buf []byte
	send := func() {
		if at == nil {
			return
		}
		full, chunks := at, buf
		p.made = append(p.made, full)
		p.group.Go(func() error { return p.send(full, chunks) }) // waits while there are packsAtOnce
		at, buf = nil, nil
	}
	for c := range p.in {
		if at != nil && len(buf)+len(c.data) > packSize {
			send()
		}
		if at == nil {
			at, buf = &packAt{ours: true}, <-p.free
		}
		if need := len(buf) + len(c.data); need > cap(buf) {
			// Once to a size for small changes, and then to that of a pack.
			grown := make([]byte, len(buf), max(need, packSize/16))
			if need > packSize/16 {
				grown = make([]byte, len(buf), packSize)
			}
			copy(grown, buf)
			buf = grown
		}
		c.chunk.pack, c.chunk.off = at, int64(len(buf))
		buf = append(buf, c.data...)
		c.done <- struct{}{}
	}
	send()
}

// send compresses and stores a pack.
func (p *packer) send(at *packAt, data []byte) error {
	f, err := p.compress(at, data)
	p.free <- data[:0]
	if err != nil {
		return err
	}
	defer f.Close()
	return p.store(p.ctx, at.descriptor(), f)
}

// compress writes a pack to a file without a name, which is gone once it is
// closed.
func (p *packer) compress(at *packAt, data []byte) (_ *os.File, err error) {
	if p.ctx.Err() != nil {
		return nil, context.Cause(p.ctx)
	}
	f, err := os.CreateTemp(p.tmp, "pack-*")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	h := sha256.New()
	count := &counter{w: io.MultiWriter(f, h)}
	z, _ := p.writers.Get().(*zstd.Encoder)
	if z == nil {
		if z, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(maxWindow/2)); err != nil {
			return nil, err
		}
	}
	defer p.writers.Put(z)
	z.Reset(count)
	if _, err := z.Write(data); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	at.pack = pack{digest: digest.NewDigest(digest.SHA256, h), size: count.n, raw: int64(len(data))}
	return f, nil
}

func (p *pack) descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: MediaTypePack, Digest: p.digest, Size: p.size}
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// wornOut returns the packs whose chunks are to be packed anew.
func wornOut(packs []*packAt) (out []*packAt) {
	var small []*packAt
	for _, p := range packs {
		switch {
		case p.ours || p.live == 0:
		case float64(p.live) < minLive*float64(p.raw):
			out = append(out, p)
		case p.raw < smallPack:
			small = append(small, p)
		}
	}
	if len(small) > maxSmall {
		out = append(out, small...)
	}
	return out
}
