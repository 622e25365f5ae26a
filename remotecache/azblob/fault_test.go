package azblob_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/retry"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/azblob"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

func read(t *testing.T, b remotecache.Backend, desc ocispec.Descriptor) ([]byte, error) {
	t.Helper()
	r, err := b.Open(t.Context(), desc, 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

func put(t *testing.T, b remotecache.Backend, desc ocispec.Descriptor, data []byte) {
	t.Helper()
	if err := b.Put(t.Context(), desc, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
}

// everything does all there is to do in a store, and wants it to work.
func everything(t *testing.T, b *azblob.Backend) {
	t.Helper()
	small, smallData := remotecachetest.Blob(1, 1000)
	large, largeData := remotecachetest.Blob(2, 9<<20)
	put(t, b, small, smallData)
	put(t, b, large, largeData)
	idx := remotecachetest.IndexOf("x", small, large)
	if err := b.SaveIndex(t.Context(), "main", idx); err != nil {
		t.Fatal(err)
	}
	if missing, err := b.Missing(t.Context(), []ocispec.Descriptor{small, large}); err != nil || len(missing) != 0 {
		t.Fatalf("missing: %v, %v", missing, err)
	}
	if got, err := b.LoadIndex(t.Context(), "main"); err != nil || len(got.Layers) != 2 {
		t.Fatalf("index: %+v, %v", got, err)
	}
	for desc, want := range map[*ocispec.Descriptor][]byte{&small: smallData, &large: largeData} {
		if got, err := read(t, b, *desc); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("read of %d bytes: %d, %v", len(want), len(got), err)
		}
	}
	if c, err := b.List(t.Context()); err != nil || len(c.Refs) != 1 || len(c.Blobs) != 2 {
		t.Fatalf("list: %+v, %v", c, err)
	}
	if err := errors.Join(b.RemoveIndex(t.Context(), "main"), b.RemoveBlob(t.Context(), small.Digest)); err != nil {
		t.Fatal(err)
	}
}

// testPassingFaults: whatever happens to the first requests of each kind, all
// works in the end.
func testPassingFaults(t *testing.T, a *services.Azurite) {
	p := newProxy(t, a)
	for _, tt := range []struct {
		name  string
		times int
		fault http.HandlerFunc
	}{
		{"busy", 3, answer(503, "ServerBusy")},
		{"throttled", 3, answer(429, "TooManyRequests", "Retry-After", "0")},
		{"internal", 3, answer(500, "InternalError")},
		{"reset", 2, p.broken(reset)},
		{"ended", 2, p.broken(ended)},
		{"lost", 2, p.broken(lost)},
		{"hangs", 1, p.broken(hangs)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := p.behind(a)
			if tt.name == "hangs" {
				cfg.Stall, cfg.Attempts = 700*time.Millisecond, 8 // a busy machine may be slow as well
			}
			p.on(func(_ string, n int) http.HandlerFunc {
				if n < tt.times {
					return tt.fault
				}
				return nil
			})
			everything(t, open(t, cfg))
		})
	}
}

func testRetryAfter(t *testing.T, a *services.Azurite) {
	p := newProxy(t, a)
	b := open(t, p.behind(a))
	idx := remotecachetest.IndexOf("x", first(remotecachetest.Blob(1, 100)))
	if err := b.SaveIndex(t.Context(), "main", idx); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, after string
		ok          bool
		least, most time.Duration
	}{
		{"seconds", "1", true, time.Second, 5 * time.Second},
		{"too long", "61", false, 0, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.on(func(_ string, n int) http.HandlerFunc {
				if n == 0 {
					return answer(429, "TooManyRequests", "Retry-After", tt.after)
				}
				return nil
			})
			begin := time.Now()
			_, err := b.LoadIndex(t.Context(), "main")
			if took := time.Since(begin); took < tt.least || took > tt.most || (err == nil) != tt.ok {
				t.Errorf("after %s: %v", took, err)
			}
			if err == nil {
				return
			}
			if again, _ := retry.Passing(err); again {
				t.Error("the error asks to be tried again")
			}
		})
	}
}

func first[A, B any](a A, _ B) A { return a }

// testLastingFaults: what does not pass is an error, soon and once.
func testLastingFaults(t *testing.T, a *services.Azurite) {
	p := newProxy(t, a)
	cfg := p.behind(a)
	cfg.Attempts = 3
	b := open(t, cfg)
	desc, data := remotecachetest.Blob(1, 100_000)
	put(t, b, desc, data)
	always := func(h http.HandlerFunc) { p.on(func(string, int) http.HandlerFunc { return h }) }

	always(answer(503, "ServerBusy"))
	_, err := read(t, b, desc)
	if err == nil || !strings.Contains(err.Error(), "503 ServerBusy: The words of the service. (request request-17)") {
		t.Errorf("busy: %v", err)
	}
	if got := p.take(); got != "3 GET blob" {
		t.Errorf("busy: %s", got)
	}
	if again, _ := retry.Passing(err); again {
		t.Errorf("busy: %v asks to be tried again", err)
	}
	for name, how := range map[string]breaking{"lost": lost, "shortened": shortened} {
		always(p.broken(how))
		if got, err := read(t, b, desc); err == nil || len(got) >= len(data) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		} else if again, _ := retry.Passing(err); again {
			t.Errorf("%s: %v asks to be tried again", name, err)
		}
	}
	p.on(nil)
	if got, err := read(t, b, desc); err != nil || !bytes.Equal(got, data) {
		t.Errorf("afterwards: %d bytes, %v", len(got), err)
	}
}

// testLostAnswer: the index is saved, but the answer does not come. The second
// try meets the first one's work.
func testLostAnswer(t *testing.T, a *services.Azurite) {
	p := newProxy(t, a)
	b := open(t, p.behind(a))
	idx := remotecachetest.IndexOf("x", first(remotecachetest.Blob(1, 100)))
	idx.Version = remotecache.Absent
	p.on(func(kind string, n int) http.HandlerFunc {
		if kind == "PUT index" && n == 1 { // number 0 finds no container
			return p.broken(lost)
		}
		return nil
	})
	if err := b.SaveIndex(t.Context(), "main", idx); err != nil {
		t.Fatal(err)
	}
	other := remotecachetest.IndexOf("y", first(remotecachetest.Blob(1, 100)))
	other.Version = remotecache.Absent
	if err := b.SaveIndex(t.Context(), "main", other); !errors.Is(err, remotecache.ErrConflict) {
		t.Errorf("another index: %v, want ErrConflict", err)
	}
}

// testWithoutLength: proxies may leave it out.
func testWithoutLength(t *testing.T, a *services.Azurite) {
	p := newProxy(t, a)
	b := open(t, p.behind(a))
	desc, data := remotecachetest.Blob(1, 100_000)
	put(t, b, desc, data)
	if err := b.SaveIndex(t.Context(), "main", remotecachetest.IndexOf("x", desc)); err != nil {
		t.Fatal(err)
	}
	p.on(func(string, int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			rec := p.recorded(r)
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			w.Header().Del("Content-Length")
			w.WriteHeader(rec.Code)
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(rec.Body.Bytes())
		}
	})
	if idx, err := b.LoadIndex(t.Context(), "main"); err != nil || len(idx.Layers) != 1 {
		t.Errorf("%+v, %v", idx, err)
	}
	if got, err := read(t, b, desc); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// testRefusals: what the service refuses, and why, becomes an error that
// callers understand, with advice.
func testRefusals(t *testing.T, a *services.Azurite) {
	p := newProxy(t, a)
	b := open(t, p.behind(a))
	desc, data := remotecachetest.Blob(1, 100)
	put(t, b, desc, data)
	write := func() error {
		d, data := remotecachetest.Blob(2, 100)
		return b.Put(t.Context(), d, bytes.NewReader(data))
	}
	readIt := func() error { _, err := read(t, b, desc); return err }
	now := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for _, tt := range []struct {
		name  string
		call  func() error
		fault http.HandlerFunc
		is    error
		hint  string
	}{
		{"write without the role", write, answer(403, "AuthorizationPermissionMismatch"), remotecache.ErrReadOnly, `"Storage Blob Data Contributor"`},
		{"read without the role", readIt, answer(403, "AuthorizationPermissionMismatch"), nil, `"Storage Blob Data Reader"`},
		{"network rules", write, answer(403, "AuthorizationFailure"), remotecache.ErrReadOnly, "network rules"},
		{"no keys", write, answer(403, "KeyBasedAuthenticationNotPermitted"), remotecache.ErrReadOnly, "leave out secret_access_key"},
		{"clock ahead", write, answer(403, "AuthenticationFailed", "Date", now(-2*time.Hour)), nil, "2h0m0s ahead"},
		{"clock behind", readIt, answer(403, "AuthenticationFailed", "Date", now(20*time.Minute)), nil, "20m0s behind"},
		{"wrong key", readIt, answer(403, "AuthenticationFailed"), nil, "check secret_access_key"},
		{"archived", readIt, answer(409, "BlobArchived"), remotecache.ErrNotFound, "archive tier"},
		{"container on its way out", write, answer(409, "ContainerBeingDeleted"), nil, "container="},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.on(func(string, int) http.HandlerFunc { return tt.fault })
			err := tt.call()
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) || tt.is == nil && (errors.Is(err, remotecache.ErrReadOnly) || errors.Is(err, remotecache.ErrNotFound)) {
				t.Errorf("%v, want %v", err, tt.is)
			}
			if h := hint.Of(err); !strings.Contains(h, tt.hint) {
				t.Errorf("hint %q, want %q", h, tt.hint)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("several lines: %v", err)
			}
		})
	}
}

func testMissingContainer(t *testing.T, a *services.Azurite) {
	p := newProxy(t, a)
	cfg := p.behind(a)
	b := open(t, cfg)
	p.on(nil)
	desc, data := remotecachetest.Blob(1, 100)
	_, openErr := read(t, b, desc)
	_, loadErr := b.LoadIndex(t.Context(), "main")
	_, listErr := b.List(t.Context())
	for what, err := range map[string]error{"Open": openErr, "LoadIndex": loadErr, "List": listErr} {
		if !errors.Is(err, remotecache.ErrNotFound) || !strings.Contains(hint.Of(err), cfg.Container) {
			t.Errorf("%s: %v, hint %q", what, err, hint.Of(err))
		}
	}
	many := make([]ocispec.Descriptor, 100)
	for i := range many {
		many[i], _ = remotecachetest.Blob(uint64(i), 10)
	}
	for _, blobs := range [][]ocispec.Descriptor{many, many[:3]} {
		if missing, err := b.Missing(t.Context(), blobs); err != nil || len(missing) != len(blobs) {
			t.Errorf("%d of %d are missing, %v", len(missing), len(blobs), err)
		}
	}
	if err := errors.Join(b.RemoveIndex(t.Context(), "main"), b.RemoveBlob(t.Context(), desc.Digest)); err != nil {
		t.Error(err)
	}
	if got := p.take(); strings.Contains(got, "PUT") {
		t.Errorf("reads write: %s", got)
	}
	// The first write finds out.
	put(t, b, desc, data)
	if got := p.take(); got != "1 PUT container, 2 PUT blob" {
		t.Errorf("the first write: %s", got)
	}
	// Whoever may not make it is told what to do.
	p.on(func(kind string, _ int) http.HandlerFunc {
		if kind == "PUT container" {
			return answer(403, "AuthorizationPermissionMismatch")
		}
		return nil
	})
	b = open(t, p.behind(a))
	err := b.Put(t.Context(), desc, bytes.NewReader(data))
	if !errors.Is(err, remotecache.ErrReadOnly) || !strings.Contains(hint.Of(err), "create the container") {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
}

// sdk returns Microsoft's own client of a store.
func sdk(t *testing.T, a *services.Azurite, cfg azblob.Config) *container.Client {
	t.Helper()
	key, err := container.NewSharedKeyCredential(a.Account, a.Key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := container.NewClientWithSharedKeyCredential(a.URL+"/"+cfg.Container, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const someKey = "c2VjcmV0"

// TestSilence: a service that never answers is given up.
func TestSilence(t *testing.T) {
	remotecachetest.RunSilent(t, func(url string) remotecache.Backend {
		b, err := azblob.New(azblob.Config{AccountURL: url, AccountName: "a", SecretAccessKey: someKey, Stall: 50 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

// TestWaitsAreBounded: a service may ask for pauses of a minute and a half in
// all, and what it said is not lost when a wait is ended.
func TestWaitsAreBounded(t *testing.T) {
	wait := "1000"
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.Header().Set("Retry-After", wait)
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer srv.Close()
	b, err := azblob.New(azblob.Config{AccountURL: srv.URL, AccountName: "a", SecretAccessKey: someKey})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.LoadIndex(t.Context(), "main"); err == nil || asked != 1 {
		t.Errorf("%d requests, %v", asked, err)
	}
	wait = "30"
	cause := errors.New("not done within 1s")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, cause)
	defer cancel()
	if _, err := b.LoadIndex(ctx, "main"); !errors.Is(err, cause) || !strings.Contains(err.Error(), "503") {
		t.Errorf("%v", err)
	}
}
