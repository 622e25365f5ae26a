package signed_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/local"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
	"github.com/mayfly-build/mayfly/remotecache/signed"
)

// TestSuite: with Sign and Verify around it, a backend is what it was.
func TestSuite(t *testing.T) {
	key := newKey(t, "ed25519")
	wrap := func(t *testing.T, b remotecache.Backend) remotecache.Backend {
		return verify(t, sign(t, b, key), keys(key))
	}
	t.Run("memory", func(t *testing.T) {
		remotecachetest.Run(t, func(t *testing.T) func() remotecache.Backend {
			m := remotecache.NewMemory()
			return func() remotecache.Backend { return wrap(t, m) }
		})
	})
	t.Run("local", func(t *testing.T) {
		remotecachetest.Run(t, func(t *testing.T) func() remotecache.Backend {
			dir := t.TempDir()
			return func() remotecache.Backend {
				b, err := local.New(local.Config{Dir: dir, Form: manifest.Form{Index: true, Docker: true}})
				if err != nil {
					t.Fatal(err)
				}
				return wrap(t, b)
			}
		})
	})
}

// difficult returns an Index with all that a backend may change.
func difficult(t *testing.T, b remotecache.Backend) *remotecache.Index {
	idx := fill(t, b, 4)
	zone := time.FixedZone("somewhere", 5*3600+1800)
	idx.Layers[0].MediaType = remotecache.DockerMediaType(idx.Layers[0].MediaType)
	idx.Layers[0].CreatedAt = time.Date(2026, 2, 3, 4, 5, 6, 789, zone)
	idx.Layers[1].CreatedAt = time.Time{}
	idx.Layers[1].DiffID = ""
	idx.Layers[2].Description = "RUN make <all> & test"
	idx.Layers[2].Extra = map[string]string{"containerd.io/snapshot/stargz/toc.digest": "sha256:toc"}
	// The same blob on another one, known by other facts.
	again := idx.Layers[3]
	again.Parent, again.MediaType, again.Extra = remotecache.NoParent, remotecache.DockerMediaType(again.MediaType), map[string]string{"x": "y"}
	idx.Layers = append(idx.Layers, again)
	idx.Records = append(idx.Records, remotecache.Record{
		Digest:  remotecache.OutputKey(digest.FromString("more"), 1),
		Inputs:  [][]remotecache.Input{{{Link: 0, Selector: "a\xffb"}, {Link: 1, Selector: "\u2028<&>\ufffd"}}},
		Results: []remotecache.Result{{Layer: 4, CreatedAt: time.Date(2026, 2, 3, 4, 5, 6, 7, zone)}},
		Chains:  []remotecache.Chain{{Layers: []int{0, 4}, CreatedAt: time.Now()}, {Layers: []int{0}}},
	})
	desc, data := remotecachetest.Blob(99, 300)
	put(t, b, desc, data)
	idx.Attach(remotecache.Blob{Digest: desc.Digest, Size: desc.Size, MediaType: remotecache.AttachmentPrefix + "other.v1", CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6, zone)})
	return idx
}

func TestRoundTrip(t *testing.T) {
	signers := []*signed.KeySigner{newKey(t, "ed25519"), newKey(t, "p256"), newKey(t, "p384")}
	for name, open := range stores(t) {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			before := difficult(t, b)
			kept := before.Clone()
			save(t, sign(t, b, signers[0], signers[1], signers[2]), "main", before)
			if fmt.Sprintf("%+v", before) != fmt.Sprintf("%+v", kept) {
				t.Error("SaveIndex has changed the caller's Index")
			}
			var first *remotecache.Index
			for _, s := range signers { // any one suffices
				got := load(t, verify(t, b, keys(s)), "main")
				if _, ok := got.Attachment(signed.MediaType); ok || len(got.Attachments) != 1 || got.Version == "" {
					t.Errorf("attachments %v, version %q", got.Attachments, got.Version)
				}
				if first == nil {
					first = got
				}
				if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", first) {
					t.Error("another key gives another Index")
				}
			}
			if len(first.Layers) != len(before.Layers) || len(first.Records) != len(before.Records) {
				t.Fatalf("%d layers, %d records", len(first.Layers), len(first.Records))
			}
			l := first.Layers[2]
			if kept := name != "annotated"; (l.Description != "") != kept || (len(l.Extra) > 0) != kept {
				t.Errorf("description %q, annotations %v", l.Description, l.Extra)
			}
			for i, l := range first.Layers {
				want := before.Layers[i]
				if l.Digest != want.Digest || l.Size != want.Size || l.DiffID != want.DiffID || l.MediaType != ocispec.MediaTypeImageLayerGzip || !l.CreatedAt.Equal(want.CreatedAt) || l.CreatedAt.Location() != time.UTC {
					t.Errorf("layer %d is %+v, was %+v", i, l, want)
				}
			}
			for i, r := range first.Records {
				for _, res := range r.Results {
					if res.CreatedAt.Location() != time.UTC {
						t.Errorf("record %d: %v", i, res.CreatedAt)
					}
				}
			}
			// What comes out goes in again.
			again := sign(t, b, signers[0])
			save(t, again, "main", first)
			load(t, verify(t, b, keys(signers[0])), "main")
			refused(t, verify(t, b, keys(signers[1])), "main", signed.UnknownKey)
		})
	}
}

// TestMerge takes a cache through what an export that merges does.
func TestMerge(t *testing.T) {
	key := newKey(t, "ed25519")
	m := remotecache.NewMemory()
	b := verify(t, sign(t, m, key), keys(key))
	save(t, b, "main", fill(t, m, 2))
	old := load(t, b, "main")
	desc, data := remotecachetest.Blob(50, 100)
	put(t, b, desc, data)
	merged, err := remotecache.Merge(old, remotecachetest.IndexOf("other", desc), remotecache.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	merged.Version = old.Version
	save(t, b, "main", merged)
	if got := load(t, b, "main"); len(got.Layers) != 3 {
		t.Errorf("%d layers", len(got.Layers))
	}
	if err := b.SaveIndex(t.Context(), "main", merged); !errors.Is(err, remotecache.ErrConflict) {
		t.Errorf("over a version that is gone: %v", err)
	}
	// One that is refused can be replaced, and only it.
	save(t, m, "main", fill(t, m, 1))
	pe := refused(t, b, "main", signed.Unsigned)
	fresh := fill(t, m, 2)
	fresh.Version = pe.Version
	save(t, b, "main", fresh)
	load(t, b, "main")
}

func TestAge(t *testing.T) {
	key := newKey(t, "ed25519")
	m := remotecache.NewMemory()
	save(t, sign(t, m, key), "main", fill(t, m, 1))
	for _, tt := range []struct {
		after, max time.Duration
		want       signed.Reason
	}{
		{0, time.Hour, ""},
		{time.Hour, time.Hour, ""},
		{time.Hour + time.Second, time.Hour, signed.TooOld},
		{10 * 365 * 24 * time.Hour, 0, ""},
		{-time.Minute, time.Hour, ""},
		{-time.Hour, time.Hour, signed.InFuture},
		{-time.Hour, 0, signed.InFuture},
	} {
		p := keys(key)
		p.MaxAge, p.Now = tt.max, func() time.Time { return noon().Add(tt.after) }
		v := verify(t, m, p)
		if tt.want == "" {
			load(t, v, "main")
			continue
		}
		refused(t, v, "main", tt.want)
	}
}

var errOffline = errors.New("the network is down")

type offline struct{ *remotecache.Memory }

func (offline) Open(context.Context, ocispec.Descriptor, int64) (io.ReadCloser, error) {
	return nil, errOffline
}

type failing struct{}

func (failing) KeyID() string { return "failing" }
func (failing) Sign(context.Context, []byte) (signed.Signature, error) {
	return signed.Signature{}, errOffline
}

// TestFaults: a fault of the network is no verdict, and nothing is saved
// unsigned.
func TestFaults(t *testing.T) {
	key := newKey(t, "ed25519")
	m := remotecache.NewMemory()
	idx := fill(t, m, 1)
	if err := sign(t, m, key, failing{}).SaveIndex(t.Context(), "main", idx); !errors.Is(err, errOffline) {
		t.Errorf("a signer fails: %v", err)
	}
	v := verify(t, m, keys(key))
	if _, err := v.LoadIndex(t.Context(), "main"); !errors.Is(err, remotecache.ErrNotFound) || errors.Is(err, remotecache.ErrUntrusted) {
		t.Errorf("nothing is there: %v", err)
	}
	save(t, sign(t, m, key), "main", idx)
	if _, err := verify(t, offline{m}, keys(key)).LoadIndex(t.Context(), "main"); !errors.Is(err, errOffline) || errors.Is(err, remotecache.ErrUntrusted) {
		t.Errorf("the signature cannot be read: %v", err)
	}
	if err := sign(t, remotecache.ReadOnly(m), key).SaveIndex(t.Context(), "main", idx); !errors.Is(err, remotecache.ErrReadOnly) {
		t.Errorf("a read-only cache: %v", err)
	}
}

type guarded struct{ remotecache.Backend }

func (guarded) Writable() error { return remotecache.ErrReadOnly }

func TestWritable(t *testing.T) {
	key := newKey(t, "ed25519")
	m := remotecache.NewMemory()
	for _, wrap := range []func(remotecache.Backend) remotecache.Backend{
		func(b remotecache.Backend) remotecache.Backend { return sign(t, b, key) },
		func(b remotecache.Backend) remotecache.Backend { return verify(t, b, keys(key)) },
	} {
		if err := wrap(guarded{m}).(remotecache.Guard).Writable(); !errors.Is(err, remotecache.ErrReadOnly) {
			t.Errorf("%v", err)
		}
		if err := wrap(m).(remotecache.Guard).Writable(); err != nil {
			t.Errorf("%v", err)
		}
	}
}

func TestConfig(t *testing.T) {
	key := newKey(t, "ed25519")
	if _, err := signed.Sign(remotecache.NewMemory(), signed.Config{}); err == nil {
		t.Error("no signer")
	}
	if _, err := signed.Sign(remotecache.NewMemory(), signed.Config{Signers: []signed.Signer{key, key}}); err == nil {
		t.Error("one signer twice")
	}
	if _, err := signed.Verify(remotecache.NewMemory(), signed.Policy{}); err == nil {
		t.Error("a policy that allows nobody")
	}
	p := keys(key)
	p.MaxAge = -1
	if _, err := signed.Verify(remotecache.NewMemory(), p); err == nil {
		t.Error("a negative age")
	}
}

// TestKeeper has a store that is tidied up: what stays is signed anew, the
// signature is among the blobs in use, and poison stays poison.
func TestKeeper(t *testing.T) {
	key := newKey(t, "ed25519")
	m := remotecache.NewMemory()
	k, err := signed.Keeper(m, signed.Config{Signers: []signed.Signer{key}, Now: noon}, keys(key))
	if err != nil {
		t.Fatal(err)
	}
	save(t, sign(t, m, key), "main", fill(t, m, 3))
	idx := load(t, k, "main")
	used := map[digest.Digest]bool{}
	for _, b := range idx.Blobs() {
		used[b.Digest] = true
	}
	held, err := k.List(t.Context())
	if err != nil || len(held.Blobs) != 4 {
		t.Fatalf("%+v, %v", held, err)
	}
	for _, b := range held.Blobs {
		if !used[b.Digest] {
			t.Errorf("blob %s is not in use", b.Digest)
		}
	}
	rest := idx.Without(map[digest.Digest]bool{idx.Layers[2].Digest: true})
	rest.Version = idx.Version
	save(t, k, "main", rest)
	if got := load(t, verify(t, m, keys(key)), "main"); len(got.Layers) >= 3 {
		t.Errorf("%d layers", len(got.Layers))
	}
	if err := k.RemoveBlob(t.Context(), idx.Layers[2].Digest); err != nil {
		t.Error(err)
	}
	poison := load(t, m, "main")
	poison.Records[0].Digest = digest.FromString("evil")
	poison.Version = ""
	save(t, m, "main", poison)
	refused(t, k, "main", signed.OtherContent)

	if _, err := signed.Keeper(m, signed.Config{}, keys(key)); err == nil {
		t.Error("nobody signs")
	}
	if _, err := signed.Keeper(m, signed.Config{Signers: []signed.Signer{key}}, signed.Policy{}); err == nil {
		t.Error("nobody is allowed")
	}
}
