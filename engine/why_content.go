package engine

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"io/fs"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/explain"
)

// maxListed bounds the files of all manifests of a build; those beyond it are
// listed by directory.
const maxListed = 100_000

// addContents gives set the manifests of what a step reads: of what this build
// took the digest of, and of what an earlier one did. w.one is held.
func (w *why) addContents(ctx context.Context, set *explain.Set, r *explain.Record) {
	for _, in := range r.Inputs {
		if in.Content == "" || set.Manifests[in.Content] != nil {
			continue
		}
		if m := w.manifest(ctx, in.Content); m != nil {
			set.Manifests[in.Content] = m
		}
	}
}

func (w *why) manifest(ctx context.Context, record digest.Digest) *explain.Manifest {
	if m, ok := w.manifests[record]; ok {
		return m
	}
	w.mu.Lock()
	c, ok := w.contents[record]
	w.mu.Unlock()
	if !ok {
		for _, s := range w.earlier {
			if m := s.Manifests[record]; m != nil {
				return m
			}
		}
		return nil
	}
	items, err := w.hasher.Manifest(ctx, c.view, c.sels)
	if err != nil {
		return nil
	}
	files := make([]explain.Entry, len(items))
	for i, it := range items {
		e := it.Entry
		files[i] = explain.Entry{
			Path: e.Path, Type: typeOf(e.Mode), Mode: bitsOf(e.Mode), UID: e.UID, GID: e.GID, Size: e.Size,
			Sum: startOf(it.Digest), Xattrs: xattrsOf(e.Xattrs),
		}
	}
	m := explain.NewManifest(files, max(1, min(explain.MaxFiles, maxListed-w.listed)))
	w.manifests[record] = m
	w.listed += len(m.Files)
	return m
}

func typeOf(m fs.FileMode) explain.Type {
	switch {
	case m.IsDir():
		return explain.Dir
	case m&fs.ModeSymlink != 0:
		return explain.Link
	case m.IsRegular():
		return explain.Regular
	}
	return explain.Special
}

// bitsOf returns the permission bits as chmod has them.
func bitsOf(m fs.FileMode) uint32 {
	n := uint32(m.Perm())
	for _, b := range specialBits {
		if m&b.mode != 0 {
			n |= b.bit
		}
	}
	return n
}

// modeOf is the reverse of bitsOf.
func modeOf(bits uint32) fs.FileMode {
	m := fs.FileMode(bits) & fs.ModePerm
	for _, b := range specialBits {
		if bits&b.bit != 0 {
			m |= b.mode
		}
	}
	return m
}

var specialBits = [...]struct {
	mode fs.FileMode
	bit  uint32
}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}}

// startOf returns the first 8 bytes of a digest.
func startOf(d digest.Digest) uint64 {
	b, err := hex.DecodeString(d.Encoded()[:16])
	if err != nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

func xattrsOf(x map[string][]byte) uint64 {
	if len(x) == 0 {
		return 0
	}
	var parts []string
	for name, value := range x {
		parts = append(parts, name+"="+string(value))
	}
	slices.Sort(parts)
	return startOf(digest.FromString(strings.Join(parts, "\x00")))
}

// maxProbed is how many files are read to tell whether their bytes changed
// besides their mode, and how large they are at most, in bytes.
const (
	maxProbed     = 32
	maxProbedSize = 1 << 20
)

// sameBytes is an explain.BytesSame: it takes the digest that a file would have
// with the mode and owner it had. w.one is held.
func (w *why) sameBytes(record digest.Digest, path string, was explain.Entry) (same, ok bool) {
	w.mu.Lock()
	c, ok := w.contents[record]
	w.mu.Unlock()
	if !ok || c.view == nil || w.probes >= maxProbed || was.Size > maxProbedSize {
		return false, false
	}
	e, err := c.view.Lookup(path)
	if err != nil {
		return false, false
	}
	w.probes++
	old := *e
	old.Mode = e.Mode&^(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) | modeOf(was.Mode)
	old.UID, old.GID = was.UID, was.GID
	sum, err := w.hasher.Item(c.view, &old)
	if err != nil {
		return false, false
	}
	return startOf(sum) == was.Sum, true
}
