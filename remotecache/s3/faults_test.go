package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
	"github.com/mayfly-build/mayfly/remotecache/s3"
)

// A fault stands between us and the service for one request, whose number
// among those of its kind (method, path, query) is n. It reports whether it
// has answered.
type fault func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) bool

// behind returns how to reach srv through a proxy with a fault.
func behind(t *testing.T, srv *services.S3, f fault) s3.Config {
	t.Helper()
	target, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	var mu sync.Mutex
	seen := map[string]int{}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Method + " " + r.URL.String()
		mu.Lock()
		seen[key]++
		n := seen[key]
		mu.Unlock()
		if !f(w, r, n, proxy) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(front.Close)
	cfg := reach(srv)
	cfg.EndpointURL = front.URL
	cfg.RetryBackoff = 10 * time.Millisecond
	return cfg
}

// refuse answers as S3 does.
func refuse(w http.ResponseWriter, status int, code string) bool {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>told so</Message></Error>", code)
	return true
}

// cut passes half of an answer's body and breaks the connection.
func cut(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
	http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// everything uses all that a cache does: a large and many small blobs, and an
// Index.
func everything(t *testing.T, cfg s3.Config) {
	t.Helper()
	const large = 18 << 20
	b := open(t, cfg)
	blobs := append(descs(1, 1, large), descs(100, 20, 300<<10)...)
	if missing, err := b.Missing(t.Context(), blobs); err != nil || len(missing) != len(blobs) {
		t.Fatalf("%d are missing, %v", len(missing), err)
	}
	put(t, b, 1, large)
	for i := range 20 {
		put(t, b, uint64(100+i), 300<<10)
	}
	idx := remotecachetest.IndexOf("x", blobs...)
	idx.Version = remotecache.Absent
	if err := b.SaveIndex(t.Context(), "main", idx); err != nil {
		t.Fatal(err)
	}
	b = open(t, cfg)
	got, err := b.LoadIndex(t.Context(), "main")
	if err != nil || len(got.Layers) != len(blobs) {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := b.SaveIndex(t.Context(), "main", got); err != nil {
		t.Fatal(err)
	}
	if err := b.SaveIndex(t.Context(), "main", idx); !errors.Is(err, remotecache.ErrConflict) {
		t.Errorf("to be the first, where there is one: %v", err)
	}
	if err := readAll(t, b, 1, large); err != nil {
		t.Error(err)
	}
	if err := readAll(t, b, 119, 300<<10); err != nil {
		t.Error(err)
	}
	if c, err := b.List(t.Context()); err != nil || len(c.Blobs) != len(blobs) || len(c.Refs) != 1 {
		t.Errorf("%d blobs, %v, %v", len(c.Blobs), c.Refs, err)
	}
	if err := b.RemoveIndex(t.Context(), "main"); err != nil {
		t.Error(err)
	}
	if err := b.RemoveBlob(t.Context(), blobs[0].Digest); err != nil {
		t.Error(err)
	}
}

// TestPassingFaults: whatever one request meets, the next one of its kind goes
// well, and so does all.
func TestPassingFaults(t *testing.T) {
	for name, f := range map[string]fault{
		"503 SlowDown": func(w http.ResponseWriter, _ *http.Request, n int, _ http.Handler) bool {
			return n == 1 && refuse(w, http.StatusServiceUnavailable, "SlowDown")
		},
		"500 without a body": func(w http.ResponseWriter, _ *http.Request, n int, _ http.Handler) bool {
			if n == 1 {
				w.WriteHeader(http.StatusInternalServerError)
			}
			return n == 1
		},
		"400 RequestTimeout": func(w http.ResponseWriter, r *http.Request, n int, _ http.Handler) bool {
			return n == 1 && r.ContentLength > 0 && refuse(w, http.StatusBadRequest, "RequestTimeout")
		},
		"reset": func(_ http.ResponseWriter, _ *http.Request, n int, _ http.Handler) bool {
			if n == 1 {
				panic(http.ErrAbortHandler)
			}
			return false
		},
		"reset in the middle of what is sent": func(_ http.ResponseWriter, r *http.Request, n int, _ http.Handler) bool {
			if n == 1 && r.ContentLength > 0 {
				_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
				panic(http.ErrAbortHandler)
			}
			return false
		},
		"reset in the middle of an answer": func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) bool {
			return n == 1 && r.Method == http.MethodGet && cut(w, r, next)
		},
		// The service has done it, and nobody heard.
		"lost answers": func(_ http.ResponseWriter, r *http.Request, n int, next http.Handler) bool {
			if n == 1 && r.Method != http.MethodGet {
				next.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			}
			return false
		},
		"no conditions": func(w http.ResponseWriter, r *http.Request, _ int, _ http.Handler) bool {
			conditional := r.Header.Get("If-Match")+r.Header.Get("If-None-Match") != ""
			return conditional && r.Method == http.MethodPut && refuse(w, http.StatusNotImplemented, "NotImplemented")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everything(t, behind(t, start(t, services.S3Config{}), f))
		})
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	cfg := behind(t, start(t, services.S3Config{}), func(w http.ResponseWriter, r *http.Request, n int, _ http.Handler) bool {
		if n == 1 && r.Method == http.MethodPut {
			w.Header().Set("Retry-After", "2")
			return refuse(w, http.StatusTooManyRequests, "TooManyRequests")
		}
		return false
	})
	begin := time.Now()
	put(t, open(t, cfg), 1, 1000)
	if took := time.Since(begin); took < 2*time.Second {
		t.Errorf("it tried again after %s, not the 2s it was asked to wait", took)
	}
	for i, mode := range []aws.RetryMode{"standard", "adaptive"} {
		cfg.RetryMaxAttempts, cfg.RetryMode = 1, mode
		desc, data := remotecachetest.Blob(2, 1000+i)
		err := open(t, cfg).Put(t.Context(), desc, bytes.NewReader(data))
		if err == nil || !strings.Contains(err.Error(), "429 TooManyRequests: told so") {
			t.Errorf("%s, tried once: %v", mode, err)
		}
	}
}

// TestLastingFaults: what goes wrong for good is said in a few words, once,
// and leaves nothing behind.
func TestLastingFaults(t *testing.T) {
	srv := start(t, services.S3Config{})
	const size = 40 << 20
	desc, data := remotecachetest.Blob(1, size)
	for name, f := range map[string]fault{
		"500": func(w http.ResponseWriter, r *http.Request, _ int, _ http.Handler) bool {
			return r.URL.Query().Get("partNumber") == "3" && refuse(w, http.StatusInternalServerError, "InternalError")
		},
		"403": func(w http.ResponseWriter, r *http.Request, _ int, _ http.Handler) bool {
			return r.URL.Query().Get("partNumber") == "3" && refuse(w, http.StatusForbidden, "AccessDenied")
		},
		"complete": func(w http.ResponseWriter, r *http.Request, _ int, _ http.Handler) bool {
			return r.Method == http.MethodPost && r.URL.Query().Has("uploadId") && refuse(w, http.StatusBadRequest, "InvalidPart")
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := behind(t, srv, f)
			cfg.RetryMaxAttempts = 2
			b := open(t, cfg)
			calls := 0
			err := remotecache.Retry(countPuts{b, &calls}, b.Policy()).Put(t.Context(), desc, bytes.NewReader(data))
			if err == nil || !strings.Contains(err.Error(), "told so") || !strings.Contains(err.Error(), desc.Digest.String()) || calls != 1 {
				t.Errorf("after %d calls: %v", calls, err)
			}
			if errors.Is(err, remotecache.ErrReadOnly) != (name == "403") {
				t.Errorf("is it read-only: %v", err)
			}
			direct := open(t, reach(srv))
			if err := readAll(t, direct, 1, size); !errors.Is(err, remotecache.ErrNotFound) {
				t.Errorf("after a Put that failed: %v", err)
			}
			out, err := direct.SDK().ListMultipartUploads(t.Context(), &awss3.ListMultipartUploadsInput{Bucket: &srv.Bucket})
			if err != nil || len(out.Uploads) > 0 {
				t.Errorf("%d uploads are left, %v", len(out.Uploads), err)
			}
		})
	}
}

// countPuts counts the calls of Put.
type countPuts struct {
	remotecache.Backend
	n *int
}

func (c countPuts) Put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	*c.n++
	return c.Backend.Put(ctx, blob, src)
}

// TestHints: what a user can mend is told how.
func TestHints(t *testing.T) {
	srv := start(t, services.S3Config{})
	readOnly := start(t, services.S3Config{Dir: srv.Dir, ReadOnly: true})
	put(t, open(t, reach(srv)), 1, 1000)
	with := func(change func(cfg *s3.Config)) s3.Config {
		cfg := reach(srv)
		change(&cfg)
		return cfg
	}
	answers := func(status int, code string, header ...string) s3.Config {
		return behind(t, srv, func(w http.ResponseWriter, _ *http.Request, _ int, _ http.Handler) bool {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			return refuse(w, status, code)
		})
	}
	prefixed := reach(readOnly)
	prefixed.Prefix = "ci/"
	for _, tt := range []struct {
		name        string
		cfg         s3.Config
		read, write error // what the errors are; nil for just a failure
		hint, also  string
	}{
		{"read-only", prefixed, remotecache.ErrNotFound, remotecache.ErrReadOnly, "", "s3:PutObject and s3:AbortMultipartUpload on arn:aws:s3:::cache/ci/*"},
		{"no bucket", with(func(c *s3.Config) { c.Bucket = "nobody" }), remotecache.ErrNotFound, nil, "create the bucket nobody", ""},
		{"wrong key", with(func(c *s3.Config) { c.AccessKeyID = "stranger" }), nil, nil, "access_key_id", ""},
		{"wrong secret", with(func(c *s3.Config) { c.SecretAccessKey = "guess" }), nil, nil, "secret_access_key", ""},
		{"no credentials", with(func(c *s3.Config) { c.AccessKeyID, c.SecretAccessKey = "", "" }), nil, remotecache.ErrReadOnly, "s3:GetObject", "s3:PutObject"},
		{"wrong region, as the service says", with(func(c *s3.Config) { c.Region = "eu-west-1" }), nil, nil, "set region=us-east-1", ""},
		{"wrong region, as AWS says", answers(301, "PermanentRedirect", "X-Amz-Bucket-Region", "eu-north-1"), nil, nil, "set region=eu-north-1", ""},
		{"wrong region, as others say", answers(400, "AuthorizationHeaderMalformed"), nil, nil, "set region=<its region>", ""},
		{"clock", answers(403, "RequestTimeTooSkewed"), nil, nil, "clock", ""},
		{"expired", answers(400, "ExpiredToken"), nil, nil, "credentials that outlive the build", ""},
		{"archived", answers(403, "InvalidObjectState"), remotecache.ErrNotFound, remotecache.ErrNotFound, "archive", ""}, // a PUT never is
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			check := func(what string, err, want error, advice string) {
				t.Helper()
				if err == nil {
					t.Errorf("%s: no error", what)
					return
				}
				for _, meaning := range []error{remotecache.ErrNotFound, remotecache.ErrReadOnly, remotecache.ErrCorrupt, remotecache.ErrConflict} {
					if errors.Is(err, meaning) != (meaning == want) {
						t.Errorf("%s: %v, want %v", what, err, want)
					}
				}
				if got := hint.Of(err); !strings.Contains(got, advice) {
					t.Errorf("%s: the hint is %q, want %q in it", what, got, advice)
				}
				for _, secret := range []string{srv.SecretAccessKey, "guess", "Signature="} {
					if strings.Contains(err.Error()+hint.Of(err), secret) {
						t.Errorf("%s: a secret is in %q", what, err)
					}
				}
				if len(err.Error()) > 400 {
					t.Errorf("%s: %v", what, err)
				}
			}
			b := open(t, tt.cfg)
			_, err := b.LoadIndex(t.Context(), "main")
			check("LoadIndex", err, tt.read, tt.hint)
			check("Open", readAll(t, b, 2, 5<<20), tt.read, tt.hint)
			advice := tt.hint
			if tt.also != "" {
				advice = tt.also
			}
			for i, size := range []int{1000, 20 << 20} {
				desc, data := remotecachetest.Blob(uint64(3+i), size)
				check("Put", b.Put(t.Context(), desc, bytes.NewReader(data)), tt.write, advice)
			}
			check("SaveIndex", b.SaveIndex(t.Context(), "main", &remotecache.Index{}), tt.write, advice)
			// Who cannot write is still told what it may read.
			if tt.name == "read-only" {
				if err := readAll(t, open(t, reach(readOnly)), 1, 1000); err != nil {
					t.Error(err)
				}
				check("RemoveBlob", b.RemoveBlob(t.Context(), descs(1, 1, 1)[0].Digest), remotecache.ErrReadOnly, "s3:DeleteObject")
				if b.Writable() != nil {
					t.Error("it says that it is read-only before it knows")
				}
			}
		})
	}
}

// TestMayNotList: who may not list a bucket hears of what is not there as if
// it were forbidden.
func TestMayNotList(t *testing.T) {
	srv := start(t, services.S3Config{})
	cfg := behind(t, srv, func(w http.ResponseWriter, r *http.Request, n int, next http.Handler) bool {
		if r.URL.Query().Has("list-type") {
			return refuse(w, http.StatusForbidden, "AccessDenied")
		}
		rec := httptest.NewRecorder()
		if r.Method != http.MethodHead {
			return false
		}
		next.ServeHTTP(rec, r)
		if rec.Code == http.StatusNotFound {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	})
	blobs := descs(1, 50, 1000)
	put(t, open(t, reach(srv)), 7, 1000)
	b := open(t, cfg)
	if missing, err := b.Missing(t.Context(), blobs); err != nil || len(missing) != 49 {
		t.Errorf("%d are missing, %v", len(missing), err)
	}
	idx := remotecachetest.IndexOf("x", blobs[6])
	idx.Version = remotecache.Absent
	if err := b.SaveIndex(t.Context(), "main", idx); err != nil {
		t.Error(err)
	}
	if err := b.SaveIndex(t.Context(), "main", idx); !errors.Is(err, remotecache.ErrConflict) {
		t.Errorf("again: %v", err)
	}
}

// TestAcceptEncoding: a front end such as Google's changes a header that the
// SDK signs.
func TestAcceptEncoding(t *testing.T) {
	srv := start(t, services.S3Config{})
	cfg := behind(t, srv, func(_ http.ResponseWriter, r *http.Request, _ int, _ http.Handler) bool {
		r.Header.Set("Accept-Encoding", strings.Trim(r.Header.Get("Accept-Encoding")+",gzip(gfe)", ","))
		return false
	})
	desc, data := remotecachetest.Blob(1, 20<<20)
	err := open(t, cfg).Put(t.Context(), desc, bytes.NewReader(data))
	if err == nil || !strings.Contains(hint.Of(err), "disable_accept_encoding=true") {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
	cfg.DisableAcceptEncoding = true
	put(t, open(t, cfg), 1, 20<<20)
	if err := readAll(t, open(t, cfg), 1, 20<<20); err != nil {
		t.Error(err)
	}
}

// TestStall: a connection on which nothing moves is given up.
func TestStall(t *testing.T) {
	release := make(chan struct{})
	cfg := behind(t, start(t, services.S3Config{}), func(w http.ResponseWriter, r *http.Request, n int, _ http.Handler) bool {
		if n > 1 {
			return false
		}
		if r.Method == http.MethodGet { // it begins well
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write(make([]byte, 0))
			http.NewResponseController(w).Flush()
		}
		select {
		case <-release:
		case <-time.After(10 * time.Second):
		}
		return true
	})
	t.Cleanup(func() { close(release) }) // before the server is closed
	cfg.Stall = 200 * time.Millisecond
	begin := time.Now()
	b := open(t, cfg)
	put(t, b, 1, 1000)
	if err := readAll(t, b, 1, 1000); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestSilence: a service that never answers is given up.
func TestSilence(t *testing.T) {
	remotecachetest.RunSilent(t, func(url string) remotecache.Backend {
		return open(t, s3.Config{
			Bucket: "cache", EndpointURL: url, UsePathStyle: true, AccessKeyID: "a", SecretAccessKey: "b", Stall: 50 * time.Millisecond,
		})
	})
}

// TestWaitsSayWhy: an export whose time is up while it tries again says what
// was wrong.
func TestWaitsSayWhy(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "30")
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
	}))
	defer srv.Close()
	b := open(t, s3.Config{Bucket: "cache", EndpointURL: srv.URL, UsePathStyle: true, AccessKeyID: "a", SecretAccessKey: "b"})
	cause := errors.New("not done within 1s")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, cause)
	defer cancel()
	if _, err := b.LoadIndex(ctx, "main"); !errors.Is(err, cause) || !strings.Contains(err.Error(), "503 SlowDown") {
		t.Errorf("%v", err)
	}
}
