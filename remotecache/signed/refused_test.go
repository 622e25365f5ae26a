package signed_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/local"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
	"github.com/mayfly-build/mayfly/remotecache/signed"
)

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
