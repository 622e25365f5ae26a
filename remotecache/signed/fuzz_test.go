package signed_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/signed"
)

// FuzzEnvelope has any bytes for an envelope: they are refused, unless they
// say the same as the one that was signed.
func FuzzEnvelope(f *testing.F) {
	key, ec := newKey(f, "ed25519"), issuers()[1]
	m := remotecache.NewMemory()
	save(f, sign(f, m, key, ec.identity(nil)), "main", fill(f, m, 1))
	p := allow(keySet(f, ec.jwk(f, "")), "repository=acme/app")
	p.Keys = keys(key).Keys
	v := verify(f, m, p)
	want := load(f, v, "main")
	idx := load(f, m, "main")
	sig, _ := idx.Attachment(signed.MediaType)
	good := readBlob(f, m, sig)
	f.Add(good)
	f.Add(bytes.ToUpper(good))
	f.Add([]byte(`{"payloadType":"application/vnd.mayfly.cache-index.v1+json","payload":"e30=","signatures":[{"keyid":"oidc","jwt":"a.b.c"}]}`))
	f.Add([]byte(`{"payloadType":"application/vnd.mayfly.cache-index.v1+json","payload":"bnVsbA==","signatures":[{"keyid":"x","sig":"AA=="}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		blob := remotecache.Blob{Digest: digest.FromBytes(data), Size: int64(len(data)), MediaType: signed.MediaType}
		if blob.Size == 0 {
			return
		}
		put(t, m, blob.Descriptor(), data)
		now := idx.Clone()
		now.Attach(blob)
		now.Version = ""
		save(t, m, "fuzzed", now)
		if _, err := v.LoadIndex(t.Context(), "fuzzed"); !errors.Is(err, remotecache.ErrUntrusted) {
			t.Fatalf("under another ref: %v", err)
		}
		save(t, m, "main", now)
		got, err := v.LoadIndex(t.Context(), "main")
		if err != nil && !errors.Is(err, remotecache.ErrUntrusted) {
			t.Fatal(err)
		}
		if err == nil && len(got.Records) != len(want.Records) {
			t.Fatal("another Index")
		}
	})
}

// FuzzKeys: whatever a file holds, it is no reason to crash.
func FuzzKeys(f *testing.F) {
	f.Add([]byte(`{"keys":[` + issuers()[0].jwk(f, "") + `]}`))
	f.Add([]byte(`{"keys":[` + issuers()[1].jwk(f, "") + `]}`))
	f.Add([]byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBGDp8ZMBJeMDGyWwDDw3Ltdh8I8XuVNlVyQfEtRyuQL me"))
	f.Add(encodeKey(f, issuers()[2].key))
	f.Fuzz(func(t *testing.T, data []byte) {
		if set, err := signed.ParseKeySet("f", data); (set == nil) == (err == nil) {
			t.Errorf("%v, %v", set, err)
		}
		if s, err := signed.ParsePrivateKey("f", data); (s == nil) == (err == nil) {
			t.Errorf("%v, %v", s, err)
		}
		if keys, err := signed.ParsePublicKeys("f", data); (len(keys) == 0) == (err == nil) {
			t.Errorf("%v, %v", keys, err)
		}
	})
}
