// Package contenthash gives file trees a digest by what is in them.
//
//	fsdiff.View ──Sum──▶ digest ──▶ cachekey, solver: the key of a COPY is that
//	     ▲                          of the files it reads, not of how they came
//	     └── Cache: host files whose stat is known need no read
//
// The digests are equal to those of BuildKit v0.33 (testdata/*.txtar, written
// by buildkitd), so that either reads the other's cache. The package knows no
// steps and no keys.
package contenthash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/opencontainers/go-digest"
)

// A Selector says which part of a tree a step reads.
type Selector struct {
	Path            string   // in the tree; "" is the root
	Wildcard        bool     // Path is a pattern of path.Match
	FollowLinks     bool     // a symbolic link at Path counts as its target
	IncludePatterns []string // below Path, as in a .dockerignore; none means all
	ExcludePatterns []string
	RequiredPaths   []string // prefixes; each has to be met by something included
}

func (s *Selector) plain() bool {
	return !s.Wildcard && len(s.IncludePatterns) == 0 && len(s.ExcludePatterns) == 0
}

// A Hasher takes content digests. Each file is read once per Hasher. All
// methods may be called from several goroutines at once.
type Hasher struct {
	memos [2]memo // the second is of build contexts, some of whose entries count otherwise
	cache *Cache
}

// New returns a Hasher that asks cache, which may be nil, before it reads a
// file of the host.
func New(cache *Cache) *Hasher { return &Hasher{cache: cache} }

// emptyDigest is that of no bytes: of what no path was selected from, and of
// the root directory of a build context.
var emptyDigest = digest.FromBytes(nil)

// Sum returns the digest of what the selectors select from v; without
// selectors that is everything. The nil View has only a root. The error is
// errdefs.ErrNotFound, with the path, when there is nothing at a selector's
// path; a pattern that matches nothing is no error.
func (h *Hasher) Sum(ctx context.Context, v *fsdiff.View, sels []Selector) (digest.Digest, error) {
	if len(sels) == 0 {
		sels = []Selector{{}}
	}
	sums := make([][]byte, len(sels))
	for i := range sels {
		d, err := h.one(ctx, v, &sels[i])
		if err != nil {
			return "", fmt.Errorf("take content digest: %w", err)
		}
		sums[i] = []byte(d)
	}
	return digest.FromBytes(bytes.Join(sums, []byte{0})), nil
}

func (h *Hasher) one(ctx context.Context, v *fsdiff.View, sel *Selector) (digest.Digest, error) {
	p := path.Join("/", sel.Path)
	if v == nil {
		if p == "/" {
			return emptyDigest, nil
		}
		return "", notFound(p)
	}
	if sel.plain() {
		return h.tree(ctx, v, p, sel.FollowLinks)
	}
	found, err := selectPaths(v, p, sel)
	if err != nil {
		return "", err
	}
	sums, err := h.selected(ctx, v, found)
	if err != nil {
		return "", err
	}
	if len(sums) == 0 {
		return emptyDigest, nil
	}
	if len(sums) == 1 && path.Base(p) == path.Base(found.paths[0].path) {
		return sums[0], nil
	}
	sum := sha256.New()
	for i, f := range found.paths {
		key := radixKey(strings.TrimPrefix(f.path, found.prefix))
		if len(key) == 0 {
			key = []byte{0}
		}
		sum.Write(key)
		sum.Write([]byte(sums[i]))
	}
	return digestOf(sum), nil
}

// An Item is one of the things that a Sum is made of.
type Item struct {
	Path   string        // absolute, in the tree
	Digest digest.Digest // of header and bytes; of a directory the header only
	Entry  *fsdiff.Entry
}

// Manifest returns what the selectors select from v, for telling why a Sum
// differs from another. After a Sum of the same it reads no file.
func (h *Hasher) Manifest(ctx context.Context, v *fsdiff.View, sels []Selector) ([]Item, error) {
	if v == nil {
		return nil, nil
	}
	if len(sels) == 0 {
		sels = []Selector{{}}
	}
	var items []Item
	for i := range sels {
		entries, err := manifestEntries(v, &sels[i])
		if err != nil {
			return nil, fmt.Errorf("list selected files: %w", err)
		}
		sums, err := h.digests(ctx, v, entries)
		if err != nil {
			return nil, fmt.Errorf("list selected files: %w", err)
		}
		for i, e := range entries {
			items = append(items, Item{Path: "/" + e.Path, Digest: sums[i], Entry: e})
		}
	}
	return items, nil
}

// Item returns the digest that e, an entry of v or one like it, has in a Sum of
// v: of header and bytes, which it reads.
func (h *Hasher) Item(v *fsdiff.View, e *fsdiff.Entry) (digest.Digest, error) {
	w := worker{h: &Hasher{}, v: v, inContext: v.IsContext(), sum: sha256.New()}
	return w.entry(e)
}

func manifestEntries(v *fsdiff.View, sel *Selector) ([]*fsdiff.Entry, error) {
	p := path.Join("/", sel.Path)
	if sel.plain() {
		return treeEntries(v, p, sel.FollowLinks)
	}
	found, err := selectPaths(v, p, sel)
	if err != nil {
		return nil, err
	}
	var all []*fsdiff.Entry
	for _, f := range found.paths {
		if !f.follow || !f.entry.IsSymlink() {
			all = append(all, f.entry)
			continue
		}
		below, err := treeEntries(v, f.path, true)
		if err != nil {
			return nil, err
		}
		all = append(all, below...)
	}
	return all, nil
}

// radixKey is p as BuildKit's radix tree has it: with zero bytes for slashes,
// so that a directory's contents sort before its longer-named neighbours.
func radixKey(p string) []byte {
	return bytes.ReplaceAll([]byte(p), []byte{'/'}, []byte{0})
}

func notFound(p string) error { return fmt.Errorf("%q: %w", p, errdefs.ErrNotFound) }

// find returns the entry where p leads; the error names p.
func find(v *fsdiff.View, p string, follow bool) (*fsdiff.Entry, error) {
	r, err := v.Resolve(p, follow)
	if err != nil {
		return nil, err
	}
	e, err := v.Lookup(r)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFound(p)
	}
	return e, err
}
