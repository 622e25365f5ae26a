package layer

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/compression"
	"github.com/mayfly-build/mayfly/internal/retry"
)

func TestLostBlobs(t *testing.T) {
	plain := tarOf(t, "f", "hello")
	data, b := blobOf(t, plain, nil)
	other := bytes.Clone(data)
	other[len(other)/2] ^= 1
	none := func() *origin { return &origin{cache: true} }
	bad := func(data []byte) *origin { return holding(true, b.Desc, data) }
	for name, first := range map[string]*origin{
		"gone":      none(),
		"changed":   bad(other),
		"truncated": bad(data[:len(data)-9]),
		"longer":    bad(append(bytes.Clone(data), 0)),
		"empty":     bad(nil),
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			st := newStore(t, root, nil)
			lost := b
			lost.Origin = first
			s := st.FromBlob(nil, lost, Info{})
			if !s.Usable() {
				t.Error("not usable before anybody has asked")
			}
			if _, err := s.Dir(t.Context()); !errors.Is(err, ErrLost) {
				t.Errorf("Dir: %v", err)
			}
			if s.Usable() {
				t.Error("usable without an origin")
			}
			if got := names(t, filepath.Join(root, "layers")); len(got) != 0 {
				t.Errorf("the state dir holds %v", got)
			}
			if st.FromBlob(nil, lost, Info{}); s.Usable() {
				t.Error("usable when the origin that lost the blob promises it again")
			}
			good := b
			good.Origin = holding(true, b.Desc, data)
			if st.FromBlob(nil, good, Info{}) != s || !s.Usable() {
				t.Error("not usable with another origin")
			}
			if got := readFile(t, s, "f"); got != "hello" {
				t.Errorf("the other origin gives %q", got)
			}
		})
	}
}

func TestSecondOriginServes(t *testing.T) {
	plain := tarOf(t, "f", "hello")
	data, b := blobOf(t, plain, nil)
	other := bytes.Clone(data)
	other[len(other)/2] ^= 1
	zstd := compression.Config{Type: compression.Zstd}
	use := map[string]func(*testing.T, *State) error{
		"Dir":  func(t *testing.T, s *State) error { _, err := s.Dir(t.Context()); return err },
		"View": func(t *testing.T, s *State) error { _, err := s.View(t.Context()); return err },
		"Blob": func(t *testing.T, s *State) error {
			b, err := s.Blob(t.Context(), zstd, true)
			if err == nil && b.DiffID != digest.FromBytes(plain) {
				t.Errorf("the diff ID is %s", b.DiffID)
			}
			return err
		},
	}
	for name, use := range use {
		t.Run(name, func(t *testing.T) {
			st := newStore(t, t.TempDir(), nil)
			first, second := holding(true, b.Desc, other), holding(true, b.Desc, data)
			for _, o := range []*origin{first, second} {
				x := b
				x.Origin = o
				st.FromBlob(nil, x, Info{})
			}
			x := b
			x.Origin = first
			s := st.FromBlob(nil, x, Info{})
			if err := use(t, s); err != nil {
				t.Fatal(err)
			}
			if first.opened.Load() != 1 || second.opened.Load() != 1 {
				t.Errorf("opened %d and %d times", first.opened.Load(), second.opened.Load())
			}
			if slices.ContainsFunc(s.Blobs(), func(b Blob) bool { return b.Origin == Origin(first) }) {
				t.Error("the layer still counts on the origin that lost it")
			}
		})
	}
}

// Whoever sends a blob on never has all of a wrong one, and is told that it is
// lost.
func TestLostWhileItIsSent(t *testing.T) {
	data, b := blobOf(t, tarOf(t, "f", "hello"), nil)
	other := bytes.Clone(data)
	other[len(other)/2] ^= 1
	for name, data := range map[string][]byte{"changed": other, "truncated": data[:len(data)-9]} {
		t.Run(name, func(t *testing.T) {
			st := newStore(t, t.TempDir(), nil)
			b := b
			b.Origin = holding(true, b.Desc, data)
			s := st.FromBlob(nil, b, Info{})
			r, err := s.Open(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			sent, err := io.ReadAll(io.LimitReader(r, b.Desc.Size)) // as net/http reads a body
			if again, _ := retry.Passing(err); !errors.Is(err, ErrLost) || again {
				t.Errorf("the error is %v; again: %v", err, again)
			}
			if int64(len(sent)) >= b.Desc.Size || s.Usable() {
				t.Errorf("%d bytes of %d were sent; usable: %v", len(sent), b.Desc.Size, s.Usable())
			}
		})
	}
}

// A registry's error is the build's error: it says nothing about a cache.
func TestRegistryErrorIsNotLost(t *testing.T) {
	st := newStore(t, t.TempDir(), nil)
	_, b := blobOf(t, tarOf(t, "f", "hello"), nil)
	b.Origin = &origin{}
	s := st.FromBlob(nil, b, Info{})
	if _, err := s.Dir(t.Context()); !errors.Is(err, errGone) || errors.Is(err, ErrLost) {
		t.Errorf("the error is %v", err)
	}
	if !s.Usable() {
		t.Error("a registry's blob was forgotten")
	}
}

// A blob that is lost after its files are here is made of the files.
func TestLostBlobIsMadeOfFiles(t *testing.T) {
	st := newStore(t, t.TempDir(), nil)
	data, b := blobOf(t, tarOf(t, "f", "hello"), nil)
	o := holding(true, b.Desc, data)
	b.Origin = o
	s := st.FromBlob(nil, b, Info{})
	if _, err := s.Dir(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.blobs = nil
	got, err := s.Blob(t.Context(), compression.Config{Type: compression.Zstd}, true)
	if err != nil {
		t.Fatal(err)
	}
	if got.Origin != nil || !st.content.Has(got.Desc) {
		t.Errorf("the blob is not here: %v", got)
	}
}
