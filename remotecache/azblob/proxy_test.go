package azblob_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/remotecache/azblob"
)

// A proxy stands before azurite, notes what it is asked, and does to some
// requests what networks and busy services do.
type proxy struct {
	*httptest.Server
	pass http.Handler

	mu    sync.Mutex
	seen  []string
	fault func(kind string, n int) http.HandlerFunc // nil, or returning nil: no fault
	count map[string]int
}

func newProxy(t *testing.T, a *services.Azurite) *proxy {
	t.Helper()
	u, err := url.Parse(a.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{count: map[string]int{}}
	rp := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: u.Scheme, Host: u.Host})
	rp.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { panic(http.ErrAbortHandler) }
	p.pass = rp
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

// kind tells a request in a word or two.
func kind(r *http.Request) string {
	q := r.URL.Query()
	what := "blob"
	switch {
	case q.Get("restype") == "container":
		what = "container"
	case strings.Contains(r.URL.Path, "/manifests/"):
		what = "index"
	}
	if c := q.Get("comp"); c != "" {
		what = c
	}
	return r.Method + " " + what
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k := kind(r)
	p.mu.Lock()
	p.seen = append(p.seen, k)
	n := p.count[k]
	p.count[k]++
	fault := p.fault
	p.mu.Unlock()
	if fault != nil {
		if h := fault(k, n); h != nil {
			h(w, r)
			return
		}
	}
	p.pass.ServeHTTP(w, r)
}

// on sets what happens to the n-th request (from 0) of a kind from now on.
func (p *proxy) on(fault func(kind string, n int) http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.count, p.seen = fault, map[string]int{}, nil
}

// take returns what was asked since the last on or take, each kind with its
// number.
func (p *proxy) take() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	count := map[string]int{}
	for _, k := range p.seen {
		count[k]++
	}
	var out []string
	for k, n := range count {
		out = append(out, fmt.Sprint(n, " ", k))
	}
	slices.Sort(out)
	p.seen = nil
	return strings.Join(out, ", ")
}

// behind returns an empty store that is reached through the proxy.
func (p *proxy) behind(a *services.Azurite) azblob.Config {
	cfg := empty(a)
	cfg.AccountURL = p.URL + "/" + a.Account
	cfg.Backoff = time.Millisecond
	return cfg
}

// answer refuses a request as the service does.
func answer(status int, code string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.Header().Set("x-ms-error-code", code)
		w.Header().Set("x-ms-request-id", "request-17")
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		fmt.Fprintf(w, "\ufeff<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>%s</Code><Message>The words of the service.\nRequestId:request-17\nTime:2026-01-01T00:00:00Z</Message>"+
			"<AuthenticationErrorDetail>Signature is %s</AuthenticationErrorDetail></Error>", code, r.URL.Query().Get("sig"))
	}
}

// recorded is the whole answer to a request.
func (p *proxy) recorded(r *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	p.pass.ServeHTTP(rec, r)
	return rec
}

// how an answer breaks off.
type breaking int

const (
	reset     breaking = iota // the connection is reset
	ended                     // it ends early
	hangs                     // nothing comes any more
	lost                      // not even the head of the answer comes
	shortened                 // it says itself that it has fewer bytes
)

// broken passes a request on, and half of the answer's bytes back.
func (p *proxy) broken(how breaking) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rec := p.recorded(r)
		if how == shortened {
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()/2))
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
			return
		}
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		if how != lost {
			var whole bytes.Buffer
			res := rec.Result()
			if res.ContentLength < 0 {
				res.ContentLength = int64(rec.Body.Len())
			}
			_ = res.Write(&whole)
			head := whole.Len() - rec.Body.Len()
			_, _ = buf.Write(whole.Bytes()[:head+rec.Body.Len()/2])
			_ = buf.Flush()
		}
		switch how {
		case reset:
			time.Sleep(10 * time.Millisecond) // what is sent is read before the reset
			_ = conn.(*net.TCPConn).SetLinger(0)
		case hangs:
			_, _ = conn.Read(make([]byte, 1)) // until the client gives up
		}
	}
}
