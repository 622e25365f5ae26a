package treestore

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/remotecache"
)

// A gathering brings together what a directory is made of: what it holds now,
// and where the chunks of that are, or go.
type gathering struct {
	*saver
	packer *packer
	known  *Known // of the files that stay
	stats  Stats
	used   []*packAt // the packs of the tree, in its order

	scannedAt time.Time // before the first stat
	scanned   []scanned
	stay      []bool
	content   []file // of the regular files that stay

	mu     sync.Mutex
	chunks map[sum]*chunkAt
}

func newGathering(ctx context.Context, s *saver) *gathering {
	g := &gathering{saver: s, known: &Known{files: map[string]knownFile{}}, chunks: map[sum]*chunkAt{}}
	for _, p := range s.packs {
		for _, c := range p.chunks {
			g.chunks[c.sum] = c
		}
	}
	g.packer = newPacker(ctx, s.opts.Tmp, s.put)
	return g
}

// all reads the directory and packs what is new. unchanged says that what is
// stored is the same; then no pack is made anew.
func (g *gathering) all(ctx context.Context, lost int) (t *tree, unchanged bool, err error) {
	if err := g.files(ctx); err != nil {
		return nil, false, err
	}
	t = g.tree(g.began)
	if len(t.nodes) == 1 && g.old == nil {
		return nil, false, remotecache.ErrEmpty
	}
	if lost == 0 && g.old != nil && same(g.old, t) {
		return t, true, nil
	}
	if worn := wornOut(g.packs); len(worn) > 0 {
		g.repack(ctx, worn)
		t = g.tree(g.began)
	}
	return t, false, nil
}

// files reads the directory.
func (g *gathering) files(ctx context.Context) (err error) {
	g.scannedAt = time.Now()
	if g.scanned, err = scanTree(ctx, g.root, true, g.opts.Parallel); err != nil {
		return err
	}
	reads := readsCount(g.root)
	for i := range g.scanned {
		f := &g.scanned[i]
		f.used = f.stat.usedAt(reads, g.began)
		if k, ok := g.saver.known.find(f.path, f.stat); ok {
			f.used = k.used
			if reads && f.stat.atime != k.stat.atime { // read since
				f.used = max(f.used, min(f.stat.atime.sec, g.began.Unix()))
			}
		}
	}
	findLinks(g.scanned)
	l := limit{size: g.opts.MaxSize}
	if g.opts.MaxAge > 0 {
		l.age = g.began.Add(-g.opts.MaxAge)
	}
	g.stay = pick(g.scanned, l)
	g.content = make([]file, len(g.scanned))
	if err := g.readAll(ctx); err != nil {
		return err
	}
	for i := range g.scanned {
		if f := &g.scanned[i]; f.isRegular() && !g.stay[i] {
			g.stats.LeftOut++
			g.stats.OutBytes += f.stored()
		}
	}
	prune(g.scanned, g.stay)
	for i := range g.scanned {
		if f := &g.scanned[i]; f.isRegular() && g.stay[i] {
			g.known.add(f.path, g.content[i].known(f.used), g.content[i].at)
		}
	}
	return nil
}

// readAll fills content for the files that stay, several at a time.
func (g *gathering) readAll(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	jobs := make(chan int)
	for range g.opts.Parallel {
		group.Go(func() error {
			r := newReader(g.root)
			for i := range jobs {
				if err := g.file(ctx, i, r); err != nil {
					return err
				}
			}
			g.mu.Lock()
			g.stats.Read += r.bytes
			g.mu.Unlock()
			return nil
		})
	}
	group.Go(func() error {
		defer close(jobs)
		for i := range g.scanned {
			if !g.stay[i] || !g.scanned[i].isRegular() {
				continue
			}
			select {
			case jobs <- i:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	return group.Wait()
}

// readTries is how often a file is read that changes meanwhile.
const readTries = 3

// file finds out what a file holds, by reading it unless that is known. Files
// that keep changing do not stay.
func (g *gathering) file(ctx context.Context, i int, r *reader) error {
	f := &g.scanned[i]
	if k, ok := g.saver.known.find(f.path, f.stat); ok {
		if pieces, ok := g.have(k.pieces); ok {
			g.content[i] = file{stat: f.stat, at: g.scannedAt, node: f.node, pieces: pieces}
			return nil
		}
	}
	for range readTries {
		got, err := r.read(ctx, f, func(data []byte) (*chunkAt, error) { return g.chunk(data, r.done) })
		if errors.Is(err, errChanged) {
			continue
		}
		if err != nil {
			return err
		}
		g.content[i] = *got
		f.node = got.node
		return nil
	}
	g.stay[i] = false
	return nil
}

// have returns the pieces when all of their chunks are there.
func (g *gathering) have(known []knownPiece) ([]pieceAt, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]pieceAt, len(known))
	for i, k := range known {
		out[i].size = k.size
		if !k.isHole() {
			c := g.chunks[k.sum]
			if c == nil || c.size != k.size {
				return nil, false
			}
			out[i].chunk = c
		}
	}
	return out, true
}

// chunk returns where a chunk is, and packs one that is nowhere.
func (g *gathering) chunk(data []byte, done chan struct{}) (*chunkAt, error) {
	s := sum(sha256.Sum256(data))
	g.mu.Lock()
	c, ok := g.chunks[s]
	if !ok {
		c = &chunkAt{sum: s, size: int64(len(data))}
		g.chunks[s] = c
	}
	g.mu.Unlock()
	if ok {
		return c, nil
	}
	return c, g.packer.add(c, data, done)
}

func (f *file) known(used int64) knownFile {
	k := knownFile{stat: f.stat, used: used, pieces: make([]knownPiece, len(f.pieces))}
	for i, p := range f.pieces {
		k.pieces[i].size = p.size
		if p.chunk != nil {
			k.pieces[i].sum = p.chunk.sum
		}
	}
	return k
}

// tree puts what stays in the order of a tree. The packs have no digests and
// sizes yet where they are still being made.
func (g *gathering) tree(saved time.Time) *tree {
	t := &tree{name: g.name, saved: saved, maxAge: g.opts.MaxAge}
	chunks := g.use()
	for i, c := range chunks {
		c.pos = i
	}
	packs := map[*packAt]int{}
	g.used = g.used[:0]
	for _, c := range chunks {
		if _, ok := packs[c.pack]; !ok {
			packs[c.pack] = len(g.used)
			g.used = append(g.used, c.pack)
		}
		t.chunks = append(t.chunks, chunk{sum: c.sum, pack: packs[c.pack], off: c.off, size: c.size})
	}
	t.packs = make([]pack, len(g.used))
	at := make([]int, len(g.scanned))
	for i := range g.scanned {
		if !g.stay[i] {
			continue
		}
		n := g.scanned[i].node
		n.parent = at[n.parent]
		if n.link != 0 {
			n = node{parent: n.parent, name: n.name, link: at[n.link]}
		}
		for _, p := range g.content[i].pieces {
			if p.chunk == nil {
				n.pieces = append(n.pieces, piece{hole, p.size})
			} else {
				n.pieces = append(n.pieces, piece{p.chunk.pos, p.size})
			}
		}
		at[i] = len(t.nodes)
		t.nodes = append(t.nodes, n)
	}
	return t
}

// use returns the chunks of the files that stay, pack by pack, and notes on
// each where its bytes are and on each pack what of it is used.
func (g *gathering) use() []*chunkAt {
	for _, p := range g.packs {
		p.live, p.chunks = 0, nil
	}
	var packs []*packAt
	seen := map[*chunkAt]bool{}
	fresh := map[*packAt]bool{}
	for i := range g.scanned {
		if !g.stay[i] {
			continue
		}
		off := int64(0)
		for _, p := range g.content[i].pieces {
			if c := p.chunk; c != nil && !seen[c] {
				seen[c] = true
				c.file, c.offset = i, off
				if !fresh[c.pack] {
					fresh[c.pack] = true
					c.pack.live, c.pack.chunks = 0, nil
					packs = append(packs, c.pack)
				}
				c.pack.live += c.size
				c.pack.chunks = append(c.pack.chunks, c)
			}
			off += p.size
		}
	}
	var out []*chunkAt
	for _, p := range packs {
		slices.SortFunc(p.chunks, func(a, b *chunkAt) int { return int(a.off - b.off) })
		out = append(out, p.chunks...)
	}
	return out
}

// repack packs the chunks of packs anew. A chunk that is no longer where it was
// found stays in its pack.
func (g *gathering) repack(ctx context.Context, packs []*packAt) {
	var all []*chunkAt
	for _, p := range packs {
		all = append(all, p.chunks...)
	}
	slices.SortFunc(all, func(a, b *chunkAt) int {
		if a.file != b.file {
			return a.file - b.file
		}
		return int(a.offset - b.offset)
	})
	r := newReader(g.root)
	for _, c := range all {
		if ctx.Err() != nil {
			break
		}
		if data, ok := r.again(g.scanned[c.file].path, c); ok && g.packer.add(c, data, r.done) != nil {
			break // the packer says why
		}
	}
	g.stats.Read += r.bytes
}

// count notes what a tree is.
func (s *Stats) count(t *tree) {
	c := t.counted()
	s.Files, s.Bytes, s.Packs, s.Stored = c.Files, c.Bytes, c.Packs, c.Stored
}
