package treestore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/remotecache"
)

// LoadOptions say how Load works. The zero value is ready for use.
type LoadOptions struct {
	// MaxAge is how long ago a directory may have been stored; 0 means as
	// long as the MaxAge of its Save says.
	MaxAge time.Duration

	Watch    Watch
	Parallel int              // packs being read at once; 0 means 8
	Now      func() time.Time // nil means time.Now
}

// Load fills dir, an empty directory that nobody else uses, with what is
// stored under name beside the cache of ref, and returns what is known of its
// files for Save. It is all or nothing: after an error dir is empty.
//
// The error is remotecache.ErrNotFound when nothing is stored, ErrExpired when
// it is too old, ErrIncomplete when a part of it is gone, and
// remotecache.ErrCorrupt when a part is not what it should be. What is written is inside of dir whatever was
// stored: a manifest has no paths, only names in directories of its own.
//
// Owners and devices are root's to make: in other processes what belongs to
// others belongs to them, and devices are left out.
func Load(ctx context.Context, b remotecache.Backend, ref string, name Name, dir string, opts LoadOptions) (*Known, Stats, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Parallel <= 0 {
		opts.Parallel = 8
	}
	l := &loader{b: b, opts: opts, dir: dir, asRoot: os.Geteuid() == 0}
	known, err := l.run(ctx, ref, name)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		err = fmt.Errorf("load cache mount %s: %w", name, err)
	}
	return known, l.stats, err
}

// A loader writes a tree into a directory.
type loader struct {
	b      remotecache.Backend
	opts   LoadOptions
	dir    string
	asRoot bool
	stats  Stats

	tree  *tree
	root  *root
	paths []string // of the nodes

	// Where each chunk goes: uses[first[i]:first[i+1]] is of chunk i.
	first []int
	uses  []use
	left  []atomic.Int32 // chunks of each node that are not written yet

	decoders sync.Pool // *zstd.Decoder
	buffers  sync.Pool // *[]byte of maxChunk
}

// A use is a place of a chunk in a file.
type use struct {
	node int
	off  int64
}

func (l *loader) run(ctx context.Context, ref string, name Name) (_ *Known, err error) {
	t, idx, err := readNamed(ctx, l.b, Ref(ref, name), name, l.opts.Watch)
	if err != nil {
		return nil, lost(err, idx != nil)
	}
	for _, age := range []time.Duration{t.maxAge, l.opts.MaxAge} {
		if ago := l.opts.Now().Sub(t.saved); age > 0 && ago > age {
			return nil, fmt.Errorf("%s ago, more than %s: %w", ago.Round(time.Second), age, ErrExpired)
		}
	}
	if l.root, err = openRoot(l.dir); err != nil {
		return nil, err
	}
	defer l.root.close()
	if err := l.ready(t); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.empty())
		}
	}()
	l.tree, l.paths, l.left = t, t.paths(), make([]atomic.Int32, len(t.nodes))
	l.stats.count(t)
	l.placeChunks()
	if err := l.skeleton(ctx); err != nil {
		return nil, err
	}
	if err := l.packs(ctx); err != nil {
		return nil, lost(err, true)
	}
	if err := l.rest(ctx); err != nil {
		return nil, err
	}
	return l.known(ctx)
}

// lost gives the error of a blob that is gone its meaning, once it is known
// that there should be one.
func lost(err error, stored bool) error {
	if stored && errors.Is(err, remotecache.ErrNotFound) {
		return fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	return err
}

// ready returns an error unless the directory is empty and has room for t.
func (l *loader) ready(t *tree) error {
	list, err := os.ReadDir(l.dir)
	if err != nil {
		return err
	}
	if len(list) > 0 {
		return fmt.Errorf("internal: %s is not empty: it has %q", l.dir, list[0].Name())
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(l.root.fd(), &st); err != nil {
		return &os.PathError{Op: "statfs", Path: l.dir, Err: err}
	}
	if need, free := t.counted().Bytes, int64(st.Bavail)*int64(st.Bsize); st.Blocks > 0 && need > free {
		return fmt.Errorf("it has %d bytes of files, and the disk has room for %d: %w", need, free, unix.ENOSPC)
	}
	return nil
}

// empty removes what was made.
func (l *loader) empty() error {
	r, err := os.OpenRoot(l.dir)
	if err != nil {
		return err
	}
	defer r.Close()
	list, err := os.ReadDir(l.dir)
	for _, e := range list {
		err = errors.Join(err, r.RemoveAll(e.Name()))
	}
	return err
}

func (l *loader) placeChunks() {
	t := l.tree
	l.first = make([]int, len(t.chunks)+1)
	each := func(f func(chunk int, u use)) {
		for i := range t.nodes {
			off := int64(0)
			for _, p := range t.nodes[i].pieces {
				if p.chunk != hole {
					f(p.chunk, use{i, off})
				}
				off += p.size
			}
		}
	}
	each(func(c int, u use) { l.first[c+1]++; l.left[u.node].Add(1) })
	for i := range t.chunks {
		l.first[i+1] += l.first[i]
	}
	l.uses = make([]use, l.first[len(t.chunks)])
	next := append([]int(nil), l.first...)
	each(func(c int, u use) { l.uses[next[c]] = u; next[c]++ })
}

// skeleton makes the directories and the files that are not made with their
// only chunk.
func (l *loader) skeleton(ctx context.Context) error {
	for i := 1; i < len(l.paths); i++ {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n := &l.tree.nodes[i]
		switch {
		case n.isDir():
			if err := unix.Mkdirat(l.root.fd(), l.paths[i], 0o700); err != nil {
				return l.pathError("mkdir", i, err)
			}
		case n.isRegular() && !n.oneChunk():
			if err := l.file(i, unix.O_CREAT|unix.O_EXCL, func(fd int) error { return unix.Ftruncate(fd, n.size) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// oneChunk reports whether a file is one chunk and nothing else.
func (n *node) oneChunk() bool { return len(n.pieces) == 1 && n.pieces[0].chunk != hole }

// file opens the file of a node and lets fill write to it. It ends it when no
// chunk is left to write.
func (l *loader) file(i, flags int, fill func(fd int) error) error {
	fd, err := l.root.open(l.paths[i], unix.O_WRONLY|flags, 0o600)
	if err != nil {
		return err
	}
	err = fill(fd)
	if err == nil && l.left[i].Load() == 0 {
		err = l.setAttrs(fd, &l.tree.nodes[i])
	}
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	if err != nil {
		return l.pathError("write", i, err)
	}
	return nil
}

func (l *loader) pathError(op string, i int, err error) error {
	return &os.PathError{Op: op, Path: l.dir + "/" + l.paths[i], Err: err}
}

// packs reads the packs and writes the chunks, several at a time.
func (l *loader) packs(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(l.opts.Parallel)
	var mu sync.Mutex
	at := 0
	for i := range l.tree.packs {
		begin := at
		for at < len(l.tree.chunks) && l.tree.chunks[at].pack == i {
			at++
		}
		end := at
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			p := &l.tree.packs[i]
			done := l.opts.Watch.start(p.descriptor())
			err := l.pack(ctx, p, begin, end)
			done(err)
			if err != nil {
				return fmt.Errorf("pack %s: %w", p.digest, err)
			}
			mu.Lock()
			defer mu.Unlock()
			l.stats.Blobs++
			l.stats.Sent += p.size
			return nil
		})
	}
	return g.Wait()
}

// A source notes why it ended: what the decoder makes of a stream that breaks
// off is no corruption.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// pack writes the chunks from begin to end, which are those of p.
func (l *loader) pack(ctx context.Context, p *pack, begin, end int) error {
	r, err := remotecache.Verify(l.b).Open(ctx, p.descriptor(), 0)
	if err != nil {
		return err
	}
	defer r.Close()
	src := &source{r: r}
	z, _ := l.decoders.Get().(*zstd.Decoder)
	if z == nil {
		// One goroutine each: there are several packs.
		if z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)); err != nil {
			return err
		}
	}
	defer l.decoders.Put(z)
	buf, _ := l.buffers.Get().(*[]byte)
	if buf == nil {
		b := make([]byte, maxChunk)
		buf = &b
	}
	defer l.buffers.Put(buf)
	broken := func(err error) error {
		if src.err != nil {
			return src.err
		}
		return fmt.Errorf("%w: %w", remotecache.ErrCorrupt, err)
	}
	if err := z.Reset(src); err != nil {
		return broken(err)
	}
	at := int64(0)
	for i := begin; i < end; i++ {
		c := &l.tree.chunks[i]
		if _, err := io.CopyN(io.Discard, z, c.off-at); err != nil {
			return broken(err)
		}
		data := (*buf)[:c.size]
		if _, err := io.ReadFull(z, data); err != nil {
			return broken(err)
		}
		if sha256.Sum256(data) != c.sum {
			return fmt.Errorf("%w: a chunk of %d bytes has another digest", remotecache.ErrCorrupt, c.size)
		}
		if at = c.off + c.size; ctx.Err() != nil {
			return ctx.Err()
		}
		for _, u := range l.uses[l.first[i]:l.first[i+1]] {
			if err := l.write(u, data); err != nil {
				return err
			}
		}
	}
	return nil
}

// write writes a chunk at one of its places.
func (l *loader) write(u use, data []byte) error {
	flags := 0
	if l.tree.nodes[u.node].oneChunk() {
		flags = unix.O_CREAT | unix.O_EXCL
	}
	return l.file(u.node, flags, func(fd int) error {
		off := u.off
		for len(data) > 0 {
			n, err := unix.Pwrite(fd, data, off)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return err
			}
			data, off = data[n:], off+int64(n)
		}
		l.left[u.node].Add(-1)
		return nil
	})
}

// known returns what is known of the files.
func (l *loader) known(ctx context.Context) (*Known, error) {
	select {
	case <-time.After(racy + time.Millisecond): // or the files written last would not be known
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	at := time.Now()
	found, err := scanTree(ctx, l.root, false, l.opts.Parallel)
	if err != nil {
		return nil, err
	}
	nodes := make(map[string]int, len(l.paths))
	for i, p := range l.paths {
		nodes[p] = i
	}
	k := &Known{files: make(map[string]knownFile, len(found))}
	for i := range found {
		n := &l.tree.nodes[nodes[found[i].path]]
		if !found[i].isRegular() || !n.isRegular() {
			continue
		}
		f := knownFile{stat: found[i].stat, used: n.used, pieces: make([]knownPiece, len(n.pieces))}
		for j, p := range n.pieces {
			f.pieces[j].size = p.size
			if p.chunk != hole {
				f.pieces[j].sum = l.tree.chunks[p.chunk].sum
			}
		}
		k.add(found[i].path, f, at)
	}
	return k, nil
}
