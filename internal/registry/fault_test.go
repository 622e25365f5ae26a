package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/internal/retry"
)

// faulty serves a registry through wrap, which may answer in its stead.
func faulty(t *testing.T, wrap func(next http.Handler) http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(wrap(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func quick() *registry.Client {
	return registry.New(registry.Config{Keychain: keychain{}, Backoff: time.Millisecond})
}

// seed puts a blob with a client of its own.
func seed(t *testing.T, ref string, data []byte) ocispec.Descriptor {
	t.Helper()
	desc, open := blobOf(data)
	if err := quick().PutBlob(t.Context(), ref, desc, open, ""); err != nil {
		t.Fatal(err)
	}
	return desc
}

func TestRetries(t *testing.T) {
	data := randomBytes(1 << 20)
	for _, tt := range []struct {
		name  string
		fault func(w http.ResponseWriter, r *http.Request)
	}{
		{"503", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }},
		{"500", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) }},
		{"429", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(429)
		}},
		{"reset", func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}},
		{"reset in the request", func(w http.ResponseWriter, r *http.Request) {
			io.CopyN(io.Discard, r.Body, 100<<10)
			conn, _, _ := http.NewResponseController(w).Hijack()
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// Every request of an upload fails once.
			seen := map[string]bool{}
			host := faulty(t, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if !seen[r.Method] {
						seen[r.Method] = true
						tt.fault(w, r)
						return
					}
					next.ServeHTTP(w, r)
				})
			})
			desc, open := blobOf(data)
			c := quick()
			if err := c.PutBlob(t.Context(), host+"/a:v1", desc, open, ""); err != nil {
				t.Fatal(err)
			}
			m, body := manifestOf(t, desc, desc)
			if err := c.PutManifest(t.Context(), host+"/a:v1", m, body); err != nil {
				t.Fatal(err)
			}
			if _, got, err := c.Resolve(t.Context(), host+"/a:v1"); err != nil || !bytes.Equal(got, body) {
				t.Errorf("Resolve: %v", err)
			}
			if c.Stats().Retries == 0 {
				t.Error("Stats count no retry")
			}
		})
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	var n atomic.Int64
	host := faulty(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n.Add(1)
			w.WriteHeader(502)
			fmt.Fprint(w, "<html>proxy says no</html>")
		})
	})
	c := registry.New(registry.Config{Keychain: keychain{}, Backoff: time.Microsecond, Attempts: 3})
	_, _, err := c.Resolve(t.Context(), host+"/a:v1")
	if err == nil || !strings.Contains(err.Error(), "502 Bad Gateway") || strings.Contains(err.Error(), "html") || n.Load() != 3 {
		t.Errorf("after %d tries: %v", n.Load(), err)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	var first, second time.Time
	host := faulty(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if first.IsZero() {
				first = time.Now()
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(429)
				return
			}
			second = time.Now()
			next.ServeHTTP(w, r)
		})
	})
	desc, _ := blobOf([]byte("x"))
	if _, err := quick().HasBlob(t.Context(), host+"/a:v1", desc); err != nil {
		t.Fatal(err)
	}
	if pause := second.Sub(first); pause < time.Second {
		t.Errorf("came back after %v, the server asked for 1s", pause)
	}
}

func TestBlobResumes(t *testing.T) {
	data := randomBytes(1 << 20)
	for _, ranges := range []bool{true, false} {
		t.Run(fmt.Sprintf("server with ranges %v", ranges), func(t *testing.T) {
			var served, gets atomic.Int64
			host := faulty(t, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method != http.MethodGet {
						next.ServeHTTP(w, r)
						return
					}
					from := 0
					if gets.Add(1); ranges {
						fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
					}
					w.Header().Set("Content-Length", fmt.Sprint(len(data)-from))
					if from > 0 {
						w.WriteHeader(http.StatusPartialContent)
					}
					end := min(len(data), from+300<<10) // then the line breaks
					if !ranges {
						end = min(len(data), int(gets.Load())*300<<10)
					}
					n, _ := w.Write(data[from:end])
					served.Add(int64(n))
				})
			})
			desc := seed(t, host+"/a:v1", data)
			c := quick()
			rc, err := c.Blob(t.Context(), host+"/a:v1", desc, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer rc.Close()
			got, err := io.ReadAll(rc)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("read %d of %d bytes: %v", len(got), len(data), err)
			}
			if gets.Load() != 4 {
				t.Errorf("%d GETs", gets.Load())
			}
			if ranges && served.Load() != int64(len(data)) {
				t.Errorf("served %d bytes for %d", served.Load(), len(data))
			}
		})
	}
}

func TestBlobGivesUpWithoutProgress(t *testing.T) {
	host := faulty(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Length", "5")
			w.Write([]byte{})
		})
	})
	desc := seed(t, host+"/a:v1", []byte("hello"))
	rc, err := quick().Blob(t.Context(), host+"/a:v1", desc, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(rc); err == nil || !strings.Contains(err.Error(), desc.Digest.String()) {
		t.Errorf("error %v", err)
	}
	if err := rc.Close(); err != nil {
		t.Error(err)
	}
}

func TestBlobLongerThanItsDescriptor(t *testing.T) {
	host := faulty(t, func(next http.Handler) http.Handler { return next })
	desc := seed(t, host+"/a:v1", randomBytes(1000))
	desc.Size = 10
	rc, err := quick().Blob(t.Context(), host+"/a:v1", desc, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if _, err := io.ReadAll(rc); err == nil || !strings.Contains(err.Error(), "more than its 10 bytes") {
		t.Errorf("error %v", err)
	}
}

func TestCancelEndsTheWait(t *testing.T) {
	host := faulty(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(503)
		})
	})
	ctx, cancel := contextWithTimeout(t, 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, _, err := quick().Resolve(ctx, host+"/a:v1")
	if err == nil || time.Since(start) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func TestManifestWithAnotherDigest(t *testing.T) {
	host := faulty(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"schemaVersion":2}`) })
	})
	want, _ := blobOf([]byte("something else"))
	_, err := quick().Manifest(t.Context(), host+"/a:v1", want.Digest)
	if err == nil || !strings.Contains(err.Error(), want.Digest.String()) || !strings.Contains(err.Error(), "with digest sha256:") {
		t.Errorf("error %v", err)
	}
}

// Blobs often lie at a CDN: it must get no credential of ours, and what its
// URL is signed with must not come back in an error.
func TestRedirectedBlob(t *testing.T) {
	var broken atomic.Bool
	cdn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the CDN was sent a credential")
		}
		if broken.Load() {
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("hello"))
	}))
	defer cdn.Close()
	host := faulty(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); user != "ann" || password != "pw" {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(401)
				return
			}
			http.Redirect(w, r, cdn.URL+"/blob?X-Amz-Signature=s1gned", http.StatusTemporaryRedirect)
		})
	})
	desc, _ := blobOf([]byte("hello"))
	c := registry.New(registry.Config{Keychain: keychain{"ann", "pw"}, Backoff: time.Microsecond})
	rc, err := c.Blob(t.Context(), host+"/a:v1", desc, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if b, err := io.ReadAll(rc); string(b) != "ello" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
	broken.Store(true)
	_, err = c.Blob(t.Context(), host+"/a:v1", desc, 0)
	if err == nil || strings.Contains(err.Error(), "s1gned") || strings.Contains(err.Error(), "pw") {
		t.Errorf("error %v", err)
	}
}

func TestTLSMismatch(t *testing.T) {
	tlsServer := httptest.NewTLSServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	defer tlsServer.Close()
	tlsServer.Config.ErrorLog = log.New(io.Discard, "", 0)
	plainServer := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	defer plainServer.Close()
	tlsAddr, plainAddr := tlsServer.Listener.Addr().String(), plainServer.Listener.Addr().String()

	// Names that are not the local machine's, so that nothing is assumed.
	dial := func(insecure ...string) *registry.Client {
		return registry.New(registry.Config{Keychain: keychain{}, Backoff: time.Microsecond, Insecure: insecure,
			Transport: &http.Transport{DialContext: (&redirectDialer{map[string]string{
				"tls.example:443": tlsAddr, "plain.example:443": plainAddr, "plain.example:5000": plainAddr,
			}}).dial}})
	}
	desc, _ := blobOf([]byte("x"))
	for _, tt := range []struct {
		name, ref string
		insecure  []string
		hint      string
	}{
		{"certificate not trusted", "tls.example/a:v1", nil, "certificate authority of tls.example"},
		{"certificate accepted", "tls.example/a:v1", []string{"tls.example"}, ""},
		{"plain HTTP refused", "plain.example:5000/a:v1", nil, "plain.example:5000 speaks plain HTTP"},
		{"plain HTTP allowed", "plain.example:5000/a:v1", []string{"plain.example:5000"}, ""},
		{"plain on the local machine", plainAddr + "/a:v1", nil, ""},
		{"TLS on the local machine", tlsAddr + "/a:v1", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := dial(tt.insecure...).HasBlob(t.Context(), tt.ref, desc)
			if tt.hint == "" {
				if err != nil {
					t.Errorf("%v (hint %q)", err, hint.Of(err))
				}
				return
			}
			if err == nil || !strings.Contains(hint.Of(err), tt.hint) {
				t.Errorf("%v, hint %q, want %q", err, hint.Of(err), tt.hint)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c := registry.New(registry.Config{Keychain: keychain{}, Backoff: time.Microsecond, Attempts: 2})
	if _, _, err := c.Resolve(t.Context(), addr+"/a:v1"); err == nil || !strings.Contains(hint.Of(err), "listens on "+addr) {
		t.Errorf("refused: %v, hint %q", err, hint.Of(err))
	}
	unknown := registry.New(registry.Config{Keychain: keychain{}, Transport: &http.Transport{DialContext: (&redirectDialer{}).dial}})
	if _, _, err := unknown.Resolve(t.Context(), "no-such.example/a:v1"); err == nil ||
		!strings.Contains(hint.Of(err), "registry no-such.example") {
		t.Errorf("unknown host: %v, hint %q", err, hint.Of(err))
	}
}

func TestOpenFails(t *testing.T) {
	host := faulty(t, func(next http.Handler) http.Handler { return next })
	want := errors.New("disk on fire")
	desc, _ := blobOf([]byte("x"))
	err := quick().PutBlob(t.Context(), host+"/a:v1", desc, func() (io.ReadCloser, error) { return nil, want }, "")
	if !errors.Is(err, want) {
		t.Errorf("PutBlob = %v", err)
	}
	// A source that is shorter than it said must not become a blob.
	err = quick().PutBlob(t.Context(), host+"/a:v1", desc, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil }, "")
	if err == nil {
		t.Error("PutBlob of a short source succeeded")
	}
	if ok, err := quick().HasBlob(t.Context(), host+"/a:v1", desc); ok || err != nil {
		t.Errorf("HasBlob = %v, %v", ok, err)
	}
}

// An upload that cannot even begin is tried as often as any other request.
func TestTriesOfAnUpload(t *testing.T) {
	var posts atomic.Int64
	host := faulty(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				posts.Add(1)
				w.WriteHeader(503)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	desc, open := blobOf(randomBytes(100))
	if err := quick().PutBlob(t.Context(), host+"/a:v1", desc, open, ""); err == nil {
		t.Error("no error")
	}
	if n := posts.Load(); n != 5 {
		t.Errorf("%d tries", n)
	}
}

// What the registry that a blob comes from says is no answer of the one that it
// goes to.
func TestSourceFails(t *testing.T) {
	gone := &registry.Error{Status: 404}
	for name, open := range map[string]func() (io.ReadCloser, error){
		"opened": func() (io.ReadCloser, error) { return nil, fmt.Errorf("fetch: %w", gone) },
		"read":   func() (io.ReadCloser, error) { return io.NopCloser(failing{fmt.Errorf("fetch: %w", gone)}), nil },
	} {
		var puts atomic.Int64
		host := faulty(t, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					puts.Add(1)
				}
				next.ServeHTTP(w, r)
			})
		})
		desc, _ := blobOf(randomBytes(100))
		err := quick().PutBlob(t.Context(), host+"/a:v1", desc, open, "")
		if _, ok := errors.AsType[*registry.SourceError](err); !ok {
			t.Errorf("%s: whose error is %v?", name, err)
		}
		if !errors.Is(err, gone) || strings.Contains(err.Error(), "session") || puts.Load() != 1 {
			t.Errorf("%s: after %d uploads: %v", name, puts.Load(), err)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Another patience than the client's, and the same knowledge.
func TestWith(t *testing.T) {
	var asked atomic.Int64
	release := make(chan struct{})
	host := faulty(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/silent/") {
				asked.Add(1)
				select {
				case <-release:
				case <-r.Context().Done():
				}
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	defer close(release)
	c := registry.New(registry.Config{Keychain: keychain{}, Backoff: time.Millisecond, Stall: time.Hour})
	hasty := c.With(50*time.Millisecond, retry.Policy{Stalls: 2})
	if _, _, err := hasty.Resolve(t.Context(), host+"/silent/a:v1"); !errors.Is(err, retry.ErrStalled) || asked.Load() != 2 {
		t.Errorf("%d tries: %v", asked.Load(), err)
	}
	desc, open := blobOf(randomBytes(100))
	if err := c.PutBlob(t.Context(), host+"/a:v1", desc, open, ""); err != nil {
		t.Fatal(err)
	}
	before := c.Stats().Requests
	if ok, err := hasty.HasBlob(t.Context(), host+"/a:v1", desc); err != nil || !ok || hasty.Stats().Requests != before {
		t.Errorf("%v, %v, %d requests more", ok, err, hasty.Stats().Requests-before)
	}
}

// A blob that lies truncated in the registry is not asked for without end.
func TestTruncatedBlob(t *testing.T) {
	data := randomBytes(1000)
	desc, _ := blobOf(data)
	host := faulty(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data[:400]))
		})
	})
	rc, err := quick().Blob(t.Context(), host+"/a:v1", desc, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if b, err := io.ReadAll(rc); len(b) != 400 || !errors.Is(err, registry.ErrShort) {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
}

// docker-registry calls a sound manifest invalid while another push links one
// of its blobs.
func TestRegistryIsLinking(t *testing.T) {
	var left atomic.Int64
	host := faulty(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") && left.Add(-1) >= 0 {
				w.WriteHeader(http.StatusBadRequest)
				_, _ = io.WriteString(w, `{"errors": [{"code": "DIGEST_INVALID", "message": "provided digest did not match uploaded content"}]}`)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	data := []byte(`{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}`)
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(data), Size: int64(len(data))}
	left.Store(2)
	if err := quick().PutManifest(t.Context(), host+"/a:v1", desc, data); err != nil {
		t.Error(err)
	}
	left.Store(1)
	desc.Digest = digest.FromString("other")
	if err := quick().PutManifest(t.Context(), host+"/a:v1", desc, data); err == nil || left.Load() != 0 {
		t.Errorf("a manifest with another digest: %v", err)
	}
}
