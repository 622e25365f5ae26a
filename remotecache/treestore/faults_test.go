package treestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
)

// TestKilled: without an Index there is nothing, and with the one before there
// is what was there before.
func TestKilled(t *testing.T) {
	d := newDir(t)
	d.write("f", "first")
	b := &spy{Backend: remotecache.NewMemory()}
	killed := errors.New("killed")
	b.put = func(desc ocispec.Descriptor) error {
		if desc.MediaType == MediaTypeManifest {
			return killed
		}
		return nil
	}
	if _, _, err := d.save(b, SaveOptions{}); !errors.Is(err, killed) {
		t.Fatal(err)
	}
	got := newDir(t)
	if _, _, err := got.load(b, LoadOptions{}); !errors.Is(err, remotecache.ErrNotFound) || errors.Is(err, ErrIncomplete) || len(got.names()) > 0 {
		t.Errorf("loaded what was not saved: %v, %q", err, got.names())
	}
	b.put = nil
	d.mustSave(b, SaveOptions{})
	for _, kind := range []string{MediaTypePack, MediaTypeManifest} {
		d.write("f", "second "+kind)
		b.put = func(desc ocispec.Descriptor) error {
			if desc.MediaType == kind {
				return killed
			}
			return nil
		}
		if _, _, err := d.save(b, SaveOptions{}); !errors.Is(err, killed) {
			t.Fatal(err)
		}
		got := newDir(t)
		got.mustLoad(b)
		if got.read("f") != "first" {
			t.Errorf("f is %q", got.read("f"))
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(killed)
	if _, _, err := Save(ctx, b, "main", testName, d.path, SaveOptions{Tmp: d.tmp}); !errors.Is(err, killed) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestLostPack: it is all or nothing, and the next Save mends it.
func TestLostPack(t *testing.T) {
	d := newDir(t)
	d.write("f", "x", "g/h", "y")
	m := remotecache.NewMemory()
	d.mustSave(m, SaveOptions{})
	d.write("new", "z")
	d.mustSave(m, SaveOptions{})
	tr, _ := stored(t, m)
	if len(tr.packs) != 2 {
		t.Fatalf("%d packs", len(tr.packs))
	}
	m.Remove(tr.packs[0].digest)
	got := newDir(t)
	if _, _, err := got.load(m, LoadOptions{}); !errors.Is(err, ErrIncomplete) || !errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("load: %v", err)
	}
	if names := got.names(); len(names) != 0 {
		t.Errorf("after an error there is %q", names)
	}
	d.mustSave(m, SaveOptions{})
	got.mustLoad(m)
	d.same(got)
}

// TestCorruptPack: nothing is restored, and a Save that is told mends it.
func TestCorruptPack(t *testing.T) {
	d := newDir(t)
	d.write("f", string(random(1, 3<<20)), "g/h", "y")
	for name, damage := range map[string]func([]byte) []byte{
		"flipped": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"short":   func(b []byte) []byte { return b[:len(b)/2] },
		"empty":   func([]byte) []byte { return nil },
		"other":   func(b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) },
	} {
		t.Run(name, func(t *testing.T) {
			m := remotecache.NewMemory()
			d.mustSave(m, SaveOptions{})
			b := &lying{Backend: m, kind: MediaTypePack, damage: damage}
			got := newDir(t)
			if _, _, err := got.load(b, LoadOptions{}); !errors.Is(err, remotecache.ErrCorrupt) {
				t.Errorf("load: %v", err)
			}
			if names := got.names(); len(names) != 0 {
				t.Errorf("after an error there is %q", names)
			}
			b.kind = MediaTypeManifest
			if _, _, err := got.load(b, LoadOptions{}); !errors.Is(err, remotecache.ErrCorrupt) {
				t.Errorf("load of a corrupt manifest: %v", err)
			}
		})
	}
	m := remotecache.NewMemory()
	d.mustSave(m, SaveOptions{})
	if _, s := d.mustSave(m, SaveOptions{Anew: true}); s.Blobs != 2 || s.Unchanged {
		t.Errorf("anew: %+v", s)
	}
}

// A lying backend gives other bytes than it was given.
type lying struct {
	remotecache.Backend
	kind   string
	damage func([]byte) []byte
}

// TestConflict: the directory that was read last stays, and it is whole.
func TestConflict(t *testing.T) {
	for _, theirs := range []time.Duration{-time.Minute, time.Minute} {
		m := remotecache.NewMemory()
		d, other := newDir(t), newDir(t)
		d.write("f", "before")
		d.mustSave(m, SaveOptions{})
		d.write("f", "mine")
		other.write("f", "theirs")
		b := &spy{Backend: m}
		b.saving = func() {
			b.saving = nil
			other.mustSave(m, SaveOptions{Now: func() time.Time { return time.Now().Add(theirs) }})
		}
		_, s := d.mustSave(b, SaveOptions{})
		got := newDir(t)
		got.mustLoad(m)
		want := "mine"
		if theirs > 0 {
			want = "theirs"
		}
		if got.read("f") != want || s.Superseded != (theirs > 0) {
			t.Errorf("with theirs at %v: f is %q, %+v", theirs, got.read("f"), s)
		}
	}
}

// TestEvictedMeanwhile: a pack that the backend lost after it said that it has
// it is sent again.
func TestEvictedMeanwhile(t *testing.T) {
	m := remotecache.NewMemory()
	d := newDir(t)
	d.write("f", "one")
	known, _ := d.mustSave(m, SaveOptions{})
	tr, _ := stored(t, m)
	d.write("g", "two")
	b := &spy{Backend: m}
	b.saving = func() {
		if b.saves == 1 {
			m.Remove(tr.packs[0].digest)
		}
	}
	d.mustSave(b, SaveOptions{Known: known})
	got := newDir(t)
	got.mustLoad(m)
	d.same(got)
	if b.saves != 2 {
		t.Errorf("%d indexes saved", b.saves)
	}
}

// TestRepack: what is not used any more goes, and small packs come together.
func TestRepack(t *testing.T) {
	d := newDir(t)
	m := remotecache.NewMemory()
	d.write("keep", string(random(1, 1<<20)), "drop", string(random(2, 4<<20)))
	d.mustSave(m, SaveOptions{})
	must(t, os.Remove(filepath.Join(d.path, "drop")))
	_, s := d.mustSave(m, SaveOptions{})
	if s.Stored > 1<<20+1<<16 || s.Packs != 1 {
		t.Errorf("a quarter of the pack is used: %+v", s)
	}
	for i := range 2 * maxSmall {
		d.write(fmt.Sprint("small", i), fmt.Sprint(i))
		_, s = d.mustSave(m, SaveOptions{})
		if s.Packs > maxSmall+1 {
			t.Fatalf("save %d: %d packs", i, s.Packs)
		}
	}
	got := newDir(t)
	got.mustLoad(m)
	d.same(got)
}

// TestWhileWritten: a directory that somebody works in is stored whole, apart
// from the files that never rest.
func TestWhileWritten(t *testing.T) {
	d := newDir(t)
	for i := range 200 {
		d.write(fmt.Sprintf("%d/f", i%10), "x", fmt.Sprintf("go/%d", i), strings.Repeat("y", i*100))
	}
	d.write("stays", string(random(1, 1<<20)))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			p := filepath.Join(d.path, "go", fmt.Sprint(i%200))
			switch i % 3 {
			case 0:
				_ = os.Remove(p)
			case 1:
				_ = os.WriteFile(p, random(uint64(i), i%5000), 0o644)
			case 2:
				_ = os.RemoveAll(filepath.Join(d.path, "new"))
				_ = os.MkdirAll(filepath.Join(d.path, "new", fmt.Sprint(i)), 0o755)
			}
		}
	}()
	m := remotecache.NewMemory()
	for range 5 {
		d.mustSave(m, SaveOptions{})
		got := newDir(t)
		got.mustLoad(m)
		if got.read("stays") != d.read("stays") || got.read("3/f") != "x" {
			t.Error("what nobody changed is not the same")
		}
	}
	close(stop)
	<-stopped
}
