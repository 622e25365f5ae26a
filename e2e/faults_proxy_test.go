package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// A front stands before all servers of a cache, for one build:
//
//	mayfly ──▶ toxiproxy (bytes) ──▶ front (requests, answers) ──▶ the servers
//
// The URLs in what the servers say lead back to it.
type front struct {
	addr    string // where clients connect to
	servers []*url.URL
	fault   fault
	proxy   http.Handler

	hits, answers atomic.Int64 // requests and answers that the fault is about
	mu            sync.Mutex
	indexes       map[string]bool // paths from which an index, and no blob, is read, though their names do not say so

	closers []func()
}

// newFront starts a front that does to a build what the fault says.
func newFront(servers []string, f fault) (*front, error) {
	p := &front{fault: f, indexes: map[string]bool{}}
	for _, s := range servers {
		u, err := url.Parse(s)
		if err != nil {
			return nil, err
		}
		p.servers = append(p.servers, u)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	p.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			to := p.server(r.In.URL.Path)
			r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host
			r.Out.Host = r.In.Host // which signatures cover
		},
		Transport: transport, ModifyResponse: p.answer,
		ErrorLog: log.New(io.Discard, "", 0),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
			panic(http.ErrAbortHandler) // the client sees what we see: a connection that ends
		},
	}
	srv := httptest.NewUnstartedServer(p)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Start()
	p.addr = srv.Listener.Addr().String()
	p.closers = append(p.closers, func() {
		srv.CloseClientConnections()
		srv.Close()
		transport.CloseIdleConnections()
	})
	if len(f.toxics) > 0 {
		if err := p.poison(); err != nil {
			p.close()
			return nil, err
		}
	}
	return p, nil
}

func (p *front) close() {
	for i := len(p.closers) - 1; i >= 0; i-- {
		p.closers[i]()
	}
}

// server returns the server that a path is of.
func (p *front) server(path string) (best *url.URL) {
	for _, s := range p.servers {
		if strings.HasPrefix(path, s.Path) && (best == nil || len(s.Path) > len(best.Path)) {
			best = s
		}
	}
	if best == nil {
		best = p.servers[0]
	}
	return best
}

// A toxic is what toxiproxy does to the bytes of a connection.
type toxic struct {
	Type       string           `json:"type"`
	Stream     string           `json:"stream"` // upstream, downstream
	Attributes map[string]int64 `json:"attributes"`
}

// poison puts toxiproxy before the front.
func (p *front) poison() error {
	api := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	tp := toxiproxy.NewProxy(api, "cache", "127.0.0.1:0", p.addr)
	if err := tp.Start(); err != nil {
		return err
	}
	p.closers = append(p.closers, tp.Stop)
	for _, t := range p.fault.toxics {
		text, err := json.Marshal(t)
		if err != nil {
			return err
		}
		if _, err := tp.Toxics.AddToxicJson(bytes.NewReader(text)); err != nil {
			return fmt.Errorf("toxic %s: %w", text, err)
		}
	}
	p.addr = tp.Listen
	if p.fault.passes {
		p.fault.on = func(n int64, _ http.ResponseWriter, _ *http.Request) bool {
			if n == passing {
				tp.Toxics.ResetToxics(context.Background())
			}
			return false
		}
	}
	return nil
}

// passing is how many requests, or connections, a fault that passes spoils.
const passing = 3

// ServeHTTP has the fault answer, or a server.
func (p *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.fault.on != nil && p.applies(r) && p.fault.on(p.hits.Add(1), w, r) {
		return
	}
	if key := ghaKey(r); key != "" {
		r = r.WithContext(context.WithValue(r.Context(), keyOf{}, key))
	}
	p.proxy.ServeHTTP(w, r)
}

// applies reports whether the fault is about a request.
func (p *front) applies(r *http.Request) bool {
	switch p.fault.where {
	case writes:
		return isWrite(r)
	case reads:
		return !isWrite(r)
	case blobs:
		return !isWrite(r) && p.isBlob(r)
	case indexes:
		return !isWrite(r) && p.isIndex(r)
	case storage:
		return strings.HasPrefix(r.URL.Path, "/devstoreaccount1/")
	}
	return true
}

func isWrite(r *http.Request) bool {
	return r.Method != http.MethodGet && r.Method != http.MethodHead && !strings.HasSuffix(r.URL.Path, "/GetCacheEntryDownloadURL")
}

// isBlob reports whether a request is for the bytes of a blob.
func (p *front) isBlob(r *http.Request) bool {
	path := r.URL.Path
	switch {
	case r.Method != http.MethodGet:
		return false
	case strings.Contains(path, "/artifactcache/artifacts/"), strings.HasPrefix(path, "/devstoreaccount1/cache-"):
		return !p.isIndex(r)
	}
	return strings.Contains(path, "/blobs/") && !p.isIndex(r)
}

// isIndex reports whether a request is for the bytes of an index.
func (p *front) isIndex(r *http.Request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return r.Method == http.MethodGet && (strings.Contains(r.URL.Path, "/manifests/") || p.indexes[r.URL.Path])
}

type keyOf struct{}

// ghaKey returns the key that a request looks up in GitHub's cache.
func ghaKey(r *http.Request) string {
	switch {
	case strings.HasSuffix(r.URL.Path, "/GetCacheEntryDownloadURL"):
		body, err := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		var in struct{ Key string }
		if err != nil || json.Unmarshal(body, &in) != nil {
			return ""
		}
		return in.Key
	case strings.HasSuffix(r.URL.Path, "/_apis/artifactcache/cache"):
		return r.URL.Query().Get("keys")
	}
	return ""
}

// answer changes what a server says: the addresses in it, and what the fault
// changes.
func (p *front) answer(resp *http.Response) error {
	r := resp.Request
	switch path := r.URL.Path; {
	case strings.Contains(path, "/v2/") && strings.Contains(path, "/manifests/"):
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		p.noteConfig(path, body)
	case strings.Contains(path, "/twirp/"), strings.Contains(path, "/artifactcache/cache"):
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		for _, s := range p.servers {
			body = bytes.ReplaceAll(body, []byte(s.Host), []byte(r.Host))
		}
		if key, _ := r.Context().Value(keyOf{}).(string); strings.HasPrefix(key, "index-") {
			p.noteIndex(body)
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		resp.ContentLength = int64(len(body))
		resp.Header.Set("Content-Length", fmt.Sprint(len(body)))
	}
	if p.fault.answer != nil && p.applies(r) {
		p.fault.answer(p.answers.Add(1), resp)
	}
	return nil
}

// noteConfig notes where the config of a registry's manifest is: with a cache,
// that is its index.
func (p *front) noteConfig(path string, body []byte) {
	var m struct{ Config struct{ Digest string } }
	if json.Unmarshal(body, &m) == nil && m.Config.Digest != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.indexes[path[:strings.Index(path, "/manifests/")]+"/blobs/"+m.Config.Digest] = true
	}
}

func (p *front) noteIndex(body []byte) {
	var out struct {
		V2 string `json:"signed_download_url"`
		V1 string `json:"archiveLocation"`
	}
	if json.Unmarshal(body, &out) != nil {
		return
	}
	if u, err := url.Parse(out.V2 + out.V1); err == nil && u.Path != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.indexes[u.Path] = true
	}
}
