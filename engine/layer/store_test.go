package layer

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/compression"
	"github.com/mayfly-build/mayfly/engine/content"
	"github.com/mayfly-build/mayfly/engine/statedir"
)

// kept makes a chain of a step's directory on a file operation's diff on a
// registry's blob, and keeps it.
func kept(t *testing.T, root string, st *Store, base Blob) []string {
	t.Helper()
	dir, err := st.tmp()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	upper := filepath.Join(dir, "upper")
	if err := os.Mkdir(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(upper, "three"), []byte("3"), 0o644); err != nil {
		t.Fatal(err)
	}
	one := st.FromBlob(nil, base, Info{Description: "ADD rootfs", Created: longAgo})
	if _, err := one.Dir(t.Context()); err != nil {
		t.Fatal(err)
	}
	two := st.FromDiff(one, memDiff("two", "2"), Info{Description: "COPY two"})
	three, err := st.FromDir(two, upper, Info{Description: "RUN three"})
	if err != nil {
		t.Fatal(err)
	}
	if three.Kept() {
		t.Error("kept before Keep")
	}
	ids, ok, err := st.Keep(t.Context(), three)
	if err != nil || !ok || len(ids) != 3 {
		t.Fatalf("Keep: %v, %v, %v", ids, ok, err)
	}
	if !three.Kept() {
		t.Error("not kept after Keep")
	}
	if again, ok, err := st.Keep(t.Context(), st.Rebase(two, three)); err != nil || !ok || again[2] != ids[2] {
		t.Errorf("kept again as %v, %v, %v; not %v", again, ok, err, ids)
	}
	return ids
}

func TestKeepAndLoad(t *testing.T) {
	root := t.TempDir()
	data, b := blobOf(t, tarOf(t, "one", "1"), nil)
	o := holding(false, b.Desc, data)
	o.repository = "registry.example/base"
	b.Origin = o
	ids := kept(t, root, newStore(t, root, nil), b)

	asked := ""
	st := newStore(t, root, func(repository string) Origin { asked = repository; return o })
	s, err := st.Load(ids)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"one": "1", "two": "2", "three": "3"} {
		if got := readFile(t, s, name); got != want {
			t.Errorf("%s has %q", name, got)
		}
	}
	chain := s.Chain()
	for i, want := range []Info{{"ADD rootfs", longAgo}, {"COPY two", time.Time{}}, {"RUN three", time.Time{}}} {
		if got := chain[i].Info(); got.Description != want.Description || !got.Created.Equal(want.Created) {
			t.Errorf("layer %d: %v, not %v", i, got, want)
		}
	}
	if asked != "registry.example/base" {
		t.Errorf("the origin asked for is %q", asked)
	}
	if n := o.opened.Load(); n != 1 {
		t.Errorf("the registry was read %d times: the layer was there", n)
	}
	if bs := chain[0].Blobs(); len(bs) != 1 || bs[0].DiffID != b.DiffID || bs[0].Origin != Origin(o) {
		t.Errorf("the base layer is known as %v", bs)
	}
	if !s.Kept() || !s.Usable() {
		t.Errorf("loaded: kept %v, usable %v", s.Kept(), s.Usable())
	}
}

// What one process learns about a kept layer's blob is there for the next.
func TestBlobMadeLaterIsNoted(t *testing.T) {
	root := t.TempDir()
	st := newStore(t, root, nil)
	s := st.FromDiff(nil, memDiff("f", "hello"), Info{})
	ids, ok, err := st.Keep(t.Context(), s)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	made, err := s.Blob(t.Context(), compression.Config{}, false)
	if err != nil {
		t.Fatal(err)
	}
	again, err := newStore(t, root, nil).Load(ids)
	if err != nil {
		t.Fatal(err)
	}
	if bs := again.Blobs(); len(bs) != 1 || bs[0].Desc.Digest != made.Desc.Digest || bs[0].DiffID != made.DiffID {
		t.Errorf("known as %v, not %v", bs, made)
	}
	if err := st.content.Remove(made.Desc.Digest); err != nil {
		t.Fatal(err)
	}
	if again, err = newStore(t, root, nil).Load(ids); err != nil || len(again.Blobs()) != 0 || !again.Usable() {
		t.Errorf("without the blob: %v, %v", again, err)
	}
}

func TestKeepPrefersTheBlob(t *testing.T) {
	root := t.TempDir()
	st := newStore(t, root, nil)
	s := st.FromDiff(nil, memDiff("f", "hello"), Info{})
	made, err := s.Blob(t.Context(), compression.Config{}, false)
	if err != nil {
		t.Fatal(err)
	}
	ids, ok, err := st.Keep(t.Context(), s)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if _, err := os.Lstat(filepath.Join(root, "layers", ids[0], "fs")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the files were written out too: %v", err)
	}
	again, err := newStore(t, root, nil).Load(ids)
	if err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, again, "f"); got != "hello" {
		t.Errorf("loaded from the blob: %q", got)
	}
	if err := st.content.Remove(made.Desc.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := newStore(t, root, nil).Load(ids); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the blob: %v", err)
	}
}

func TestKeepFetchesNothing(t *testing.T) {
	st := newStore(t, t.TempDir(), nil)
	data, b := blobOf(t, tarOf(t, "f", "hello"), nil)
	o := holding(true, b.Desc, data)
	b.Origin = o
	s := st.FromDiff(st.FromBlob(nil, b, Info{}), memDiff("g", "x"), Info{})
	if ids, ok, err := st.Keep(t.Context(), s); ok || err != nil || len(ids) != 0 {
		t.Errorf("Keep: %v, %v, %v", ids, ok, err)
	}
	if n := o.opened.Load(); n != 0 || s.Kept() {
		t.Errorf("%d reads, kept: %v", n, s.Kept())
	}
}

func TestLoadDamaged(t *testing.T) {
	write := func(text string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(text), 0o644) }
	}
	flip := func(path string) error {
		dt, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		dt[len(dt)-3] ^= 1
		return os.WriteFile(path, dt, 0o644)
	}
	tests := []struct {
		name   string
		file   string
		damage func(path string) error
		want   error
	}{
		{"no meta.json", "meta.json", os.Remove, fs.ErrNotExist},
		{"empty meta.json", "meta.json", write(""), statedir.ErrCorrupt},
		{"unsealed meta.json", "meta.json", write(`{"fs":true}`), statedir.ErrCorrupt},
		{"one bit of meta.json", "meta.json", flip, statedir.ErrCorrupt},
		{"one bit of blobs.json", "blobs.json", flip, statedir.ErrCorrupt},
		{"half of blobs.json", "blobs.json", func(p string) error { return os.Truncate(p, 40) }, statedir.ErrCorrupt},
		{"no fs", "fs", os.RemoveAll, fs.ErrNotExist},
		{"no layer", "", os.RemoveAll, fs.ErrNotExist},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			data, b := blobOf(t, tarOf(t, "one", "1"), nil)
			o := holding(false, b.Desc, data)
			o.repository = "registry.example/base"
			b.Origin = o
			ids := kept(t, root, newStore(t, root, nil), b)
			if err := tt.damage(filepath.Join(root, "layers", ids[0], tt.file)); err != nil {
				t.Fatal(err)
			}
			st := newStore(t, root, func(string) Origin { return o })
			if _, err := st.Load(ids); !errors.Is(err, tt.want) {
				t.Errorf("the error is %v, not %v", err, tt.want)
			}
			// The layer is made anew, in the place of the damaged one.
			if got := readFile(t, st.FromBlob(nil, b, Info{}), "one"); got != "1" {
				t.Errorf("unpacked again: %q", got)
			}
			if s, err := newStore(t, root, nil).Load(ids); err != nil {
				t.Errorf("still damaged: %v", err)
			} else if got := readFile(t, s, "one"); got != "1" {
				t.Errorf("loaded again: %q", got)
			}
		})
	}
}

func TestLoadOfAForeignName(t *testing.T) {
	st := newStore(t, t.TempDir(), nil)
	for _, id := range []string{"..", ".", "../tmp", "a/b", "/etc", ""} {
		if s, err := st.Load([]string{id}); err == nil {
			t.Errorf("%q is a layer: %v", id, s)
		}
	}
}

// Two processes on one state dir unpack the same chain at once: both have the
// files, which are there once.
func TestTwoProcessesUnpackOneChain(t *testing.T) {
	root := t.TempDir()
	low, lowBlob := blobOf(t, tarOf(t, "low", "1"), nil)
	high, highBlob := blobOf(t, tarOf(t, "high", "2"), nil)
	o := &origin{blobs: map[digest.Digest][]byte{lowBlob.Desc.Digest: low, highBlob.Desc.Digest: high}}
	lowBlob.Origin, highBlob.Origin = o, o
	const processes = 6
	start := make(chan struct{})
	dirs := make([][]string, processes)
	var wg sync.WaitGroup
	for i := range processes {
		st := newStore(t, root, nil)
		wg.Go(func() {
			<-start
			s := st.FromBlob(st.FromBlob(nil, lowBlob, Info{}), highBlob, Info{})
			var err error
			if dirs[i], err = s.Dirs(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
				return
			}
			for j, name := range []string{"low", "high"} {
				if _, err := os.Stat(filepath.Join(dirs[i][j], name)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	close(start)
	wg.Wait()
	if got := names(t, filepath.Join(root, "layers")); len(got) != 2 {
		t.Errorf("two layers are there as %v", got)
	}
	if got := names(t, filepath.Join(root, "tmp")); len(got) != 0 {
		t.Errorf("left in tmp: %v", got)
	}
	for i := range dirs {
		if len(dirs[i]) == 2 && (dirs[i][0] != dirs[0][0] || dirs[i][1] != dirs[0][1]) {
			t.Errorf("process %d has %v, not %v", i, dirs[i], dirs[0])
		}
	}
}

func TestCancelledUnpackIsTriedAgain(t *testing.T) {
	st := newStore(t, t.TempDir(), nil)
	data, b := blobOf(t, tarOf(t, "f", "hello"), nil)
	b.Origin = holding(true, b.Desc, data)
	s := st.FromBlob(nil, b, Info{})
	for range cap(st.slots) {
		st.slots <- struct{}{} // every slot is taken: unpacking waits
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("the job was stopped")
	time.AfterFunc(20*time.Millisecond, func() { cancel(stopped) })
	if _, err := s.Dir(ctx); !errors.Is(err, stopped) {
		t.Errorf("the error is %v", err)
	}
	for range cap(st.slots) {
		<-st.slots
	}
	if !s.Usable() {
		t.Error("a cancelled read lost the blob")
	}
	if got := readFile(t, s, "f"); got != "hello" {
		t.Errorf("the next who asks reads %q", got)
	}
}

func TestIngest(t *testing.T) {
	st := newStore(t, t.TempDir(), nil)
	w, err := st.Ingest()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	plain := tarOf(t, "f", "hello")
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	desc, err := w.Commit("", -1)
	if err != nil {
		t.Fatal(err)
	}
	desc.MediaType = compression.Uncompressed.MediaType()
	s := st.FromBlob(nil, Blob{Desc: desc, DiffID: digest.FromBytes(plain)}, Info{})
	if got := readFile(t, s, "f"); got != "hello" {
		t.Errorf("the file has %q", got)
	}
	// The store's own file is damaged in place: its bytes are never used.
	path := filepath.Join(filepath.Dir(st.dir), "blobs", "sha256", desc.Digest.Encoded())
	dt, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dt[600] ^= 1
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, dt, 0o644); err != nil {
		t.Fatal(err)
	}
	other := st.FromBlob(st.FromDiff(nil, memDiff("g", ""), Info{}), Blob{Desc: desc, DiffID: digest.FromBytes(plain)}, Info{})
	if dir, err := other.Dir(t.Context()); !errors.Is(err, content.ErrCorrupt) {
		t.Errorf("unpacked to %s, %v", dir, err)
	}
}

// TestLoadedChainsAreShared: of a chain of steps each step is loaded by a name
// of its own; the layers below it are the same States, which are opened,
// compressed and kept in memory once.
func TestLoadedChainsAreShared(t *testing.T) {
	root := t.TempDir()
	st := newStore(t, root, nil)
	var s *State
	for _, name := range []string{"a", "b", "c"} {
		s = st.FromDiff(s, memDiff(name, name), Info{Description: name})
	}
	ids, ok, err := st.Keep(t.Context(), s)
	if err != nil || !ok || len(ids) != 3 {
		t.Fatalf("%v, %v, %v", ids, ok, err)
	}
	st = newStore(t, root, nil)
	var tops []*State
	for n := 1; n <= 3; n++ {
		top, err := st.Load(ids[:n])
		if err != nil {
			t.Fatal(err)
		}
		tops = append(tops, top)
	}
	for i, l := range tops[2].Chain() {
		if l != tops[i] {
			t.Errorf("layer %d of the chain is another State than the step's own", i)
		}
	}
}
