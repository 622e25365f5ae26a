package layer

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/mayfly-build/mayfly/engine/compression"
	"github.com/mayfly-build/mayfly/engine/content"
)

func TestDiffInMemory(t *testing.T) {
	root := t.TempDir()
	st := newStore(t, root, nil)
	s := st.FromDiff(nil, memDiff("f", "hello"), Info{Description: "COPY f /"})
	if got := readFile(t, s, "f"); got != "hello" {
		t.Fatalf("the View says %q", got)
	}
	if got := names(t, filepath.Join(root, "layers")); len(got) != 0 {
		t.Fatalf("reading made %v in the state dir", got)
	}

	var wg sync.WaitGroup
	blobs, dirs := make([]Blob, 8), make([]string, 8)
	for i := range 8 {
		wg.Go(func() {
			var err error
			if blobs[i], err = s.Blob(t.Context(), compression.Config{}, false); err != nil {
				t.Error(err)
			}
			if dirs[i], err = s.Dir(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 8 {
		if blobs[i].Desc.Digest != blobs[0].Desc.Digest || dirs[i] != dirs[0] {
			t.Errorf("asked at once: %v %s and %v %s", blobs[0], dirs[0], blobs[i], dirs[i])
		}
	}
	if got := names(t, filepath.Join(root, "layers")); len(got) != 1 {
		t.Errorf("one layer is in the state dir as %v", got)
	}
	if len(s.Blobs()) != 1 {
		t.Errorf("one blob is known as %v", s.Blobs())
	}
	if dt, err := os.ReadFile(filepath.Join(dirs[0], "f")); string(dt) != "hello" {
		t.Errorf("the directory has %q, %v", dt, err)
	}
	if got := names(t, filepath.Join(root, "tmp")); len(got) != 0 {
		t.Errorf("left in tmp: %v", got)
	}
}

func TestBlobForcedToAnotherCompression(t *testing.T) {
	st := newStore(t, t.TempDir(), nil)
	s := st.FromDiff(nil, memDiff("f", strings.Repeat("hello", 1000)), Info{})
	gz, err := s.Blob(t.Context(), compression.Config{}, false)
	if err != nil {
		t.Fatal(err)
	}
	zstd := compression.Config{Type: compression.Zstd}
	if b, err := s.Blob(t.Context(), zstd, false); err != nil || b.Desc.Digest != gz.Desc.Digest {
		t.Errorf("not forced: %v, %v; any known blob would do", b, err)
	}
	b, err := s.Blob(t.Context(), zstd, true)
	if err != nil {
		t.Fatal(err)
	}
	if b.Desc.MediaType != compression.Zstd.MediaType() || b.DiffID != gz.DiffID {
		t.Errorf("forced: %s with diff ID %s, not %s", b.Desc.MediaType, b.DiffID, gz.DiffID)
	}
	r, err := s.Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	plain, err := compression.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if d, err := digest.FromReader(plain); err != nil || d != b.DiffID {
		t.Errorf("the blob holds a tar of %s, %v", d, err)
	}
}

func TestBlobAtOriginIsFetchedWhenNeeded(t *testing.T) {
	root := t.TempDir()
	st := newStore(t, root, nil)
	data, b := blobOf(t, tarOf(t, "f", "hello"), nil)
	o := holding(false, b.Desc, data)
	b.Origin = o
	s := st.FromBlob(nil, b, Info{})
	if st.FromBlob(nil, b, Info{}) != s {
		t.Error("an equal blob on an equal parent is another State")
	}
	if got, err := s.Blob(t.Context(), compression.Config{}, true); err != nil || got.Desc.Digest != b.Desc.Digest {
		t.Errorf("Blob: %v, %v", got, err)
	}
	if n := o.opened.Load(); n != 0 {
		t.Errorf("the origin was read %d times before anybody needed bytes", n)
	}
	for range 2 {
		if got := readFile(t, s, "f"); got != "hello" {
			t.Errorf("the file has %q", got)
		}
	}
	if n := o.opened.Load(); n != 1 {
		t.Errorf("the origin was read %d times for one directory", n)
	}
	chain := identity.ChainID([]digest.Digest{b.DiffID}).Encoded()
	if got := names(t, filepath.Join(root, "layers")); !slices.Equal(got, []string{chain}) {
		t.Errorf("in the state dir: %v, not the chain ID %s", got, chain)
	}
}

func TestDirOfAStep(t *testing.T) {
	root := t.TempDir()
	st := newStore(t, root, nil)
	base := st.FromDiff(nil, memDiff("low", "1"), Info{})
	made := filepath.Join(root, "tmp", "upper")
	if err := os.Mkdir(made, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(made, "high"), []byte("2"), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := st.FromDir(base, made, Info{Description: "RUN x"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(made); !os.IsNotExist(err) {
		t.Errorf("the directory is still at its old place: %v", err)
	}
	if readFile(t, s, "low") != "1" || readFile(t, s, "high") != "2" {
		t.Error("the root is not both layers")
	}
	dirs, err := s.Dirs(t.Context())
	if err != nil || len(dirs) != 2 {
		t.Fatalf("Dirs: %v, %v", dirs, err)
	}
	if _, err := os.Stat(filepath.Join(dirs[1], "high")); err != nil {
		t.Errorf("the last directory is not the top: %v", err)
	}
	d, err := s.Diff(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if es, err := d.ReadDir(""); err != nil || len(es) != 1 || es[0].Path != "high" {
		t.Errorf("the layer's own change is %v, %v", es, err)
	}
}

func TestOtherDiffIDIsCorrupt(t *testing.T) {
	root := t.TempDir()
	st := newStore(t, root, nil)
	data, b := blobOf(t, tarOf(t, "f", "hello"), nil)
	b.DiffID = digest.FromString("another tar")
	b.Origin = holding(false, b.Desc, data)
	_, err := st.FromBlob(nil, b, Info{}).Dir(t.Context())
	if !errors.Is(err, content.ErrCorrupt) || errors.Is(err, ErrLost) {
		t.Errorf("the error is %v", err)
	}
	for _, dir := range []string{"layers", "tmp"} {
		if got := names(t, filepath.Join(root, dir)); len(got) != 0 {
			t.Errorf("%s holds %v", dir, got)
		}
	}
}

func TestOpenAtBringsTheBlob(t *testing.T) {
	st := newStore(t, t.TempDir(), nil)
	data, b := blobOf(t, tarOf(t, "f", "hello"), nil)
	good := b
	good.Origin = holding(true, b.Desc, data)
	s := st.FromBlob(nil, good, Info{})
	r, err := s.OpenAt(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if dt, err := io.ReadAll(r); err != nil || !bytes.Equal(dt, data) {
		t.Errorf("%d bytes, %v", len(dt), err)
	}
	if !st.content.Has(b.Desc) {
		t.Error("the blob is not in the content store")
	}
}

func TestOpenAtOfRebasedLayerForgetsTheLostBlob(t *testing.T) {
	st := newStore(t, t.TempDir(), nil)
	data, b := blobOf(t, tarOf(t, "f", "hello"), nil)
	b.Origin = holding(true, b.Desc, bytes.ToUpper(data))
	s := st.FromBlob(nil, b, Info{})
	moved := st.Rebase(st.FromDiff(nil, memDiff("g", "x"), Info{}), s)
	if _, err := moved.OpenAt(t.Context(), b); !errors.Is(err, ErrLost) {
		t.Errorf("the error is %v", err)
	}
	if s.Usable() || moved.Usable() {
		t.Errorf("usable: %v, %v", s.Usable(), moved.Usable())
	}
	if st.content.Has(b.Desc) {
		t.Error("wrong bytes are in the content store")
	}
}

func TestRebaseSharesForms(t *testing.T) {
	root := t.TempDir()
	st := newStore(t, root, nil)
	data, b := blobOf(t, tarOf(t, "f", "hello"), nil)
	o := holding(false, b.Desc, data)
	b.Origin = o
	s := st.FromBlob(nil, b, Info{Description: "COPY"})
	low := st.FromDiff(nil, memDiff("low", "1"), Info{})
	moved := st.Rebase(low, s)
	again := st.Rebase(nil, moved)
	if readFile(t, moved, "f") != "hello" || readFile(t, moved, "low") != "1" {
		t.Error("the layer is not on its new parent")
	}
	for _, x := range []*State{s, moved, again} {
		dir, err := x.Dir(t.Context())
		want, _ := s.Dir(t.Context())
		if err != nil || dir != want {
			t.Errorf("Dir: %s, %v; not %s", dir, err, want)
		}
	}
	if n := o.opened.Load(); n != 1 {
		t.Errorf("the blob was read %d times", n)
	}
	zstd := compression.Config{Type: compression.Zstd}
	made, err := moved.Blob(t.Context(), zstd, true)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Blob(t.Context(), zstd, true); err != nil || got.Desc.Digest != made.Desc.Digest {
		t.Errorf("the first layer's blob is %v, %v", got, err)
	}
	if len(s.Blobs()) != 2 || len(again.Blobs()) != 2 || moved.Info() != s.Info() {
		t.Errorf("known: %d and %d blobs, history %v", len(s.Blobs()), len(again.Blobs()), moved.Info())
	}
}

func TestRewritten(t *testing.T) {
	st := newStore(t, t.TempDir(), nil)
	s := st.FromDiff(nil, memDiff("f", "hello"), Info{})
	b, err := s.Blob(t.Context(), compression.Config{}, false)
	if err != nil {
		t.Fatal(err)
	}
	epoch := time.Unix(1000, 0)
	for _, x := range []*State{s, st.Rebase(nil, s)} {
		old, err := st.Rewritten(t.Context(), x, b, compression.Config{}, epoch)
		if err != nil {
			t.Fatal(err)
		}
		if old.DiffID == b.DiffID || old.Desc.MediaType != b.Desc.MediaType {
			t.Errorf("rewritten to %v", old)
		}
		v := st.FromBlob(nil, old, Info{})
		root, err := v.View(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if e, err := root.Lookup("f"); err != nil || !e.ModTime.Equal(epoch) {
			t.Errorf("the file is of %v, %v", e, err)
		}
	}
	if len(s.Blobs()) != 1 {
		t.Errorf("the layer itself changed: %v", s.Blobs())
	}
	zstd, err := st.Rewritten(t.Context(), s, b, compression.Config{Type: compression.Zstd}, epoch)
	if err != nil || zstd.Desc.MediaType != b.Desc.MediaType {
		t.Errorf("%s became %s, %v", b.Desc.MediaType, zstd.Desc.MediaType, err)
	}
}

func TestRewrittenOfLostBlob(t *testing.T) {
	st := newStore(t, t.TempDir(), nil)
	data, b := blobOf(t, tarOf(t, "f", strings.Repeat("hello", 100)), nil)
	b.Origin = holding(true, b.Desc, data[:len(data)-20])
	s := st.FromBlob(nil, b, Info{})
	_, err := st.Rewritten(t.Context(), s, b, compression.Config{}, longAgo)
	if !errors.Is(err, ErrLost) || s.Usable() {
		t.Errorf("the error is %v, usable: %v", err, s.Usable())
	}
}
