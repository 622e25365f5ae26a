package gha_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	actionscache "github.com/tonistiigi/go-actions-cache"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/retry"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/gha"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

func put(b remotecache.Backend, desc ocispec.Descriptor, data []byte) error {
	return b.Put(context.Background(), desc, bytes.NewReader(data))
}

func read(b remotecache.Backend, desc ocispec.Descriptor) ([]byte, error) {
	r, err := b.Open(context.Background(), desc, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// isThere wants a blob to be read whole by a job.
func isThere(t *testing.T, b remotecache.Backend, desc ocispec.Descriptor, want []byte) {
	t.Helper()
	if got, err := read(b, desc); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes of %d, %v", len(got), len(want), err)
	}
}

var quick = retry.Policy{Backoff: time.Millisecond}

// short makes waits short.
func short(cfg *gha.Config) { cfg.Retry, cfg.Patience = quick, 300*time.Millisecond }

const rateLimited = `{"code":"resource_exhausted","msg":"rate limit exceeded"}`

func TestFaultsThatPass(t *testing.T) {
	c := v2(t)
	for _, tt := range []struct {
		name  string
		fault services.GHAFault
		least time.Duration
	}{
		{"429 with Retry-After", services.GHAFault{Times: 1, Status: 429, RetryAfter: "1", Body: rateLimited}, time.Second},
		{"429 without", services.GHAFault{Times: 1, Status: 429, Body: "\ufeff" + `{"message":"Request was blocked"}`}, 500 * time.Millisecond},
		{"503 with Retry-After", services.GHAFault{Times: 1, Status: 503, RetryAfter: "1"}, time.Second},
		{"500 three times", services.GHAFault{Times: 3, Status: 500, Body: `{"code":"internal","msg":"oops"}`}, 0},
		{"broken connections", services.GHAFault{Times: 3}, 0},
	} {
		for _, method := range []string{"CreateCacheEntry", "FinalizeCacheEntryUpload", "GetCacheEntryDownloadURL"} {
			t.Run(tt.name+" of "+method, func(t *testing.T) {
				t.Parallel()
				repo := c.NewRepository()
				b := dial(t, c, repo, short, writeMain)
				desc, data := remotecachetest.Blob(1, 1000)
				begin := time.Now()
				repo.Fail(method, tt.fault)
				if err := put(b, desc, data); err != nil {
					t.Fatal(err)
				}
				isThere(t, dial(t, c, repo, short, writeMain), desc, data)
				if took := time.Since(begin); took < tt.least {
					t.Errorf("it took %s, not %s", took, tt.least)
				}
			})
		}
	}
}

func TestRateLimitEndsAtTimeout(t *testing.T) {
	c := v2(t)
	repo := c.NewRepository()
	b := dial(t, c, repo, func(cfg *gha.Config) { cfg.Timeout = 500 * time.Millisecond }, writeMain)
	repo.Fail("GetCacheEntryDownloadURL", services.GHAFault{Times: 100, Status: 429, RetryAfter: "20", Body: rateLimited})
	_, err := b.LoadIndex(t.Context(), "main")
	if err == nil || !strings.Contains(err.Error(), "rate limit exceeded") || hint.Of(err) == "" {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
	if again, _ := retry.Passing(err); again {
		t.Error("the error is not final")
	}
}

// TestRateLimitOfTheService exports more blobs than a repository may begin.
func TestRateLimitOfTheService(t *testing.T) {
	c := v2(t)
	repo := c.NewRepository()
	c.Set(func(cfg *services.GHACacheConfig) { cfg.UploadsPerMinute = 5 })
	b := dial(t, c, repo, func(cfg *gha.Config) { cfg.Timeout = time.Second }, writeMain)
	desc, data := remotecachetest.Blob(1, 10)
	for i := range 5 {
		d, data := remotecachetest.Blob(uint64(100+i), 10)
		if err := put(b, d, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(b, desc, data); err == nil || !strings.Contains(err.Error(), "429") {
		t.Errorf("the sixth: %v", err)
	}
	if n := repo.Counts()["CreateCacheEntry"]; n != 6 {
		t.Errorf("%d reservations were asked for, want 6: Retry-After says to wait for longer than there is time", n)
	}
}

func TestLostAnswers(t *testing.T) {
	c := v2(t)
	repo := c.NewRepository()
	b := dial(t, c, repo, short, writeMain)
	desc, data := remotecachetest.Blob(1, 1000)
	repo.Fail("FinalizeCacheEntryUpload", services.GHAFault{Times: 1, Lost: true})
	if err := put(b, desc, data); err != nil {
		t.Errorf("with the answer to Finalize lost: %v", err)
	}
	isThere(t, dial(t, c, repo, nil, writeMain), desc, data)

	desc, data = remotecachetest.Blob(2, 1000)
	repo.Fail("CreateCacheEntry", services.GHAFault{Times: 1, Lost: true})
	if err := put(b, desc, data); err == nil || !strings.Contains(err.Error(), "begun by another job") {
		t.Errorf("with the answer to Create lost: %v", err)
	}
}

func TestExpiredURLs(t *testing.T) {
	c := v2(t)
	expired := func() { c.Set(func(cfg *services.GHACacheConfig) { cfg.SAS = 1 }) } // a nanosecond, in whole seconds: none
	good := func() { c.Set(func(cfg *services.GHACacheConfig) { cfg.SAS = 0 }) }
	for _, size := range []int{1000, 9 << 20} { // one request, blocks
		repo := c.NewRepository()
		desc, data := remotecachetest.Blob(1, size)
		if err := put(dial(t, c, repo, nil, writeMain), desc, data); err != nil {
			t.Fatal(err)
		}
		b := dial(t, c, repo, nil, writeMain)
		expired()
		if m, err := b.Missing(t.Context(), []ocispec.Descriptor{desc}); err != nil || len(m) != 0 { // looks the URL up
			t.Fatal(m, err)
		}
		if _, err := read(b, desc); err == nil || strings.Contains(err.Error(), "sig=") {
			t.Errorf("%d bytes, with nothing but expired URLs: %v", size, err)
		}
		if m, err := b.Missing(t.Context(), []ocispec.Descriptor{desc}); err != nil || len(m) != 0 {
			t.Fatal(m, err)
		}
		good()
		before := repo.Counts()["GetCacheEntryDownloadURL"]
		isThere(t, b, desc, data)
		isThere(t, b, desc, data)
		if n := repo.Counts()["GetCacheEntryDownloadURL"] - before; n < 1 || n > 8 {
			t.Errorf("%d bytes: %d look-ups after the URL expired, want one for each part at most", size, n)
		}

		// Sending: the service signs once.
		desc, data = remotecachetest.Blob(2, size)
		expired()
		err := put(b, desc, data)
		if err == nil || !strings.Contains(err.Error(), "the signed URL expired before all") || strings.Contains(err.Error(), "sig=") {
			t.Errorf("send %d bytes to an expired URL: %v", size, err)
		}
		// Or again, for who has reserved.
		desc, data = remotecachetest.Blob(3, size)
		c.Set(func(cfg *services.GHACacheConfig) { cfg.Reissue = true })
		if err := put(b, desc, data); err == nil {
			t.Error("two expired URLs are no error")
		}
		good()
		if err := put(b, desc, data); err != nil {
			t.Errorf("send %d bytes again: %v", size, err)
		}
		isThere(t, dial(t, c, repo, nil, writeMain), desc, data)
		c.Set(func(cfg *services.GHACacheConfig) { cfg.Reissue = false })
	}
}

func TestEviction(t *testing.T) {
	c := v2(t)
	repo := c.NewRepository()
	b := dial(t, c, repo, short, writeMain)
	desc, data := remotecachetest.Blob(1, 1000)
	if err := put(b, desc, data); err != nil {
		t.Fatal(err)
	}
	isThere(t, b, desc, data) // the URL is known now
	if n, err := repo.Evict(t.Context(), func(services.GHAEntry) bool { return true }); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := read(b, desc); !errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("an evicted blob: %v, want ErrNotFound", err)
	}
	if m, err := b.Missing(t.Context(), []ocispec.Descriptor{desc}); err != nil || len(m) != 1 {
		t.Errorf("Missing returns %v, %v", m, err)
	}
	if err := put(b, desc, data); err != nil {
		t.Fatal(err)
	}
	isThere(t, b, desc, data)
}

// TestCrashedReservation exports where a job was killed before it had sent one
// of the blobs: that blob cannot be stored, the others are.
func TestCrashedReservation(t *testing.T) {
	c := v2(t)
	repo := c.NewRepository()
	b := dial(t, c, repo, short, writeMain)
	var descs []ocispec.Descriptor
	blobs := map[string][]byte{}
	for i := range 4 {
		desc, data := remotecachetest.Blob(uint64(i), 1000)
		descs, blobs[desc.Digest.String()] = append(descs, desc), data
	}
	idx := remotecachetest.IndexOf("crash", descs...)
	repo.Crash(mainBranch, "buildkit-blob-1-"+descs[3].Digest.String(), gha.EntryVersion)
	if err := put(b, descs[3], blobs[descs[3].Digest.String()]); err == nil {
		t.Error("a blob that another job reserved and did not send is said to be stored")
	}
	out, err := remotecache.Export(t.Context(), b, "main", idx, func(_ context.Context, d ocispec.Descriptor) (remotecache.BlobReader, error) {
		return noClose{bytes.NewReader(blobs[d.Digest.String()])}, nil
	}, remotecache.ExportOptions{})
	if out.State != remotecache.Partial || out.Lost != 1 || out.Blobs != 3 {
		t.Errorf("%+v, %v", out, err)
	}
	got, err := dial(t, c, repo, nil, writeMain).LoadIndex(t.Context(), "main")
	if err != nil || len(got.Layers) != 3 {
		t.Errorf("%+v, %v", got, err)
	}
}

type noClose struct{ *bytes.Reader }

func (noClose) Close() error { return nil }

// TestWrongEntry has an entry with other bytes in the place of a blob.
func TestWrongEntry(t *testing.T) {
	c := v2(t)
	repo := c.NewRepository()
	desc, data := remotecachetest.Blob(1, 1000)
	gac, err := actionscache.New(repo.Token(writeMain), c.URL, true, actionscache.Opt{})
	if err != nil {
		t.Fatal(err)
	}
	if err := gac.Save(t.Context(), "buildkit-blob-1-"+desc.Digest.String(), actionscache.NewBlob(data[:900])); err != nil {
		t.Fatal(err)
	}
	b := dial(t, c, repo, short, writeMain)
	if _, err := read(b, desc); !errors.Is(err, remotecache.ErrCorrupt) {
		t.Errorf("read: %v, want ErrCorrupt", err)
	}
	if err := put(b, desc, data); !errors.Is(err, remotecache.ErrCorrupt) {
		t.Errorf("Put: %v, want ErrCorrupt", err)
	}
	// Who may remove it puts it right.
	b = dial(t, c, repo, withREST(c, repo), writeMain)
	five := []ocispec.Descriptor{desc}
	for i := range 4 {
		d, data := remotecachetest.Blob(uint64(10+i), 10)
		if err := put(b, d, data); err != nil {
			t.Fatal(err)
		}
		five = append(five, d)
	}
	if m, err := b.Missing(t.Context(), five); err != nil || len(m) != 1 || m[0].Digest != desc.Digest {
		t.Errorf("Missing returns %v, %v", m, err)
	}
	if err := put(b, desc, data); err != nil {
		t.Error(err)
	}
	isThere(t, b, desc, data)
}

func TestDuplicateIsOK(t *testing.T) {
	c := v2(t)
	c.Set(func(cfg *services.GHACacheConfig) { cfg.DuplicateIsOK = true })
	repo := c.NewRepository()
	desc, data := remotecachetest.Blob(1, 1000)
	for range 2 {
		if err := put(dial(t, c, repo, nil, writeMain), desc, data); err != nil {
			t.Fatal(err)
		}
	}
	isThere(t, dial(t, c, repo, nil, writeMain), desc, data)
}

// TestErrorsKeepSecrets has nobody at the other end.
func TestErrorsKeepSecrets(t *testing.T) {
	desc, data := remotecachetest.Blob(1, 10)
	for _, cfg := range []gha.Config{{URL: "http://127.0.0.1:1/secret/"}, {URLv2: "http://127.0.0.1:1/?sig=secret"}} {
		cfg.Token, cfg.APIURL, cfg.Repository, cfg.GHToken = anyToken, "http://127.0.0.1:1", "acme/app", "ghs_secret"
		short(&cfg)
		b, err := gha.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, openErr := read(b, desc)
		_, loadErr := b.LoadIndex(t.Context(), "app")
		_, listErr := b.List(t.Context())
		_, missingErr := b.Missing(t.Context(), []ocispec.Descriptor{desc})
		for i, err := range []error{openErr, loadErr, listErr, missingErr, put(b, desc, data), b.SaveIndex(t.Context(), "app", indexOf(1)), b.RemoveBlob(t.Context(), desc.Digest)} {
			switch {
			case err == nil || !strings.Contains(err.Error(), "127.0.0.1:1"):
				t.Errorf("error %d: %v, want one that names the host", i, err)
			case strings.Contains(err.Error(), "secret"), strings.Contains(err.Error(), anyToken):
				t.Errorf("error %d shows a secret: %v", i, err)
			}
			if again, _ := retry.Passing(err); again {
				t.Errorf("error %d is not final: %v", i, err)
			}
		}
	}
}

// TestUnsupported has no access to the REST API.
func TestUnsupported(t *testing.T) {
	b, err := gha.New(gha.Config{URL: "http://127.0.0.1:1", Token: anyToken})
	if err != nil {
		t.Fatal(err)
	}
	desc, _ := remotecachetest.Blob(1, 10)
	_, listErr := b.List(t.Context())
	for i, err := range []error{listErr, b.RemoveIndex(t.Context(), "app"), b.RemoveBlob(t.Context(), desc.Digest)} {
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(hint.Of(err), "ghtoken") {
			t.Errorf("error %d: %v, hint %q", i, err, hint.Of(err))
		}
	}
}

// TestSilence: both protocols give up a service that never answers.
func TestSilence(t *testing.T) {
	for version := 1; version <= 2; version++ {
		t.Run(fmt.Sprint("v", version), func(t *testing.T) {
			remotecachetest.RunSilent(t, func(url string) remotecache.Backend {
				b, err := gha.New(gha.Config{URL: url, Version: version, Token: anyToken, Stall: 50 * time.Millisecond})
				if err != nil {
					t.Fatal(err)
				}
				return b
			})
		})
	}
}

// TestDrought: a service that lets nothing pass is given up long before one
// that lets others pass, and whoever comes later does not wait as long again.
func TestDrought(t *testing.T) {
	c := v2(t)
	repo := c.NewRepository()
	b := dial(t, c, repo, func(cfg *gha.Config) { cfg.Drought = 1500 * time.Millisecond }, writeMain)
	repo.Fail("GetCacheEntryDownloadURL", services.GHAFault{Times: 100, Status: 429, Body: rateLimited})
	begin := time.Now()
	for range 4 {
		if _, err := b.LoadIndex(t.Context(), "main"); err == nil || !strings.Contains(err.Error(), "rate limit exceeded") {
			t.Errorf("%v", err)
		}
	}
	if took := time.Since(begin); took > 2500*time.Millisecond {
		t.Errorf("four requests took %s", took)
	}
	// What was waited for is said, and not only that the wait was ended.
	cause := errors.New("no answer within 1s")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, cause)
	defer cancel()
	_, err := dial(t, c, repo, nil, writeMain).LoadIndex(ctx, "main")
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), "429") {
		t.Errorf("%v", err)
	}
}
