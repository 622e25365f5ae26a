package azblob_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/azblob"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

// containers numbers the stores of all tests.
var containers atomic.Int32

// TestAzurite runs all tests that need no TLS on one server, in stores of their
// own.
func TestAzurite(t *testing.T) {
	a, err := services.StartAzurite(services.AzuriteConfig{})
	services.Use(t, a, err)
	for _, tt := range []struct {
		name string
		test func(*testing.T, *services.Azurite)
	}{
		{"Suite", testSuite},
		{"Requests", testRequests},
		{"Layout", testLayout},
		{"WrongSize", testWrongSize},
		{"SameLargeBlob", testSameLargeBlob},
		{"Replaced", testReplaced},
		{"Archived", testArchived},
		{"PassingFaults", testPassingFaults},
		{"RetryAfter", testRetryAfter},
		{"LastingFaults", testLastingFaults},
		{"LostAnswer", testLostAnswer},
		{"WithoutLength", testWithoutLength},
		{"Refusals", testRefusals},
		{"MissingContainer", testMissingContainer},
		{"SAS", testSAS},
		{"Large", testLarge},
		{"BuildKit", testBuildKit},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, a) })
	}
}

// empty returns how to reach an empty store: a container that is not there.
func empty(a *services.Azurite) azblob.Config {
	return azblob.Config{
		AccountURL: a.URL, AccountName: a.Account, SecretAccessKey: a.Key,
		Container: fmt.Sprint("cache-", containers.Add(1)),
	}
}

func open(t testing.TB, cfg azblob.Config) *azblob.Backend {
	t.Helper()
	b, err := azblob.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.CloseIdle)
	return b
}

func testSuite(t *testing.T, a *services.Azurite) {
	newStore := func(t *testing.T) func() remotecache.Backend {
		cfg := empty(a)
		return func() remotecache.Backend { return open(t, cfg) }
	}
	remotecachetest.Run(t, newStore)
	t.Run("Keeper", func(t *testing.T) { remotecachetest.RunKeeper(t, newStore, true, true) })
}

// testRequests: what things cost.
func testRequests(t *testing.T, a *services.Azurite) {
	p := newProxy(t, a)
	cfg := p.behind(a)
	small, smallData := remotecachetest.Blob(1, 1000)
	large, largeData := remotecachetest.Blob(2, 30<<20)
	put(t, open(t, cfg), small, smallData) // makes the container
	b := open(t, cfg)
	many := []ocispec.Descriptor{small}
	for i := range 999 {
		many = append(many, first(remotecachetest.Blob(uint64(100+i), 10)))
	}
	idx := remotecachetest.IndexOf("x", small)
	for _, tt := range []struct {
		name string
		call func() error
		want string
	}{
		{"put a small blob", func() error {
			return b.Put(t.Context(), first(remotecachetest.Blob(3, 10)), bytes.NewReader(second(remotecachetest.Blob(3, 10))))
		}, "1 PUT blob"},
		{"put a small blob again", func() error { return b.Put(t.Context(), small, bytes.NewReader(smallData)) }, "1 HEAD blob, 1 PUT blob"},
		{"put a large blob", func() error { return b.Put(t.Context(), large, bytes.NewReader(largeData)) }, "1 HEAD blob, 1 PUT blocklist, 4 PUT block"},
		{"put a large blob again", func() error { return b.Put(t.Context(), large, bytes.NewReader(largeData)) }, "1 HEAD blob"},
		{"read a small blob", func() error { _, err := read(t, b, small); return err }, "1 GET blob"},
		{"read a large blob", func() error { _, err := read(t, b, large); return err }, "8 GET blob"},
		{"read nothing", func() error { _, err := b.Open(t.Context(), small, small.Size); return err }, "1 HEAD blob"},
		{"ask for few", func() error { _, err := b.Missing(t.Context(), many[:10]); return err }, "10 HEAD blob"},
		{"ask for many", func() error { _, err := b.Missing(t.Context(), many); return err }, "1 GET list"},
		{"save", func() error { return b.SaveIndex(t.Context(), "main", idx) }, "1 PUT index"},
		{"load", func() error { _, err := b.LoadIndex(t.Context(), "main"); return err }, "1 GET index"},
	} {
		p.on(nil)
		if err := tt.call(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if got := p.take(); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func second[A, B any](_ A, b B) B { return b }

// testLayout: the names of things are those of BuildKit.
func testLayout(t *testing.T, a *services.Azurite) {
	desc, data := remotecachetest.Blob(1, 100)
	for _, tt := range []struct {
		prefix, manifests, blobs string
		want                     []string
	}{
		{"", "", "", []string{"blobs/" + string(desc.Digest), "manifests/main"}},
		{"ci/app/", "m", "b/c", []string{"ci/app/b/c/" + string(desc.Digest), "ci/app/m/main"}},
		{"", ".", ".", []string{"main", string(desc.Digest)}},
		{"ci", ".", ".", []string{"ci/main", "ci/" + string(desc.Digest)}},
	} {
		cfg := empty(a)
		cfg.Prefix, cfg.ManifestsPrefix, cfg.BlobsPrefix = tt.prefix, tt.manifests, tt.blobs
		b := open(t, cfg)
		put(t, b, desc, data)
		if err := b.SaveIndex(t.Context(), "main", remotecachetest.IndexOf("x", desc)); err != nil {
			t.Fatal(err)
		}
		if got := names(t, a, cfg); !slices.Equal(got, tt.want) {
			t.Errorf("%q: %q, want %q", tt.prefix, got, tt.want)
		}
		c, err := b.List(t.Context())
		if err != nil || len(c.Refs) != 1 || c.Refs[0].Ref != "main" || c.Refs[0].Saved.IsZero() ||
			len(c.Blobs) != 1 || c.Blobs[0].Digest != desc.Digest || c.Blobs[0].Size != 100 || c.Blobs[0].Used.IsZero() {
			t.Errorf("%q: %+v, %v", tt.prefix, c, err)
		}
	}
}

// names returns the names of all that is in a store.
func names(t *testing.T, a *services.Azurite, cfg azblob.Config) (out []string) {
	t.Helper()
	for p := sdk(t, a, cfg).NewListBlobsFlatPager(nil); p.More(); {
		page, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range page.Segment.BlobItems {
			out = append(out, *it.Name)
		}
	}
	return out
}

// testWrongSize: what an interrupted program left under a blob's name is not
// taken for the blob, and makes way for it.
func testWrongSize(t *testing.T, a *services.Azurite) {
	cfg := empty(a)
	b := open(t, cfg)
	for _, size := range []int{1000, 9 << 20} {
		desc, data := remotecachetest.Blob(1, size)
		for _, left := range []int{0, size / 3, size + 1} {
			put(t, b, first(remotecachetest.Blob(2, 10)), second(remotecachetest.Blob(2, 10))) // makes the container
			_, err := sdk(t, a, cfg).NewBlockBlobClient("blobs/"+string(desc.Digest)).UploadBuffer(t.Context(), make([]byte, left), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, off := range []int64{0, int64(size) / 2, int64(size)} {
				if _, err := b.Open(t.Context(), desc, off); !errors.Is(err, remotecache.ErrCorrupt) {
					t.Errorf("%d of %d bytes, from %d: %v, want ErrCorrupt", left, size, off, err)
				}
			}
			many := slices.Repeat([]ocispec.Descriptor{desc}, 50)
			for _, blobs := range [][]ocispec.Descriptor{many, many[:1]} {
				if missing, err := b.Missing(t.Context(), blobs); err != nil || len(missing) != len(blobs) {
					t.Errorf("%d of %d bytes: %d of %d are missing, %v", left, size, len(missing), len(blobs), err)
				}
			}
			put(t, b, desc, data)
			if got, err := read(t, b, desc); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d of %d bytes: %d are read, %v", left, size, len(got), err)
			}
		}
	}
}

// testSameLargeBlob: jobs that upload a blob at the same time do not spoil
// each other's blocks, nor do blocks that another program left behind.
func testSameLargeBlob(t *testing.T, a *services.Azurite) {
	cfg := empty(a)
	desc, data := remotecachetest.Blob(1, 20<<20)
	put(t, open(t, cfg), first(remotecachetest.Blob(2, 10)), second(remotecachetest.Blob(2, 10)))
	left := base64.StdEncoding.EncodeToString(make([]byte, 64)) // as long as the SDK's own names
	if _, err := sdk(t, a, cfg).NewBlockBlobClient("blobs/"+string(desc.Digest)).StageBlock(t.Context(), left, streaming.NopCloser(strings.NewReader("x")), nil); err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	for range 3 {
		b := open(t, cfg)
		g.Go(func() error { return b.Put(t.Context(), desc, bytes.NewReader(data)) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, err := read(t, open(t, cfg), desc); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// testReplaced: a blob that is replaced while it is read is not read as a
// mixture.
func testReplaced(t *testing.T, a *services.Azurite) {
	p := newProxy(t, a)
	cfg := p.behind(a)
	b := open(t, cfg)
	desc, data := remotecachetest.Blob(1, 20<<20)
	put(t, b, desc, data)
	replaced := make(chan struct{})
	p.on(func(kind string, n int) http.HandlerFunc {
		if n == 0 {
			return nil
		}
		return func(w http.ResponseWriter, r *http.Request) {
			<-replaced
			p.pass.ServeHTTP(w, r)
		}
	})
	r, err := b.Open(t.Context(), desc, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, err = sdk(t, a, cfg).NewBlockBlobClient("blobs/"+string(desc.Digest)).UploadBuffer(t.Context(), make([]byte, len(data)), nil)
	close(replaced)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if !errors.Is(err, remotecache.ErrNotFound) || !bytes.HasPrefix(data, got) {
		t.Errorf("%d bytes, %v; want ErrNotFound", len(got), err)
	}
}

// testArchived: what lifecycle rules have put beyond reach is not there.
func testArchived(t *testing.T, a *services.Azurite) {
	cfg := empty(a)
	b := open(t, cfg)
	desc, data := remotecachetest.Blob(1, 1000)
	put(t, b, desc, data)
	if _, err := sdk(t, a, cfg).NewBlockBlobClient("blobs/"+string(desc.Digest)).SetTier(t.Context(), blob.AccessTierArchive, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := read(t, b, desc); !errors.Is(err, remotecache.ErrNotFound) || !strings.Contains(hint.Of(err), "archive") {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
}
