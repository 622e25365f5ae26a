package contenthash

import (
	"context"
	"crypto/sha256"
	"slices"
	"strings"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/opencontainers/go-digest"
)

// tree returns the digest of what is at p: of a directory with all below it.
func (h *Hasher) tree(ctx context.Context, v *fsdiff.View, p string, follow bool) (digest.Digest, error) {
	entries, err := treeEntries(v, p, follow)
	if err != nil {
		return "", err
	}
	t := &treeSum{entries: entries}
	t.odd = slices.ContainsFunc(entries, func(e *fsdiff.Entry) bool { return strings.Contains(e.Path, "/\xff") })
	if t.sums, err = h.digests(ctx, v, entries); err != nil {
		return "", err
	}
	d, _ := t.sum(0)
	return d, nil
}

// treeEntries returns what is at p and below, in the order of a walk.
func treeEntries(v *fsdiff.View, p string, follow bool) ([]*fsdiff.Entry, error) {
	top, err := find(v, p, follow)
	if err != nil {
		return nil, err
	}
	var all []*fsdiff.Entry
	err = v.Walk(top.Path, func(e *fsdiff.Entry) error {
		all = append(all, e)
		return nil
	})
	return all, err
}

// A treeSum combines the digests of entries, which are in the order of a walk,
// to that of the first one's tree.
type treeSum struct {
	entries []*fsdiff.Entry
	sums    []digest.Digest
	odd     bool // there are names that begin with 0xff
	buf     []byte
}

// sum returns the digest of the tree whose top is entry i, and the index of
// the first entry behind it.
func (t *treeSum) sum(i int) (digest.Digest, int) {
	top := t.entries[i]
	if !top.IsDir() {
		return t.sums[i], i + 1
	}
	hash := sha256.New()
	hash.Write([]byte{0})
	hash.Write([]byte(t.sums[i])) // the header of the directory itself
	next := i + 1
	for next < len(t.entries) && below(t.entries[next].Path, top.Path) {
		var late []lateSum
		var d digest.Digest
		at := next
		if d, next = t.sum(at); t.odd && t.entries[at].IsDir() {
			late = t.late(at, next, top.Path)
		}
		t.buf = append(append(t.buf[:0], 0), relative(t.entries[at].Path, top.Path)[1:]...)
		t.buf = append(t.buf, d...)
		hash.Write(t.buf)
		for _, l := range late {
			hash.Write(radixKey(l.path))
			hash.Write([]byte(l.sum))
		}
	}
	return digestOf(hash), next
}

// A lateSum is an entry that counts once more, in the directory above its own.
type lateSum struct {
	path string
	sum  digest.Digest
}

// late returns the entries of the directory from..to whose names begin with
// the byte 0xff. BuildKit, done with a directory, goes on at the key
// "directory\0\xff", which such names, no valid UTF-8, lie behind.
func (t *treeSum) late(from, to int, top string) []lateSum {
	dir := t.entries[from].Path
	var all []lateSum
	for i := from + 1; i < to; {
		at := i
		p := t.entries[at].Path
		if !strings.HasPrefix(relative(p, dir), "/\xff") {
			i++
			continue
		}
		var d digest.Digest
		d, i = t.sum(at)
		all = append(all, lateSum{relative(p, top), d})
		if t.entries[at].IsDir() {
			all = append(all, t.late(at, i, top)...)
		}
	}
	return all
}

// below says whether p lies in the directory dir.
func below(p, dir string) bool {
	return dir == "" || len(p) > len(dir) && p[len(dir)] == '/' && p[:len(dir)] == dir
}

// relative is p without dir, which it lies in; it starts with a slash.
func relative(p, dir string) string {
	if dir == "" {
		return "/" + p
	}
	return p[len(dir):]
}
