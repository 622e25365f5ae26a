package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/hint"
	client "github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/internal/registry/registrytest"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
	"github.com/mayfly-build/mayfly/remotecache/registry"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

func open(t testing.TB, cfg registry.Config) *registry.Backend {
	t.Helper()
	if cfg.Client == nil {
		cfg.Client = client.New(client.Config{})
		t.Cleanup(cfg.Client.CloseIdle)
	}
	b, err := registry.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSuite(t *testing.T) {
	for name, form := range map[string]manifest.Form{"manifest": {}, "index": {Index: true}} {
		t.Run(name, func(t *testing.T) {
			if form.Index && testing.Short() {
				t.Skip("-short: blobs are stored in the same way under both forms")
			}
			srv := registrytest.Start(t, registrytest.Config{})
			var n atomic.Int32
			remotecachetest.Run(t, func(t *testing.T) func() remotecache.Backend {
				ref := fmt.Sprintf("%s/cache%d:latest", srv.Host, n.Add(1))
				return func() remotecache.Backend { return open(t, registry.Config{Ref: ref, Form: form}) }
			})
		})
	}
}

func TestKeeper(t *testing.T) {
	srv := registrytest.Start(t, registrytest.Config{})
	remotecachetest.RunKeeper(t, func(t *testing.T) func() remotecache.Backend {
		return func() remotecache.Backend { return open(t, registry.Config{Ref: srv.Host + "/keep:latest"}) }
	}, false, false)
}

// recorder notes what is asked of a registry.
type recorder struct {
	mu   sync.Mutex
	seen []string
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	path := strings.Split(req.URL.Path, "/")
	r.seen = append(r.seen, req.Method+" "+path[len(path)-2])
	r.mu.Unlock()
	return http.DefaultTransport.RoundTrip(req)
}

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.seen
	r.seen = nil
	return out
}

// job returns a new job's cache and the record of its requests.
func job(t *testing.T, ref string) (*registry.Backend, *recorder) {
	t.Helper()
	rec := &recorder{}
	b := open(t, registry.Config{Ref: ref, Client: client.New(client.Config{Transport: rec})})
	return b, rec
}

type blob struct{ *bytes.Reader }

func (blob) Close() error { return nil }

// cache returns an Index of n blobs and where they are.
func cache(seed string, n int) (*remotecache.Index, remotecache.Source) {
	data := map[digest.Digest][]byte{}
	var descs []ocispec.Descriptor
	for i := range n {
		desc, d := remotecachetest.Blob(uint64(i), 100+i)
		descs = append(descs, desc)
		data[desc.Digest] = d
	}
	return remotecachetest.IndexOf(seed, descs...), func(_ context.Context, d ocispec.Descriptor) (remotecache.BlobReader, error) {
		if _, ok := data[d.Digest]; !ok {
			return nil, remotecache.ErrNotFound
		}
		return blob{bytes.NewReader(data[d.Digest])}, nil
	}
}

func export(t *testing.T, b *registry.Backend, idx *remotecache.Index, src remotecache.Source) remotecache.Outcome {
	t.Helper()
	out, err := remotecache.Export(t.Context(), b, b.Ref(), idx, src, remotecache.ExportOptions{Uploads: 1})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRoundTrips(t *testing.T) {
	srv := registrytest.Start(t, registrytest.Config{})
	ref := srv.Host + "/app:cache"
	idx, src := cache("x", 3)
	b, _ := job(t, ref)
	export(t, b, idx, src)

	b, rec := job(t, ref)
	if _, err := b.LoadIndex(t.Context(), b.Ref()); err != nil {
		t.Fatal(err)
	}
	if got, want := rec.take(), []string{"GET manifests", "GET blobs"}; !slices.Equal(got, want) {
		t.Errorf("import: %v, want %v", got, want)
	}
	// One layer more: only that one is asked for and put.
	idx, src = cache("x", 4)
	if out := export(t, b, idx, src); out.Blobs != 1 || out.Existing != 3 {
		t.Errorf("%+v", out)
	}
	heads := 0
	for _, r := range rec.take() {
		if r == "HEAD blobs" {
			heads++
		}
	}
	if heads > 3 { // Missing, PutBlob, the config
		t.Errorf("%d blobs asked for", heads)
	}
	// The same cache again: nothing moves.
	if out := export(t, b, idx, src); out.Blobs != 0 || out.Existing != 4 {
		t.Errorf("%+v", out)
	}
	if got, want := rec.take(), []string{"PUT manifests"}; !slices.Equal(got, want) {
		t.Errorf("export of the same: %v, want %v", got, want)
	}
}

// TestEvicted: the registry loses a blob that an imported manifest names.
func TestEvicted(t *testing.T) {
	srv := registrytest.Start(t, registrytest.Config{})
	ref := srv.Host + "/app:cache"
	idx, src := cache("x", 3)
	b, _ := job(t, ref)
	export(t, b, idx, src)

	b, _ = job(t, ref)
	if _, err := b.LoadIndex(t.Context(), b.Ref()); err != nil {
		t.Fatal(err)
	}
	lost := idx.Layers[1].Digest
	link := filepath.Join(srv.Root, "docker/registry/v2/repositories/app/_layers/sha256", lost.Encoded())
	if _, err := os.Stat(link); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(link); err != nil {
		t.Fatal(err)
	}
	idx.Records[0].Digest = remotecache.OutputKey("sha256:x", 0) // an index that is not there yet
	if out := export(t, b, idx, src); out.Blobs != 1 || out.Existing != 2 || out.State != remotecache.OK {
		t.Errorf("%+v", out)
	}
	if _, err := os.Stat(link); err != nil {
		t.Error(err)
	}
}

func TestManifestForMetadata(t *testing.T) {
	srv := registrytest.Start(t, registrytest.Config{})
	for i, tt := range []struct {
		form manifest.Form
		want string
	}{
		{manifest.Form{}, ocispec.MediaTypeImageManifest},
		{manifest.Form{Index: true}, ocispec.MediaTypeImageIndex},
		{manifest.Form{Index: true, Docker: true}, "application/vnd.docker.distribution.manifest.list.v2+json"},
	} {
		b := open(t, registry.Config{Ref: fmt.Sprintf("%s/form%d", srv.Host, i), Form: tt.form})
		if b.Ref() != "latest" || b.Repository() != fmt.Sprintf("%s/form%d", srv.Host, i) {
			t.Errorf("ref %s of %s", b.Ref(), b.Repository())
		}
		if _, ok := b.Manifest(); ok {
			t.Error("a manifest before there is one")
		}
		idx, src := cache("x", 2)
		export(t, b, idx, src)
		m, ok := b.Manifest()
		if !ok || m.MediaType != tt.want {
			t.Errorf("%+v", m)
		}
		// By that digest it can be read, but not written.
		byDigest := open(t, registry.Config{Ref: b.Repository() + "@" + m.Digest.String(), Form: tt.form})
		if byDigest.Ref() != m.Digest.String() {
			t.Errorf("ref %s", byDigest.Ref())
		}
		got, err := byDigest.LoadIndex(t.Context(), byDigest.Ref())
		if err != nil || len(got.Layers) != 2 {
			t.Errorf("%+v, %v", got, err)
		}
		if err := byDigest.SaveIndex(t.Context(), byDigest.Ref(), idx); err == nil {
			t.Error("a digest is saved to")
		}
	}
}

// TestLinksFromOtherRepositories: a blob that the registry has elsewhere is
// not sent.
func TestLinksFromOtherRepositories(t *testing.T) {
	srv := registrytest.Start(t, registrytest.Config{})
	idx, src := cache("x", 3)
	b, _ := job(t, srv.Host+"/app:cache")
	export(t, b, idx, src)

	b, rec := job(t, srv.Host+"/other:cache")
	for i := range idx.Layers {
		idx.Layers[i].Extra = map[string]string{"containerd.io/distribution.source." + srv.Host: "app,more"}
	}
	out, err := remotecache.Export(t.Context(), b, b.Ref(), idx, func(context.Context, ocispec.Descriptor) (remotecache.BlobReader, error) {
		return nil, errors.New("nobody is to read")
	}, remotecache.ExportOptions{})
	if err != nil || out.Blobs != 3 {
		t.Errorf("%+v, %v", out, err)
	}
	puts := 0
	for _, r := range rec.take() {
		if strings.HasPrefix(r, "PUT uploads") {
			puts++
		}
	}
	if puts > 1 { // the config
		t.Errorf("%d uploads", puts)
	}
}

// TestReadOnlyCredentials: who may read and not write has a cache that is
// read-only, and is told how to come by more.
func TestReadOnlyCredentials(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`)
	}))
	defer srv.Close()
	b, _ := job(t, strings.TrimPrefix(srv.URL, "http://")+"/app:cache")
	idx, src := cache("x", 3)
	out, err := remotecache.Export(t.Context(), b, b.Ref(), idx, src, remotecache.ExportOptions{})
	if out.State != remotecache.Skipped || !errors.Is(err, remotecache.ErrReadOnly) || hintOf(err) == "" {
		t.Errorf("%+v, %v; hint: %s", out, err, hintOf(err))
	}
}

// push puts an image or anything else that is no cache.
func push(t *testing.T, ref string, doc any, blobs ...any) ocispec.Descriptor {
	t.Helper()
	c := client.New(client.Config{})
	t.Cleanup(c.CloseIdle)
	for _, b := range blobs {
		data := encode(t, b)
		desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
		if err := c.PutBlob(t.Context(), ref, desc, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, ""); err != nil {
			t.Fatal(err)
		}
	}
	data := encode(t, doc)
	var head struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		t.Fatal(err)
	}
	desc := ocispec.Descriptor{MediaType: head.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	at := ref
	if !strings.Contains(ref[strings.Index(ref, "/"):], ":") {
		at += "@" + desc.Digest.String()
	}
	if err := c.PutManifest(t.Context(), at, desc, data); err != nil {
		t.Fatal(err)
	}
	return desc
}

func encode(t *testing.T, doc any) []byte {
	t.Helper()
	if data, ok := doc.([]byte); ok {
		return data
	}
	data, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func describe(t *testing.T, mediaType string, doc any) ocispec.Descriptor {
	data := encode(t, doc)
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func hintOf(err error) string { return hint.Of(err) }

// TestSilence: a registry that never answers is given up sooner than by those
// who push images to it.
func TestSilence(t *testing.T) {
	remotecachetest.RunSilent(t, func(url string) remotecache.Backend {
		c := client.New(client.Config{Stall: time.Hour})
		t.Cleanup(c.CloseIdle)
		return open(t, registry.Config{Ref: strings.TrimPrefix(url, "http://") + "/app:cache", Client: c.With(50*time.Millisecond, remotecache.DefaultPolicy())})
	})
}
