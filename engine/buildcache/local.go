// Package buildcache finds the results of steps by their keys, in the state
// dir and in remote indexes, and says what of a build a remote cache gets.
//
//	solver ──Key──▶ Local  ──▶ state dir (keys/, layers/)
//	          └───▶ Remote ──▶ remotecache.Index ──blobs, lazily──▶ layer.State
//	solver ──Records──▶ Export ──▶ remotecache.Index + blobs
//
// A cache may lose a result but never gives a wrong one: whatever cannot be
// read, or is not what its name says, is a miss.
package buildcache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/cachekey"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/solver"
	"github.com/mayfly-build/mayfly/engine/statedir"
)

// A Local is the cache of a state dir. Any number of processes share it.
type Local struct {
	dir    string // keys/<hh>/<record>/<id>
	layers *layer.Store

	warn func(error)

	mu      sync.Mutex
	ids     map[*solver.Key]ids
	pending []pending
}

// A pending record waits for its layers to take a form that can be kept.
type pending struct {
	ids    []string
	record digest.Digest
	entry  entry
	state  *layer.State
}

// NewLocal returns the cache in dir. Entries that cannot be read go to warn,
// once each, and are removed.
func NewLocal(dir string, layers *layer.Store, warn func(error)) (*Local, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return &Local{dir: dir, layers: layers, warn: warn, ids: map[*solver.Key]ids{}}, nil
}

// An entry is the file of a key.
type entry struct {
	Step    string    `json:"step"`
	Created time.Time `json:"created"`
	Layers  []string  `json:"layers"` // names in the state dir, bottom first

	// Content has, for inputs that were named by content, the record of that
	// content: it completes a key that was found by definition.
	Content map[int]digest.Digest `json:"content,omitempty"`
}

// ids are the names of a key: by the definitions all the way down, by the
// best names of the inputs' own definitions, and by content where known. ""
// is a name that no other build can have.
type ids struct {
	def, mid, best string
	fresh          bool // names an operation that has to run, other than by content
	freshBest      bool
}

func (l *Local) idsOf(k *solver.Key) ids {
	l.mu.Lock()
	known, ok := l.ids[k]
	l.mu.Unlock()
	if ok {
		return known
	}
	out := l.computeIDs(k)
	l.mu.Lock()
	l.ids[k] = out
	l.mu.Unlock()
	return out
}

func (l *Local) computeIDs(k *solver.Key) ids {
	if cachekey.IsRandom(k.Record) {
		return ids{}
	}
	out := ids{fresh: k.Fresh, freshBest: k.Fresh}
	def, mid, best := newID(k), newID(k), newID(k)
	for _, links := range k.Inputs {
		d := links[0]
		in := l.idsOf(d.Key)
		def.add(d.Selector, in.def)
		mid.add(d.Selector, in.best)
		out.fresh = out.fresh || in.fresh
		if i := slices.IndexFunc(links, func(l solver.Link) bool { return l.Content }); i >= 0 {
			best.add("content", string(links[i].Key.Record))
		} else {
			best.add(d.Selector, in.best)
			out.freshBest = out.freshBest || in.freshBest
		}
	}
	out.def, out.mid, out.best = def.sum(), mid.sum(), best.sum()
	return out
}

type id struct {
	parts []string
	none  bool
}

func newID(k *solver.Key) *id { return &id{parts: []string{string(k.Record)}} }

func (i *id) add(selector digest.Digest, input string) {
	i.none = i.none || input == ""
	i.parts = append(i.parts, string(selector), input)
}

func (i *id) sum() string {
	if i.none {
		return ""
	}
	h := sha256.New()
	for _, p := range i.parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// names returns the ids under which a key is looked up or, with all, filed.
func (i ids) names(all bool) (out []string) {
	if all || !i.fresh {
		out = append(out, i.def, i.mid)
	}
	if all || !i.freshBest {
		out = append(out, i.best)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return slices.DeleteFunc(out, func(s string) bool { return s == "" })
}

func (l *Local) recordDir(record digest.Digest) string {
	hex := record.Encoded()
	return filepath.Join(l.dir, hex[:2], hex)
}

// Knows reports whether the operation ever left a result here.
func (l *Local) Knows(record digest.Digest) bool {
	if cachekey.IsRandom(record) {
		return false
	}
	_, err := os.Lstat(l.recordDir(record))
	return err == nil
}

// Find looks a key up.
func (l *Local) Find(_ context.Context, k *solver.Key) (m solver.Match[*layer.State]) {
	if k.Fresh || cachekey.IsRandom(k.Record) {
		return m
	}
	dir := l.recordDir(k.Record)
	for _, name := range l.idsOf(k).names(false) {
		path := filepath.Join(dir, name)
		e, err := readEntry(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var s *layer.State
		if err == nil {
			s, err = l.layers.Load(e.Layers)
		}
		if err != nil {
			l.drop(path, err)
			continue
		}
		full := k
		for i, rec := range e.Content {
			if i < len(full.Inputs) && !full.HasContent(i) {
				full = full.WithContent(i, rec)
			}
		}
		return solver.Match[*layer.State]{Known: true, Hit: &solver.Hit[*layer.State]{
			Cache: "local", Key: full,
			Load: func(context.Context) (*layer.State, error) { return s, nil },
		}}
	}
	return m
}

// drop removes an entry that is of no use.
func (l *Local) drop(path string, err error) {
	os.Remove(path)
	if !errors.Is(err, fs.ErrNotExist) { // a layer that was pruned is no trouble
		l.warn(fmt.Errorf("cache entry %s: %w; the step runs again", path, err))
	}
}

func readEntry(path string) (entry, error) {
	var e entry
	if err := statedir.ReadSealed(path, &e); err != nil {
		return e, err
	}
	for i, d := range e.Content {
		if err := d.Validate(); err != nil || i < 0 {
			return e, fmt.Errorf("content of input %d: %w", i, err)
		}
	}
	return e, nil
}

// Save files a result under its key. Layers that are only in memory are
// written by Flush: by then some of them may have been written for an export.
func (l *Local) Save(ctx context.Context, k *solver.Key, v *llb.Vertex, s *layer.State) error {
	names := l.idsOf(k).names(true)
	if len(names) == 0 {
		return nil
	}
	p := pending{ids: names, record: k.Record, state: s, entry: entry{
		Step: v.Name, Created: time.Now().UTC(), Content: map[int]digest.Digest{},
	}}
	for i, links := range k.Inputs {
		for _, link := range links {
			if link.Content {
				p.entry.Content[i] = link.Key.Record
			}
		}
	}
	if s != nil && !s.Kept() {
		l.mu.Lock()
		l.pending = append(l.pending, p)
		l.mu.Unlock()
		return nil
	}
	return l.write(ctx, p)
}

// Flush files what Save put off.
func (l *Local) Flush(ctx context.Context) error {
	l.mu.Lock()
	todo := l.pending
	l.pending = nil
	l.mu.Unlock()
	var errs []error
	for _, p := range todo {
		errs = append(errs, l.write(ctx, p))
	}
	return errors.Join(errs...)
}

func (l *Local) write(ctx context.Context, p pending) error {
	kept, ok, err := l.layers.Keep(ctx, p.state)
	if err != nil || !ok {
		return err
	}
	p.entry.Layers = kept
	dt, err := statedir.Seal(p.entry)
	if err != nil {
		return err
	}
	dir := l.recordDir(p.record)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range p.ids {
		f, err := os.CreateTemp(dir, ".new-")
		if err != nil {
			return err
		}
		_, err = f.Write(dt)
		err = errors.Join(err, f.Close())
		if err == nil {
			err = os.Rename(f.Name(), filepath.Join(dir, name))
		}
		if err != nil {
			os.Remove(f.Name())
			return err
		}
	}
	return nil
}
