package gha_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/e2e/services/ghacache"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/gha"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

// TestV1Refusals has what GitHub Enterprise Server answers and act does not.
func TestV1Refusals(t *testing.T) {
	desc, data := remotecachetest.Blob(1, 100)
	for _, tt := range []struct {
		name, body string
		status     int
		there      bool // the entry can be found
		want       error
	}{
		{"it exists", `{"message":"Cache already exists. Scope: refs/heads/main","typeKey":"ArtifactCacheItemAlreadyExistsException"}`, 409, true, nil},
		{"it exists, in old words", "\ufeff" + `{"message":"Cache already exists."}`, 400, true, nil},
		{"it exists, as a reservation", `{"message":"Cache already exists."}`, 409, false, errAny},
		{"no permission", `{"message":"cache write denied: token has no writable scopes"}`, 403, false, remotecache.ErrReadOnly},
		{"too large", `{"message":"Cache size of 11 GB is over the limit"}`, 400, false, errAny},
		{"no ID", `{}`, 200, false, errAny},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := false
			mux := http.NewServeMux()
			mux.HandleFunc("POST /base/_apis/artifactcache/caches", func(w http.ResponseWriter, r *http.Request) {
				asked = true
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			})
			mux.HandleFunc("GET /base/_apis/artifactcache/cache", func(w http.ResponseWriter, r *http.Request) {
				if !tt.there || !asked {
					w.WriteHeader(http.StatusNoContent)
					return
				}
				io.WriteString(w, `{"cacheKey":"`+r.FormValue("keys")+`","archiveLocation":"http://`+r.Host+`/blob?sig=secret"}`)
			})
			mux.HandleFunc("GET /blob", func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "" {
					t.Error("the storage is shown the token")
				}
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
			})
			srv := httptest.NewServer(mux)
			defer srv.Close()
			cfg := gha.Config{URL: srv.URL + "/base/", Token: anyToken}
			short(&cfg)
			b, err := gha.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			err = put(b, desc, data)
			if (err == nil) != (tt.want == nil) || tt.want != errAny && !errors.Is(err, tt.want) {
				t.Errorf("Put: %v, want %v", err, tt.want)
			}
		})
	}
}

// TestV1Chunks sends a blob that needs several requests.
func TestV1Chunks(t *testing.T) {
	c, err := services.StartGHACacheV1()
	services.Use(t, c, err)
	desc, data := remotecachetest.Blob(1, 70<<20)
	if err := put(dialV1(t, c), desc, data); err != nil {
		t.Fatal(err)
	}
	isThere(t, dialV1(t, c), desc, data)
}

var errAny = errors.New("any error")

// TestBrokenDownloads has a storage that breaks off, ignores ranges and says
// odd things.
func TestBrokenDownloads(t *testing.T) {
	desc, data := remotecachetest.Blob(1, 10<<20)
	for _, tt := range []struct {
		name  string
		serve http.HandlerFunc
		want  error
	}{
		{"breaks off", func(w http.ResponseWriter, r *http.Request) {
			w = &breaking{ResponseWriter: w, left: 3 << 20}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		}, nil},
		{"stalls once", stallOnce(data), nil},
		{"ignores ranges", func(w http.ResponseWriter, r *http.Request) { w.Write(data) }, nil},
		{"has less", func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data[:9<<20]))
		}, remotecache.ErrCorrupt},
		{"is gone", func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, remotecache.ErrNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mux := http.NewServeMux()
			mux.HandleFunc("GET /_apis/artifactcache/cache", func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, `{"cacheKey":"`+r.FormValue("keys")+`","archiveLocation":"http://`+r.Host+`/blob?sig=secret"}`)
			})
			mux.HandleFunc("GET /blob", tt.serve)
			srv := httptest.NewServer(mux)
			defer srv.Close()
			cfg := gha.Config{URL: srv.URL, Token: anyToken}
			short(&cfg)
			cfg.Stall = 200 * time.Millisecond
			b, err := gha.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			got, err := read(b, desc)
			if !errors.Is(err, tt.want) || err == nil && string(got) != string(data) {
				t.Errorf("%d bytes, %v; want %v", len(got), err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "sig=") {
				t.Errorf("the error shows a signature: %v", err)
			}
		})
	}
}

// stallOnce serves data, but the first answer to the first part ends in silence.
func stallOnce(data []byte) http.HandlerFunc {
	var stalled atomic.Bool
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Range"), "bytes=0-") || stalled.Swap(true) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", 8<<20-1, len(data)))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(data[:1<<20])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

// breaking ends the connection after some bytes.
type breaking struct {
	http.ResponseWriter
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		panic(http.ErrAbortHandler)
	}
	return b.ResponseWriter.Write(p)
}

// TestActToken has a token as act makes them: for a branch without a name, and
// without the right to read, which its server does not ask for.
func TestActToken(t *testing.T) {
	c, err := services.StartGHACacheV1()
	services.Use(t, c, err)
	dial := func() *gha.Backend {
		b, err := gha.New(gha.Config{URL: c.URL, Token: ghacache.AnyToken(services.GHAScope{Permission: services.GHAWrite})})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if err := dial().SaveIndex(t.Context(), "app", indexOf(1)); err != nil {
		t.Fatal(err)
	}
	if list, err := dial().LoadIndexes(t.Context(), "app"); err != nil || len(list) != 1 || !has(list[0], 1) {
		t.Errorf("LoadIndexes: %v, %v; want what was saved", list, err)
	}
}
