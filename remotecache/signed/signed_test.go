package signed_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/hint"
	client "github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/local"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
	cacheregistry "github.com/mayfly-build/mayfly/remotecache/registry"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
	"github.com/mayfly-build/mayfly/remotecache/signed"
)

// noon is when the tests sign.
func noon() time.Time { return time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC) }

func encodeKey(t testing.TB, key crypto.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// newKey returns a new key: "ed25519", "p256" or "p384".
func newKey(t testing.TB, kind string) *signed.KeySigner {
	t.Helper()
	var key crypto.PrivateKey
	var err error
	switch kind {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "p256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := signed.ParsePrivateKey("key.pem", encodeKey(t, key))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sign(t testing.TB, b remotecache.Backend, signers ...signed.Signer) remotecache.Backend {
	t.Helper()
	s, err := signed.Sign(b, signed.Config{Signers: signers, Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func verify(t testing.TB, b remotecache.Backend, p signed.Policy) remotecache.Backend {
	t.Helper()
	if p.Now == nil {
		p.Now = noon
	}
	v, err := signed.Verify(b, p)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func keys(signers ...*signed.KeySigner) signed.Policy {
	var p signed.Policy
	for _, s := range signers {
		p.Keys = append(p.Keys, s.PublicKey())
	}
	return p
}

// stores are the places that change an Index in the most different ways.
func stores(t *testing.T) map[string]func(t *testing.T) remotecache.Backend {
	inDir := func(form manifest.Form) func(t *testing.T) remotecache.Backend {
		return func(t *testing.T) remotecache.Backend {
			b, err := local.New(local.Config{Dir: t.TempDir(), Form: form})
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	return map[string]func(t *testing.T) remotecache.Backend{
		"memory":       func(*testing.T) remotecache.Backend { return remotecache.NewMemory() },
		"annotated":    func(*testing.T) remotecache.Backend { return &annotated{Memory: remotecache.NewMemory()} },
		"local":        inDir(manifest.Form{}),
		"local index":  inDir(manifest.Form{Index: true}),
		"local docker": inDir(manifest.Form{Index: true, Docker: true}),
		"registry": func(t *testing.T) remotecache.Backend {
			srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
			t.Cleanup(srv.Close)
			c := client.New(client.Config{})
			t.Cleanup(c.CloseIdle)
			b, err := cacheregistry.New(cacheregistry.Config{Client: c, Ref: strings.TrimPrefix(srv.URL, "http://") + "/app:cache"})
			if err != nil {
				t.Fatal(err)
			}
			return b
		},
	}
}

// annotated keeps an Index as gha, s3 and azblob do: the facts within it.
type annotated struct {
	*remotecache.Memory
	saved []byte
}

func (a *annotated) SaveIndex(ctx context.Context, ref string, idx *remotecache.Index) (err error) {
	a.saved, err = idx.EncodeAnnotated()
	return err
}

func (a *annotated) LoadIndex(context.Context, string) (*remotecache.Index, error) {
	idx, err := remotecache.Decode(a.saved)
	if idx != nil {
		idx.Version = "v"
	}
	return idx, err
}

func put(t testing.TB, b remotecache.Backend, desc ocispec.Descriptor, data []byte) {
	t.Helper()
	if err := b.Put(t.Context(), desc, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
}

// fill puts n blobs into b and returns an Index of them.
func fill(t testing.TB, b remotecache.Backend, n int) *remotecache.Index {
	t.Helper()
	var descs []ocispec.Descriptor
	for i := range n {
		desc, data := remotecachetest.Blob(uint64(i), 200)
		put(t, b, desc, data)
		descs = append(descs, desc)
	}
	return remotecachetest.IndexOf("app", descs...)
}

func save(t testing.TB, b remotecache.Backend, ref string, idx *remotecache.Index) {
	t.Helper()
	if err := b.SaveIndex(t.Context(), ref, idx); err != nil {
		t.Fatal(err)
	}
}

func load(t testing.TB, b remotecache.Backend, ref string) *remotecache.Index {
	t.Helper()
	idx, err := b.LoadIndex(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return idx
}

// refused wants LoadIndex to refuse what is saved, for a reason.
func refused(t testing.TB, b remotecache.Backend, ref string, want signed.Reason) *signed.PolicyError {
	t.Helper()
	idx, err := b.LoadIndex(t.Context(), ref)
	pe, ok := errors.AsType[*signed.PolicyError](err)
	if !ok || idx != nil {
		t.Fatalf("%v, %v, want it refused: %s", idx, err, want)
	}
	if pe.Reason != want {
		t.Errorf("refused because %s (%v), want %s", pe.Reason, err, want)
	}
	if !errors.Is(err, signed.ErrUntrusted) || errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("%v: ErrUntrusted %v, ErrNotFound %v", err, errors.Is(err, signed.ErrUntrusted), errors.Is(err, remotecache.ErrNotFound))
	}
	if pe.Ref != ref || pe.Version == "" || !strings.Contains(err.Error(), ref) {
		t.Errorf("%+v", pe)
	}
	return pe
}

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

func TestRefused(t *testing.T) {
	key, other := newKey(t, "p256"), newKey(t, "p256")
	tamper := func(change func(t *testing.T, b remotecache.Backend, idx *remotecache.Index)) func(t *testing.T, b remotecache.Backend) {
		return func(t *testing.T, b remotecache.Backend) {
			idx := load(t, b, "main")
			change(t, b, idx)
			idx.Version = ""
			save(t, b, "main", idx)
		}
	}
	for _, tt := range []struct {
		name string
		do   func(t *testing.T, b remotecache.Backend)
		want signed.Reason // "" for none
	}{
		{"nothing", func(*testing.T, remotecache.Backend) {}, ""},
		{"record: another key", tamper(func(_ *testing.T, _ remotecache.Backend, idx *remotecache.Index) {
			idx.Records[1].Digest = digest.FromString("x")
		}), signed.OtherContent},
		{"record: another layer", tamper(func(_ *testing.T, _ remotecache.Backend, idx *remotecache.Index) {
			idx.Records[2].Results = idx.Records[1].Results
		}), signed.OtherContent},
		{"record: another selector", tamper(func(_ *testing.T, _ remotecache.Backend, idx *remotecache.Index) {
			for _, r := range idx.Records {
				for _, links := range r.Inputs {
					links[0].Selector = ""
				}
			}
		}), signed.OtherContent},
		{"record: one more", tamper(func(_ *testing.T, _ remotecache.Backend, idx *remotecache.Index) {
			idx.Records = append(idx.Records, remotecache.Record{Digest: digest.FromString("evil"), Results: []remotecache.Result{{Layer: 0}}})
		}), signed.OtherContent},
		{"record: a younger result", tamper(func(_ *testing.T, _ remotecache.Backend, idx *remotecache.Index) {
			for _, r := range idx.Records {
				for i := range r.Results {
					r.Results[i].CreatedAt = r.Results[i].CreatedAt.Add(1)
				}
			}
		}), signed.OtherContent},
		{"layer: another blob", tamper(func(t *testing.T, b remotecache.Backend, idx *remotecache.Index) {
			desc, data := remotecachetest.Blob(666, 200)
			put(t, b, desc, data)
			idx.Layers[0].Digest = desc.Digest
		}), signed.OtherContent},
		{"layer: another size", tamper(func(t *testing.T, b remotecache.Backend, idx *remotecache.Index) {
			if _, ok := b.(*local.Backend); ok { // local does not save it
				desc, data := remotecachetest.Blob(666, 201)
				put(t, b, desc, data)
				idx.Layers[0].Digest = desc.Digest
			}
			idx.Layers[0].Size++
		}), signed.OtherContent},
		{"layer: another diff ID", tamper(func(_ *testing.T, _ remotecache.Backend, idx *remotecache.Index) {
			idx.Layers[0].DiffID = digest.FromString("x")
		}), signed.OtherContent},
		{"layer: another media type", tamper(func(_ *testing.T, _ remotecache.Backend, idx *remotecache.Index) {
			idx.Layers[0].MediaType = ocispec.MediaTypeImageLayerZstd
		}), signed.OtherContent},
		{"layer: docker's media type", tamper(func(_ *testing.T, _ remotecache.Backend, idx *remotecache.Index) {
			idx.Layers[0].MediaType = remotecache.DockerMediaType(idx.Layers[0].MediaType)
		}), ""},
		{"layer: another parent", tamper(func(_ *testing.T, _ remotecache.Backend, idx *remotecache.Index) {
			for i := range idx.Layers {
				idx.Layers[i].Parent = remotecache.NoParent
			}
		}), signed.OtherContent},
		{"attachment: one more", tamper(func(t *testing.T, b remotecache.Backend, idx *remotecache.Index) {
			desc, data := remotecachetest.Blob(5, 100)
			put(t, b, desc, data)
			idx.Attach(remotecache.Blob{Digest: desc.Digest, Size: desc.Size, MediaType: remotecache.AttachmentPrefix + "x"})
		}), signed.OtherContent},
		{"attachment: one less", tamper(func(_ *testing.T, _ remotecache.Backend, idx *remotecache.Index) {
			idx.Attachments = idx.Attachments[1:]
		}), signed.OtherContent},
		{"attachment: another type", tamper(func(_ *testing.T, _ remotecache.Backend, idx *remotecache.Index) {
			idx.Attachments[0].MediaType += "x"
		}), signed.OtherContent},
		{"two signatures", tamper(func(_ *testing.T, _ remotecache.Backend, idx *remotecache.Index) {
			sig, _ := idx.Attachment(signed.MediaType)
			idx.Attachments = append(idx.Attachments, sig)
		}), signed.Malformed},
		{"no signature", tamper(func(_ *testing.T, _ remotecache.Backend, idx *remotecache.Index) {
			idx.Attachments = idx.Attachments[:1]
		}), signed.Unsigned},
		{"of another ref", func(t *testing.T, b remotecache.Backend) {
			idx := fill(t, b, 1)
			save(t, sign(t, b, key), "dev", idx)
			dev := load(t, b, "dev")
			dev.Version = ""
			save(t, b, "main", dev)
		}, signed.OtherRef},
		{"signature of another index", func(t *testing.T, b remotecache.Backend) {
			save(t, sign(t, b, key), "dev", fill(t, b, 1))
			sig, _ := load(t, b, "dev").Attachment(signed.MediaType)
			tamper(func(_ *testing.T, _ remotecache.Backend, idx *remotecache.Index) { idx.Attach(sig) })(t, b)
		}, signed.OtherRef},
		{"signature of what was there before", func(t *testing.T, b remotecache.Backend) {
			sig, _ := load(t, b, "main").Attachment(signed.MediaType)
			save(t, sign(t, b, key), "main", fill(t, b, 1))
			tamper(func(_ *testing.T, _ remotecache.Backend, idx *remotecache.Index) { idx.Attach(sig) })(t, b)
		}, signed.OtherContent},
		{"foreign key", func(t *testing.T, b remotecache.Backend) {
			save(t, sign(t, b, other), "main", fill(t, b, 1))
		}, signed.UnknownKey},
		{"foreign key among ours", func(t *testing.T, b remotecache.Backend) {
			save(t, sign(t, b, other, key), "main", fill(t, b, 1))
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for name, open := range stores(t) {
				if name == "registry" || name == "annotated" { // one of each kind will do
					continue
				}
				t.Run(name, func(t *testing.T) {
					b := open(t)
					idx := fill(t, b, 3)
					desc, data := remotecachetest.Blob(99, 300)
					put(t, b, desc, data)
					idx.Attach(remotecache.Blob{Digest: desc.Digest, Size: desc.Size, MediaType: remotecache.AttachmentPrefix + "other.v1"})
					save(t, sign(t, b, key), "main", idx)
					tt.do(t, b)
					v := verify(t, b, keys(key))
					if tt.want == "" {
						load(t, v, "main")
						return
					}
					refused(t, v, "main", tt.want)
				})
			}
		})
	}
}

// TestDetails: what is not under every backend's control is not believed
// either.
func TestDetails(t *testing.T) {
	key := newKey(t, "ed25519")
	m := remotecache.NewMemory()
	idx := difficult(t, m)
	save(t, sign(t, m, key), "main", idx)
	changed := load(t, m, "main")
	changed.Layers[2].Extra["containerd.io/snapshot/stargz/toc.digest"] = "sha256:evil"
	changed.Version = ""
	save(t, m, "main", changed)
	for i, l := range load(t, verify(t, m, keys(key)), "main").Layers {
		if len(l.Extra) > 0 || l.Description != "" {
			t.Errorf("layer %d: %q, %v", i, l.Description, l.Extra)
		}
	}
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

// TestDamagedEnvelope cuts the envelope short, and takes it away.
func TestDamagedEnvelope(t *testing.T) {
	key := newKey(t, "ed25519")
	m := remotecache.NewMemory()
	save(t, sign(t, m, key), "main", fill(t, m, 1))
	v := verify(t, m, keys(key))
	idx := load(t, m, "main")
	sig, _ := idx.Attachment(signed.MediaType)
	data := readBlob(t, m, sig)
	replace := func(data []byte) {
		t.Helper()
		blob := remotecache.Blob{Digest: digest.FromBytes(data), Size: int64(len(data)), MediaType: signed.MediaType}
		put(t, m, blob.Descriptor(), data)
		now := idx.Clone()
		now.Attach(blob)
		now.Version = ""
		save(t, m, "main", now)
	}
	for n := 1; n < len(data); n++ {
		replace(data[:n])
		refused(t, v, "main", signed.Malformed)
	}
	for _, bad := range []string{
		"{}", "null", "[]", string(data) + "{}", string(data) + "}", `{"payloadType":"x","payload":"","signatures":[]}`,
		strings.Replace(string(data), `"payload"`, `"more":1,"payload"`, 1),
		strings.Replace(string(data), "cache-index.v1", "cache-index.v2", 1),
		strings.Repeat("x", 1<<20+1),
	} {
		replace([]byte(bad))
		refused(t, v, "main", signed.Malformed)
	}
	for _, change := range []func(map[string]any){
		func(s map[string]any) { s["keyid"] = newKey(t, "ed25519").KeyID() },
		func(s map[string]any) { s["sig"] = "AAAA" },
	} {
		var doc map[string]any
		if err := json.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		change(doc["signatures"].([]any)[0].(map[string]any))
		bad, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		replace(bad)
		refused(t, v, "main", signed.BadSignature)
	}
	replace(data)
	load(t, v, "main")
	m.Remove(sig.Digest)
	refused(t, v, "main", signed.Unsigned)
	// Bytes that are not those of the digest.
	refused(t, verify(t, lying{m}, keys(key)), "main", signed.Malformed)
}

// lying serves zeros for every blob.
type lying struct{ *remotecache.Memory }

func (lying) Open(_ context.Context, blob ocispec.Descriptor, _ int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(make([]byte, blob.Size))), nil
}

func readBlob(t testing.TB, b remotecache.Backend, blob remotecache.Blob) []byte {
	t.Helper()
	r, err := remotecache.Verify(b).Open(t.Context(), blob.Descriptor(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
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
	if _, err := v.LoadIndex(t.Context(), "main"); !errors.Is(err, remotecache.ErrNotFound) || errors.Is(err, signed.ErrUntrusted) {
		t.Errorf("nothing is there: %v", err)
	}
	save(t, sign(t, m, key), "main", idx)
	if _, err := verify(t, offline{m}, keys(key)).LoadIndex(t.Context(), "main"); !errors.Is(err, errOffline) || errors.Is(err, signed.ErrUntrusted) {
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

// TestWords holds what users read.
func TestWords(t *testing.T) {
	key := newKey(t, "ed25519")
	m := remotecache.NewMemory()
	v := verify(t, m, keys(key))
	idx := fill(t, m, 1)
	save(t, m, "main", idx)
	_, err := v.LoadIndex(t.Context(), "main")
	if err.Error() != `cache index "main" is not trusted: it is not signed` || !strings.Contains(hint.Of(err), "sign-key=") {
		t.Errorf("%v; hint: %s", err, hint.Of(err))
	}
	other := newKey(t, "p384")
	save(t, sign(t, m, other), "main", idx)
	_, err = v.LoadIndex(t.Context(), "main")
	if !strings.Contains(err.Error(), other.KeyID()) || !strings.Contains(hint.Of(err), "verify-key=") {
		t.Errorf("%v; hint: %s", err, hint.Of(err))
	}
}
