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
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

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
	if !errors.Is(err, remotecache.ErrUntrusted) || errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("%v: ErrUntrusted %v, ErrNotFound %v", err, errors.Is(err, remotecache.ErrUntrusted), errors.Is(err, remotecache.ErrNotFound))
	}
	if pe.Ref != ref || pe.Version == "" || !strings.Contains(err.Error(), ref) {
		t.Errorf("%+v", pe)
	}
	return pe
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
