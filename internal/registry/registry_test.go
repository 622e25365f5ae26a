package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/internal/registry/registrytest"
)

func blobOf(data []byte) (ocispec.Descriptor, func() (io.ReadCloser, error)) {
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return desc, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(n)})
	src.Read(b)
	return b
}

func manifestOf(t *testing.T, config ocispec.Descriptor, layers ...ocispec.Descriptor) (ocispec.Descriptor, []byte) {
	t.Helper()
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: layers}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}, data
}

// keychain knows one user for every registry.
type keychain struct{ user, password string }

func (k keychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	if k.user == "" {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(authn.AuthConfig{Username: k.user, Password: k.password}), nil
}

// pushPull puts an image and reads it back, each with a client of its own.
func pushPull(t *testing.T, dial func() *registry.Client, ref string) {
	ctx := t.Context()
	layer, openLayer := blobOf(randomBytes(3 << 20))
	config, openConfig := blobOf([]byte("{}"))
	empty, openEmpty := blobOf(nil)
	config.MediaType = ocispec.MediaTypeImageConfig
	desc, data := manifestOf(t, config, layer, empty)

	c := dial()
	if ok, err := c.HasBlob(ctx, ref, layer); ok || err != nil {
		t.Fatalf("HasBlob before the push = %v, %v", ok, err)
	}
	for _, b := range []struct {
		desc ocispec.Descriptor
		open func() (io.ReadCloser, error)
	}{{layer, openLayer}, {config, openConfig}, {empty, openEmpty}} {
		if err := c.PutBlob(ctx, ref, b.desc, b.open, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.PutManifest(ctx, ref, desc, data); err != nil {
		t.Fatal(err)
	}

	c = dial()
	if ok, err := c.HasBlob(ctx, ref, layer); !ok || err != nil {
		t.Errorf("HasBlob after the push = %v, %v", ok, err)
	}
	// Already there: nothing is read.
	if err := c.PutBlob(ctx, ref, layer, func() (io.ReadCloser, error) {
		return nil, errors.New("opened a blob the registry has")
	}, ""); err != nil {
		t.Error(err)
	}
	got, body, err := c.Resolve(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != desc.Digest || got.Size != desc.Size || got.MediaType != desc.MediaType || !bytes.Equal(body, data) {
		t.Errorf("Resolve = %+v, want %+v", got, desc)
	}
	if body, err = c.Manifest(ctx, ref, desc.Digest); err != nil || !bytes.Equal(body, data) {
		t.Errorf("Manifest = %q, %v", body, err)
	}
	for _, off := range []int64{0, 1, 1 << 20, layer.Size - 1, layer.Size} {
		rc, err := c.Blob(ctx, ref, layer, off)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		rc.Close()
		if err != nil || !bytes.Equal(b, randomBytes(3 << 20)[off:]) {
			t.Errorf("Blob from %d: %d bytes, %v", off, len(b), err)
		}
	}
	absent, _ := blobOf([]byte("absent"))
	if _, err := c.Blob(ctx, ref, absent, 0); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("Blob of an absent blob: %v", err)
	}
	if _, err := c.Manifest(ctx, ref, absent.Digest); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("Manifest of an absent digest: %v", err)
	}
	if _, _, err := c.Resolve(ctx, strings.Replace(ref, ":v1", ":v2", 1)); !errors.Is(err, registry.ErrNotFound) ||
		!strings.Contains(err.Error(), ":v2") || !strings.Contains(hint.Of(err), "name and tag") {
		t.Errorf("Resolve of an absent tag: %v (hint %q)", err, hint.Of(err))
	}
}

func TestRealRegistry(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  registrytest.Config
	}{
		{"open", registrytest.Config{}},
		{"basic", registrytest.Config{User: "ann", Password: "s3cret/pass"}},
		{"tokens", registrytest.Config{User: "ann", Password: "s3cret/pass", Tokens: true}},
		{"tokens for everybody", registrytest.Config{Tokens: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := registrytest.Start(t, tt.cfg)
			dial := func() *registry.Client {
				return registry.New(registry.Config{Keychain: keychain{tt.cfg.User, tt.cfg.Password}, Backoff: time.Millisecond})
			}
			pushPull(t, dial, srv.Host+"/acme/app:v1")
		})
	}
}

func TestWrongCredentials(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  registrytest.Config
		keys keychain
	}{
		{"basic, none", registrytest.Config{User: "ann", Password: "right"}, keychain{}},
		{"basic, wrong", registrytest.Config{User: "ann", Password: "right"}, keychain{"ann", "wr0ng-secret"}},
		{"tokens, none", registrytest.Config{User: "ann", Password: "right", Tokens: true}, keychain{}},
		{"tokens, wrong", registrytest.Config{User: "ann", Password: "right", Tokens: true}, keychain{"ann", "wr0ng-secret"}},
		{"tokens, may not push", registrytest.Config{User: "ann", Password: "right", Tokens: true, ReadOnly: []string{"acme/app"}}, keychain{"ann", "right"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := registrytest.Start(t, tt.cfg)
			c := registry.New(registry.Config{Keychain: tt.keys, Backoff: time.Millisecond})
			ref := srv.Host + "/acme/app:v1"
			desc, open := blobOf([]byte("blob"))
			err := c.PutBlob(t.Context(), ref, desc, open, "")
			if !errors.Is(err, registry.ErrDenied) {
				t.Fatalf("PutBlob = %v, want ErrDenied", err)
			}
			if want := "docker login " + srv.Host; !strings.Contains(hint.Of(err), want) {
				t.Errorf("hint %q does not say %q", hint.Of(err), want)
			}
			if !strings.Contains(err.Error(), "acme/app") || strings.Contains(err.Error(), "wr0ng-secret") {
				t.Errorf("error %q should name the repository and no secret", err)
			}
			if n := c.Stats().Retries; n != 0 {
				t.Errorf("%d retries with credentials that cannot become better", n)
			}
		})
	}
}

func TestDockerConfigCredentials(t *testing.T) {
	srv := registrytest.Start(t, registrytest.Config{User: "ann", Password: "from-helper"})
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	desc, open := blobOf([]byte("blob"))

	write("config.json", `{"credHelpers":{"`+srv.Host+`":"mayflytest"}}`, 0o600)
	write("docker-credential-mayflytest", "#!/bin/sh\n[ \"$1\" = get ] && host=$(cat) && "+
		"echo '{\"ServerURL\":\"'$host'\",\"Username\":\"ann\",\"Secret\":\"from-helper\"}'\n", 0o700)
	if err := registry.New(registry.Config{}).PutBlob(t.Context(), srv.Host+"/a:v1", desc, open, ""); err != nil {
		t.Errorf("with a credential helper: %v", err)
	}

	write("config.json", `{"auths":{"`+srv.Host+`":{"auth":"YW5uOmZyb20taGVscGVy"}}}`, 0o600)
	if err := registry.New(registry.Config{}).PutBlob(t.Context(), srv.Host+"/b:v1", desc, open, ""); err != nil {
		t.Errorf("with auths: %v", err)
	}

	write("config.json", `{"credHelpers":{"`+srv.Host+`":"absent"}}`, 0o600)
	err := registry.New(registry.Config{}).PutBlob(t.Context(), srv.Host+"/c:v1", desc, open, "")
	if err == nil || !strings.Contains(hint.Of(err), "credential helper") {
		t.Errorf("with an absent helper: %v (hint %q)", err, hint.Of(err))
	}
}

// The counts are what a cached build waits for: a change here is a change of
// its wall time.
func TestRoundTrips(t *testing.T) {
	type step struct {
		name string
		do   func(c *registry.Client, ref string) error
		open int64 // requests on an open registry
		auth int64 // requests where a token is wanted
	}
	desc, open := blobOf([]byte("blob"))
	manifest, data := manifestOf(t, desc, desc)
	ctx := t.Context()
	steps := []step{
		{"put a blob: HEAD POST PUT", func(c *registry.Client, ref string) error { return c.PutBlob(ctx, ref, desc, open, "") }, 3, 5},
		{"put it again", func(c *registry.Client, ref string) error { return c.PutBlob(ctx, ref, desc, open, "") }, 0, 0},
		{"put the manifest", func(c *registry.Client, ref string) error { return c.PutManifest(ctx, ref, manifest, data) }, 1, 1},
		{"resolve: one GET, the push token is good for it", func(c *registry.Client, ref string) error {
			_, _, err := c.Resolve(ctx, ref)
			return err
		}, 1, 1},
		{"link into another repository: one POST", func(c *registry.Client, ref string) error {
			return c.PutBlob(ctx, strings.Replace(ref, "one", "two", 1), desc, func() (io.ReadCloser, error) {
				return nil, errors.New("opened")
			}, ref)
		}, 1, 2},
	}
	for _, tokens := range []bool{false, true} {
		srv := registrytest.Start(t, registrytest.Config{Tokens: tokens})
		c := registry.New(registry.Config{Keychain: keychain{}})
		for _, s := range steps {
			before := c.Stats().Requests
			if err := s.do(c, srv.Host+"/one:v1"); err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
			want := s.open
			if tokens {
				want = s.auth
			}
			if got := c.Stats().Requests - before; got != want {
				t.Errorf("tokens %v, %s: %d requests, want %d", tokens, s.name, got, want)
			}
		}
		fresh := registry.New(registry.Config{Keychain: keychain{}})
		if _, _, err := fresh.Resolve(ctx, srv.Host+"/one:v1"); err != nil {
			t.Fatal(err)
		}
		if got, want := fresh.Stats().Requests, map[bool]int64{false: 1, true: 3}[tokens]; got != want {
			t.Errorf("tokens %v, first Resolve: %d requests, want %d", tokens, got, want)
		}
	}
}

func TestOneTokenForManyAtOnce(t *testing.T) {
	srv := registrytest.Start(t, registrytest.Config{Tokens: true})
	c := registry.New(registry.Config{Keychain: keychain{}})
	ref := srv.Host + "/acme/app:v1"
	if err := c.Warm(t.Context(), ref, true); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			desc, open := blobOf(randomBytes(1000 + i))
			if err := c.PutBlob(t.Context(), ref, desc, open, ""); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := srv.Scopes(); len(got) != 1 || got[0] != "repository:acme/app:pull,push" {
		t.Errorf("tokens were asked for %q", got)
	}
	if got := c.Stats().Tokens; got != 1 {
		t.Errorf("Stats().Tokens = %d", got)
	}
}

func TestAssume(t *testing.T) {
	srv := registrytest.Start(t, registrytest.Config{})
	c := registry.New(registry.Config{Keychain: keychain{}})
	ref := srv.Host + "/acme/app:v1"
	ctx := context.Background()
	desc, open := blobOf([]byte("lost by the registry"))
	if err := c.Assume(ref, desc); err != nil {
		t.Fatal(err)
	}
	if err := c.PutBlob(ctx, ref, desc, open, ""); err != nil || c.Stats().Requests != 0 {
		t.Fatalf("PutBlob of an assumed blob: %v, %d requests", err, c.Stats().Requests)
	}
	m, data := manifestOf(t, desc, desc)
	if err := c.PutManifest(ctx, ref, m, data); !errors.Is(err, registry.ErrBlobUnknown) {
		t.Fatalf("PutManifest = %v, want ErrBlobUnknown", err)
	}
	if err := c.PutBlob(ctx, ref, desc, open, ""); err != nil {
		t.Fatal(err)
	}
	if err := c.PutManifest(ctx, ref, m, data); err != nil {
		t.Error(err)
	}
}
