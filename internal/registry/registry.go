// Package registry speaks to OCI distribution registries.
//
//	source/image ──Resolve, Blob──▶ ┌────────┐
//	remotecache  ──Blob, PutBlob──▶ │ Client │ ──▶ registry, token server, blob CDN
//	exporter     ──Put…──────────▶ └────────┘
//
// In: references and descriptors. Out: bytes as the registry holds them. The
// package adds what every user of a registry needs: credentials and tokens,
// retries, resumed downloads, errors that say what to do. It knows nothing of
// what a manifest means.
//
// Round trips are what a cached build waits for, so nothing is asked twice: no
// ping before the first request, no HEAD before a GET, one token for each
// scope, and no question about a blob already seen in its repository.
package registry

import (
	"crypto/tls"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/mayfly-build/mayfly/internal/retry"
)

// Config says how to speak to registries. The zero value is ready for use.
type Config struct {
	// Keychain has the credentials; nil means those of $DOCKER_CONFIG,
	// credential helpers included. It is asked only once a registry wants
	// to know who we are.
	Keychain authn.Keychain

	// Insecure names the hosts ("registry.lan:5000") whose certificate is not
	// verified and that may speak plain HTTP. The local machine is one of
	// them without being named.
	Insecure []string

	// Transport sends the requests; nil means one of the client's own, with
	// connections shared by all requests to a host. Certificates of insecure
	// hosts are accepted only when it is nil or an *http.Transport.
	Transport http.RoundTripper

	UserAgent string        // "" means "mayfly"
	Attempts  int           // tries of one request in all; 0 means 5
	Backoff   time.Duration // pause before the second try, doubled for each further one; 0 means 200ms
	Stall     time.Duration // a transfer that moves no byte for this long is broken off and tried again; 0 means 60s
}

// Stats counts what a Client did since New.
type Stats struct {
	Requests int64 // HTTP requests sent, those for tokens and repeated ones included
	Tokens   int64 // of them, requests for a token
	Retries  int64 // of them, repeats after a fault
	BytesIn  int64 // bytes of response bodies read
	BytesOut int64 // bytes of request bodies sent
}

// A Client speaks to any number of registries. It holds their tokens and
// connections. All methods may be called from several goroutines at once.
type Client struct {
	cfg    Config
	policy retry.Policy
	*shared
}

// shared is what a Client has in common with those that With made of it.
type shared struct {
	insecure map[string]bool
	verified http.RoundTripper // checks certificates
	lax      http.RoundTripper // does not

	stats struct {
		requests, tokens, retries, in, out atomic.Int64
	}

	mu    sync.Mutex
	hosts map[string]*host
}

// New returns a client. Nothing is sent before it is first used; CloseIdle
// gives its connections back.
func New(cfg Config) *Client {
	if cfg.Keychain == nil {
		cfg.Keychain = authn.DefaultKeychain
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "mayfly"
	}
	if cfg.Stall <= 0 {
		cfg.Stall = time.Minute
	}
	c := &Client{cfg: cfg, shared: &shared{insecure: map[string]bool{}, hosts: map[string]*host{}}}
	for _, h := range cfg.Insecure {
		c.insecure[h] = true
	}
	c.policy = retry.Policy{Attempts: cfg.Attempts, Backoff: cfg.Backoff, OnRetry: func() { c.stats.retries.Add(1) }}
	c.verified, c.lax = transports(cfg.Transport)
	return c
}

// With returns c with another patience: a transfer that moves no byte for
// stall is broken off, and what is tried again is p's business; zero fields
// are c's. Connections, tokens, counts, and what is known of blobs are those
// of c.
func (c *Client) With(stall time.Duration, p retry.Policy) *Client {
	out := *c
	if stall > 0 {
		out.cfg.Stall = stall
	}
	if p.Attempts <= 0 {
		p.Attempts = c.policy.Attempts
	}
	if p.Backoff <= 0 {
		p.Backoff = c.policy.Backoff
	}
	p.OnRetry = c.policy.OnRetry
	out.policy = p
	return &out
}

func transports(base http.RoundTripper) (verified, lax http.RoundTripper) {
	if base != nil {
		t, ok := base.(*http.Transport)
		if !ok {
			return base, base
		}
		return t, withoutVerify(t)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns = 0 // no limit but the one for each host
	t.MaxIdleConnsPerHost = 64
	t.DisableCompression = true  // digests and ranges are of the bytes as stored
	t.WriteBufferSize = 64 << 10 // blobs: fewer, larger writes than with net/http's 4 KiB
	t.ReadBufferSize = 64 << 10
	return t, withoutVerify(t)
}

func withoutVerify(t *http.Transport) *http.Transport {
	t = t.Clone()
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{}
	}
	t.TLSClientConfig.InsecureSkipVerify = true
	return t
}

// Stats returns the counts so far.
func (c *Client) Stats() Stats {
	return Stats{
		Requests: c.stats.requests.Load(),
		Tokens:   c.stats.tokens.Load(),
		Retries:  c.stats.retries.Load(),
		BytesIn:  c.stats.in.Load(),
		BytesOut: c.stats.out.Load(),
	}
}

// CloseIdle closes the connections that no request uses.
func (c *Client) CloseIdle() {
	for _, rt := range []http.RoundTripper{c.verified, c.lax} {
		if t, ok := rt.(interface{ CloseIdleConnections() }); ok {
			t.CloseIdleConnections()
		}
	}
}

func (c *Client) host(name string) *host {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.hosts[name]
	if h == nil {
		h = newHost(name, c.insecure[name])
		c.hosts[name] = h
	}
	return h
}
