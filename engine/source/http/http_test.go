package http_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/secret"
	source "github.com/mayfly-build/mayfly/engine/source/http"
	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/retry"
)

type attrs map[string]string

func newSource(t *testing.T, cfg source.Config) *source.Source {
	cfg.Tmp = func() (string, error) { return os.MkdirTemp(t.TempDir(), "") }
	if cfg.Retry.Attempts == 0 {
		cfg.Retry.Backoff = time.Millisecond
	}
	return source.New(cfg)
}

func identify(t *testing.T, url string, a attrs) source.Identifier {
	t.Helper()
	id, err := source.ParseIdentifier(url, a)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func fetch(s *source.Source, id source.Identifier) (source.Pinned, source.File, error) {
	p, err := s.Resolve(context.Background(), id)
	if err != nil {
		return p, source.File{}, err
	}
	f, err := s.Fetch(context.Background(), id, p)
	return p, f, err
}

func handler(t *testing.T, h http.HandlerFunc) string {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// Keys and files are those of BuildKit.
func TestKeys(t *testing.T) {
	url := handler(t, func(w http.ResponseWriter, r *http.Request) {
		body := "hello\n"
		switch r.URL.Path {
		case "/plain.txt":
		case "/dated.txt":
			w.Header().Set("Last-Modified", "Thu, 02 Jan 2020 03:04:05 GMT")
		case "/named":
			w.Header().Set("Content-Disposition", `attachment; filename="dir/other.txt"`)
		default:
			body = "root\n"
		}
		io.WriteString(w, body)
	})
	vectors, err := os.ReadFile("testdata/keys.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(vectors)) {
		f := strings.Fields(line)
		if f[0] == "#" {
			continue
		}
		a := attrs{}
		first := slices.IndexFunc(f, func(s string) bool { return strings.HasPrefix(s, "sha256:") })
		for _, option := range f[1:first] {
			switch k, v, _ := strings.Cut(option, "="); k {
			case "name":
				a[pb.AttrHTTPFilename] = v
			case "perm":
				a[pb.AttrHTTPPerm] = v
			case "owner":
				a[pb.AttrHTTPUID], a[pb.AttrHTTPGID] = v, v
			case "sum":
				a[pb.AttrHTTPChecksum] = v
			case "accept":
				a[pb.AttrHTTPHeaderPrefix+"accept"] = v
			}
		}
		p, file, err := fetch(newSource(t, source.Config{}), identify(t, url+f[0], a))
		if err != nil {
			t.Fatal(err)
		}
		vertex := digest.FromString("buildkit.source.v0:" + p.CacheKey)
		// A record's digest is that of the vertex's digest and its output.
		if got := digest.FromString(vertex.String() + "@0"); !slices.Contains(f[first:], got.String()) {
			t.Errorf("%s: the record of key %q, %s, is not among them", strings.TrimSpace(line), p.CacheKey, got)
		}
		got := fmt.Sprintf("%v,%d/%d,%s,%s", file.Mode, file.UID, file.GID, file.ModTime.UTC().Format("2006-01-02T15:04:05"), file.Name)
		if want := f[len(f)-1]; got != want {
			t.Errorf("%s: file %s", strings.TrimSpace(line), got)
		}
		b, err := os.ReadFile(file.Path)
		if err != nil || int64(len(b)) != file.Size || digest.FromBytes(b) != p.Digest {
			t.Errorf("%s: %q, %d bytes, %s, %v", f[0], b, file.Size, p.Digest, err)
		}
	}
}

func TestChecksum(t *testing.T) {
	var requests atomic.Int64
	url := handler(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		io.WriteString(w, "hello")
	})
	s := newSource(t, source.Config{})
	for _, right := range []digest.Digest{digest.FromString("hello"), digest.SHA512.FromString("hello")} {
		requests.Store(0)
		id := identify(t, url+"/f", attrs{pb.AttrHTTPChecksum: right.String()})
		p, err := s.Resolve(t.Context(), id)
		if err != nil || requests.Load() != 0 {
			t.Fatalf("Resolve with a checksum: %d requests, %v", requests.Load(), err)
		}
		if _, err := s.Fetch(t.Context(), id, p); err != nil {
			t.Error(err)
		}
	}
	wrong := digest.FromString("other")
	_, _, err := fetch(s, identify(t, url+"/f", attrs{pb.AttrHTTPChecksum: wrong.String()}))
	if err == nil || !strings.Contains(err.Error(), wrong.String()) || !strings.Contains(err.Error(), digest.FromString("hello").String()) ||
		!strings.Contains(hint.Of(err), "checksum") {
		t.Errorf("error %v should name both digests; hint %q", err, hint.Of(err))
	}
}

func TestResolveDownloadsOnce(t *testing.T) {
	var requests atomic.Int64
	url := handler(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		io.WriteString(w, "hello")
	})
	if _, _, err := fetch(newSource(t, source.Config{}), identify(t, url+"/f", nil)); err != nil || requests.Load() != 1 {
		t.Errorf("%d requests, %v", requests.Load(), err)
	}
}

func data(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestBrokenTransfers(t *testing.T) {
	body := data(1 << 20)
	for _, tt := range []struct {
		name   string
		header http.Header
		resume bool
	}{
		{"strong tag", http.Header{"Etag": {`"v1"`}, "Accept-Ranges": {"bytes"}}, true},
		{"date", http.Header{"Last-Modified": {"Thu, 02 Jan 2020 03:04:05 GMT"}, "Accept-Ranges": {"bytes"}}, true},
		{"weak tag", http.Header{"Etag": {`W/"v1"`}, "Accept-Ranges": {"bytes"}}, false},
		{"no ranges", http.Header{"Etag": {`"v1"`}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var tries, served int
			url := handler(t, func(w http.ResponseWriter, r *http.Request) {
				tries++
				from := 0
				for k, v := range tt.header {
					w.Header()[k] = v
				}
				if rng := r.Header.Get("Range"); rng != "" {
					if !tt.resume || r.Header.Get("If-Range") == "" {
						t.Errorf("asked for %s, If-Range %q", rng, r.Header.Get("If-Range"))
					}
					fmt.Sscanf(rng, "bytes=%d-", &from)
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(body)-from))
				if from > 0 {
					w.WriteHeader(http.StatusPartialContent)
				}
				end := len(body)
				if tries < 3 {
					end = from + 300<<10
				}
				served += end - from
				w.Write(body[from:end])
			})
			p, f, err := fetch(newSource(t, source.Config{}), identify(t, url+"/f", nil))
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(f.Path)
			if err != nil || !bytes.Equal(got, body) || p.Digest != digest.FromBytes(body) || f.Size != int64(len(body)) {
				t.Errorf("%d bytes, digest %s, size %d, %v", len(got), p.Digest, f.Size, err)
			}
			if tries != 3 || tt.resume != (served == len(body)) {
				t.Errorf("%d tries, %d bytes served", tries, served)
			}
		})
	}
}

// The file becomes another one between two tries.
func TestFileChangesWhileItBreaks(t *testing.T) {
	old, now := data(1<<20), bytes.Repeat([]byte("new"), 1<<18)
	first := true
	url := handler(t, func(w http.ResponseWriter, r *http.Request) {
		if first {
			first = false
			w.Header().Set("ETag", `"old"`)
			w.Header().Set("Accept-Ranges", "bytes")
			w.Header().Set("Content-Length", fmt.Sprint(len(old)))
			w.Write(old[:1000])
			return
		}
		w.Header().Set("ETag", `"new"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(now))
	})
	p, f, err := fetch(newSource(t, source.Config{}), identify(t, url+"/f", nil))
	if err != nil || p.Digest != digest.FromBytes(now) || f.Size != int64(len(now)) {
		t.Errorf("digest %s, size %d, %v", p.Digest, f.Size, err)
	}
}

// Like BuildKit, what the server packs for the way is unpacked.
func TestContentEncoding(t *testing.T) {
	url := handler(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			t.Errorf("Accept-Encoding %q", r.Header.Get("Accept-Encoding"))
		}
		w.Header().Set("Content-Encoding", "gzip")
		gz := gzip.NewWriter(w)
		io.WriteString(gz, "hello")
		gz.Close()
	})
	p, f, err := fetch(newSource(t, source.Config{}), identify(t, url+"/f.gz", nil))
	if err != nil || p.Digest != digest.FromString("hello") || f.Size != 5 {
		t.Errorf("digest %s, size %d, %v", p.Digest, f.Size, err)
	}
}

func TestStall(t *testing.T) {
	hung := false
	release := make(chan struct{})
	url := handler(t, func(w http.ResponseWriter, r *http.Request) {
		if !hung {
			hung = true
			w.Header().Set("Content-Length", "5")
			io.WriteString(w, "he")
			w.(http.Flusher).Flush()
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return
		}
		io.WriteString(w, "hello")
	})
	defer close(release)
	p, _, err := fetch(newSource(t, source.Config{Stall: 100 * time.Millisecond}), identify(t, url+"/f", nil))
	if err != nil || p.Digest != digest.FromString("hello") {
		t.Errorf("digest %s, %v", p.Digest, err)
	}
}

func TestStatus(t *testing.T) {
	for status, want := range map[int]struct {
		tries int
		hint  string
	}{
		404: {1, "check the URL"}, 403: {1, "HTTP_AUTH_TOKEN_127.0.0.1"}, 401: {1, "HTTP_AUTH_TOKEN_"}, 503: {3, ""}, 500: {3, ""},
	} {
		tries := 0
		url := handler(t, func(w http.ResponseWriter, r *http.Request) {
			tries++
			w.WriteHeader(status)
		})
		s := newSource(t, source.Config{Retry: retry.Policy{Attempts: 3, Backoff: time.Millisecond}})
		_, _, err := fetch(s, identify(t, url+"/f", nil))
		if err == nil || !strings.Contains(err.Error(), fmt.Sprint(status)) || !strings.Contains(hint.Of(err), want.hint) || tries != want.tries {
			t.Errorf("%d: %d tries, %v, hint %q", status, tries, err, hint.Of(err))
		}
	}
}

func TestUnreachable(t *testing.T) {
	s := newSource(t, source.Config{})
	if _, _, err := fetch(s, identify(t, "http://ann:pw@127.0.0.1:1/f", nil)); err == nil || strings.Contains(err.Error(), "pw") ||
		!strings.Contains(hint.Of(err), "listens on 127.0.0.1") {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
	if _, _, err := fetch(s, identify(t, "http://no-such-host.invalid/f", nil)); err == nil || !strings.Contains(hint.Of(err), "no-such-host.invalid") {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
}

func TestSecrets(t *testing.T) {
	var auth string
	url := handler(t, func(w http.ResponseWriter, r *http.Request) { auth = r.Header.Get("Authorization") })
	for _, tt := range []struct {
		name    string
		attrs   attrs
		secrets map[string]string
		want    string
		fails   bool
	}{
		{"none", nil, nil, "", false},
		{"token of the host", nil, map[string]string{"HTTP_AUTH_TOKEN_127.0.0.1": "tok"}, "Bearer tok", false},
		{"header of the host", nil, map[string]string{"HTTP_AUTH_HEADER_127.0.0.1": "Basic abc"}, "Basic abc", false},
		{"both", nil, map[string]string{"HTTP_AUTH_HEADER_127.0.0.1": "Basic abc", "HTTP_AUTH_TOKEN_127.0.0.1": "tok"}, "Bearer tok", false},
		{"named", attrs{pb.AttrHTTPAuthHeaderSecret: "mine"}, map[string]string{"mine": "Token x", "HTTP_AUTH_TOKEN_127.0.0.1": "tok"}, "Token x", false},
		{"named but absent", attrs{pb.AttrHTTPAuthHeaderSecret: "mine"}, nil, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			auth = ""
			s := newSource(t, source.Config{Secret: func(_ context.Context, id string) ([]byte, error) {
				v, ok := tt.secrets[id]
				if !ok {
					return nil, secret.ErrNotFound
				}
				return []byte(v), nil
			}})
			_, _, err := fetch(s, identify(t, url+"/f", tt.attrs))
			if auth != tt.want || (err != nil) != tt.fails {
				t.Errorf("sent %q, %v", auth, err)
			}
			if tt.fails && !errors.Is(err, secret.ErrNotFound) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestUpload(t *testing.T) {
	const id = "http://buildkit-session/abc"
	if _, _, err := fetch(newSource(t, source.Config{}), identify(t, id, nil)); err == nil || !strings.Contains(err.Error(), "sends no files") {
		t.Errorf("error %v", err)
	}
	s := newSource(t, source.Config{Upload: func(_ context.Context, u *url.URL) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("sent " + u.Path)), nil
	}})
	p, _, err := fetch(s, identify(t, id, nil))
	if err != nil || p.Digest != digest.FromString("sent /abc") || p.Name != "abc" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestFailureLeavesNothing(t *testing.T) {
	url := handler(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) })
	dir := t.TempDir()
	s := source.New(source.Config{Tmp: func() (string, error) { return os.MkdirTemp(dir, "") }})
	fetch(s, identify(t, url+"/f", nil))
	if left, err := filepath.Glob(dir + "/*"); len(left) != 0 || err != nil {
		t.Errorf("left %q, %v", left, err)
	}
}

func TestParseIdentifierRefuses(t *testing.T) {
	for _, tt := range []struct {
		url   string
		attrs attrs
	}{
		{"ftp://host/f", nil},
		{"http://", nil},
		{"http://host/%zz", nil},
		{"http://host/f", attrs{pb.AttrHTTPChecksum: "sha256:12"}},
		{"http://host/f", attrs{pb.AttrHTTPPerm: "rwx"}},
		{"http://host/f", attrs{pb.AttrHTTPSignatureVerify: "x"}},
	} {
		if id, err := source.ParseIdentifier(tt.url, tt.attrs); err == nil {
			t.Errorf("ParseIdentifier(%q, %v) = %+v", tt.url, tt.attrs, id)
		}
	}
	id := identify(t, "http://host/f", attrs{pb.AttrHTTPPerm: "04755"})
	if id.Perm != 0o4755 {
		t.Errorf("perm %o", id.Perm)
	}
}
