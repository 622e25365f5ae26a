package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	azsas "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/e2e/services/ghacache"
)

// first does something to the first requests that it is asked about.
func first(most int64, do func(http.ResponseWriter, *http.Request)) func(int64, http.ResponseWriter, *http.Request) bool {
	return func(n int64, w http.ResponseWriter, r *http.Request) bool {
		if n > most {
			return false
		}
		do(w, r)
		return true
	}
}

func always(do func(http.ResponseWriter, *http.Request)) func(int64, http.ResponseWriter, *http.Request) bool {
	return first(1<<62, do)
}

// answers refuses with a status, after the body was read, as servers do.
func answers(status int, retryAfter string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(status)
	}
}

// shorten cuts the bodies of the first answers that have a large one in half,
// under the length of the whole.
func shorten(most int64) func(int64, *http.Response) {
	return func(n int64, resp *http.Response) {
		if n <= most && resp.ContentLength > 1 {
			resp.Body = body{io.LimitReader(resp.Body, resp.ContentLength/2), resp.Body}
		}
	}
}

type body struct {
	io.Reader
	io.Closer
}

// flip changes the last byte of a body.
func flip(_ int64, resp *http.Response) {
	resp.Body = body{&flipped{from: resp.Body, left: resp.ContentLength}, resp.Body}
}

func flipUpload(_ int64, _ http.ResponseWriter, r *http.Request) bool {
	if r.ContentLength > 0 {
		r.Body = body{&flipped{from: r.Body, left: r.ContentLength}, r.Body}
	}
	return false
}

type flipped struct {
	from io.Reader
	left int64
}

func (f *flipped) Read(p []byte) (int, error) {
	n, err := f.from.Read(p)
	if f.left -= int64(n); n > 0 && f.left <= 0 {
		p[n-1] ^= 1
	}
	return n, err
}

// garbage is no index.
func garbage(_ int64, resp *http.Response) {
	if resp.StatusCode >= 300 || resp.ContentLength == 0 {
		return
	}
	resp.Body.Close()
	text := strings.Repeat("garbage ", 20)
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader([]byte(text))), int64(len(text))
	resp.Header.Set("Content-Length", fmt.Sprint(len(text)))
}

// silent takes a request and never answers.
func silent(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// stop lets half of a body through and then nothing.
func stop(_ int64, resp *http.Response) {
	half := io.LimitReader(resp.Body, resp.ContentLength/2)
	resp.Body = body{io.MultiReader(half, waiting{resp.Request.Context()}), resp.Body}
}

type waiting struct{ ctx context.Context }

func (w waiting) Read([]byte) (int, error) {
	<-w.ctx.Done()
	return 0, w.ctx.Err()
}

// s3Error refuses as S3 does.
func s3Error(status int, code string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>told so</Message></Error>", code)
	}
}

// skewed refuses what is signed at a time that is an hour from the server's.
func skewed(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
	if r.Header.Get("X-Amz-Date") != "" {
		s3Error(403, "RequestTimeTooSkewed")(w, r)
		return
	}
	w.Header().Set("x-ms-error-code", "AuthenticationFailed")
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(403)
	fmt.Fprint(w, "<Error><Code>AuthenticationFailed</Code><Message>Server failed to authenticate the request.</Message></Error>")
}

// withToken returns a flag with another token of GitHub's cache.
func withToken(spec, token string) string {
	before, rest, _ := strings.Cut(spec, ",token=")
	_, after, more := strings.Cut(rest, ",")
	if more {
		after = "," + after
	}
	return before + ",token=" + token + after
}

func readToken(x *cell, spec string) string {
	scope := services.GHAScope{Scope: "refs/heads/main", Permission: services.GHARead}
	if x.kind == "gha-v1" {
		return withToken(spec, ghacache.AnyToken(scope))
	}
	return withToken(spec, x.repository.Token(scope))
}

func oldToken(x *cell, spec string) string {
	return withToken(spec, x.repository.TokenUntil(time.Now().Add(-time.Minute), services.GHAScope{Scope: "refs/heads/main", Permission: services.GHAReadWrite}))
}

// expiredSAS has a SAS that was good until a minute ago in place of the key.
func expiredSAS(x *cell, spec string) string {
	cred, err := azblob.NewSharedKeyCredential(x.azurite.Account, x.azurite.Key)
	if err != nil {
		panic(err) // it is azurite's own
	}
	q, err := azsas.AccountSignatureValues{
		Protocol: azsas.ProtocolHTTPSandHTTP, ExpiryTime: time.Now().Add(-time.Minute).UTC(), ResourceTypes: "sco", Permissions: "rwdlac",
	}.SignWithSharedKey(cred)
	if err != nil {
		panic(err) // of the form that is constant
	}
	spec = strings.Replace(spec, ",secret_access_key="+x.azurite.Key, "", 1)
	return strings.Replace(spec, x.azurite.URL, x.azurite.URL+"?"+q.Encode(), 1)
}

// elsewhere names a bucket, container or repository that is not there.
func elsewhere(x *cell, spec string) string {
	switch x.kind {
	case "s3":
		return strings.Replace(spec, "bucket=cache", "bucket=absent", 1)
	case "azblob":
		return spec + ",container=absent-" + x.phase
	}
	return strings.Replace(spec, "/good:", "/absent:", 1)
}

// late delays a request until the URLs of shortSAS have expired.
func late(most int64) func(int64, http.ResponseWriter, *http.Request) bool {
	return func(n int64, _ http.ResponseWriter, r *http.Request) bool {
		if n <= most {
			time.Sleep(sasTime + time.Second)
		}
		return false
	}
}

const sasTime = time.Second

// shortSAS has a service that signs URLs for a second.
func shortSAS(ctx context.Context, x *cell) (func(), error) {
	srv, err := ghacache.New(ctx, ghacache.Storage{URL: x.azurite.URL, Account: x.azurite.Account, Key: x.azurite.Key}, ghacache.Config{})
	if err != nil {
		return nil, err
	}
	h := httptest.NewServer(srv)
	token := srv.NewRepository().Token(services.GHAScope{Scope: "refs/heads/main", Permission: services.GHAReadWrite})
	spec := fmt.Sprintf("type=gha,version=2,url_v2=%s/,token=%s,scope=cache", h.URL, token)
	f := *x.faulty
	f.servers = []string{x.azurite.URL, h.URL}
	x.faulty, x.place = &f, services.CachePlace{To: spec, From: spec}
	if x.phase == "import" {
		r, err := x.build(ctx, nil, "--cache-to", spec+",mode=max,ignore-error=false")
		if err != nil || r.outcome != "ok" {
			h.Close()
			return nil, fmt.Errorf("store a cache: %w, %+v", err, r)
		}
	}
	srv.Set(func(cfg *ghacache.Config) { cfg.SAS = sasTime })
	return h.Close, nil
}

// diskSize is room for some of the blobs, but not for all of them.
const diskSize = "1500k"

// smallDisk has a service on a disk that is soon full.
func smallDisk(ctx context.Context, x *cell) (end func(), err error) {
	dir, err := os.MkdirTemp(x.w.dir, "disk-")
	if err != nil {
		return nil, err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+diskSize); err != nil {
		return nil, fmt.Errorf("mount a small disk: %w", err)
	}
	var f faulty
	f.kind = x.kind
	c, err := services.StartCache(ctx, x.kind, services.CacheConfig{Dir: filepath.Join(dir, "cache"), Via: f.note})
	if err != nil {
		return nil, err
	}
	f.cache = c
	x.faulty, x.place = &f, c.Place("full")
	return func() {
		_ = c.Close()
		_ = syscall.Unmount(dir, syscall.MNT_DETACH)
	}, nil
}
