package registry

import (
	"context"
	"net"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
)

// A dialect is how a host is spoken to.
type dialect struct {
	scheme string
	lax    bool // certificates are not checked
}

// A host is what is known of one registry.
type host struct {
	name string // as references write it
	addr string // where its API is

	mu        sync.Mutex
	dialects  []dialect // to try, in order; only one is left once one worked
	challenge *transport.Challenge
	creds     map[string]authn.AuthConfig // by repository
	tokens    map[string]*token           // by scopes
	known     map[blobKey]struct{}        // blobs seen in a repository
	sending   map[blobKey]chan struct{}   // blobs on their way; closed when that is over
}

type blobKey struct {
	repo   string
	digest digest.Digest
}

func newHost(name string, insecure bool) *host {
	h := &host{
		name: name, addr: name,
		creds:  map[string]authn.AuthConfig{},
		tokens: map[string]*token{},
		known:  map[blobKey]struct{}{}, sending: map[blobKey]chan struct{}{},
	}
	if name == "docker.io" {
		h.addr = "registry-1.docker.io"
	}
	switch {
	case insecure:
		h.dialects = []dialect{{"https", true}, {"http", true}}
	case isLocal(name):
		h.dialects = []dialect{{"http", true}, {"https", true}}
	default:
		h.dialects = []dialect{{"https", false}}
	}
	return h
}

func isLocal(hostport string) bool {
	name := hostport
	if n, _, err := net.SplitHostPort(hostport); err == nil {
		name = n
	}
	name = strings.Trim(name, "[]")
	ip := net.ParseIP(name)
	return name == "localhost" || strings.HasSuffix(name, ".localhost") || ip != nil && ip.IsLoopback()
}

// dialect returns how to speak to the host, and whether that is known to work.
func (h *host) dialect() (d dialect, settled bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dialects[0], len(h.dialects) == 1
}

// settle notes that d worked.
func (h *host) settle(d dialect) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.dialects) > 1 && h.dialects[0] == d {
		h.dialects = h.dialects[:1]
	}
}

// reject notes that d is not what the host speaks. It reports whether there
// is another dialect to try.
func (h *host) reject(d dialect) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.dialects) > 1 && h.dialects[0] == d {
		h.dialects = h.dialects[1:]
	}
	return h.dialects[0] != d
}

func (h *host) hasSeen(repo string, d digest.Digest) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.known[blobKey{repo, d}]
	return ok
}

// claim makes the caller the one who sends a blob, until it calls done; nil
// when another one is sending it, who is waited for, or has sent it.
func (h *host) claim(ctx context.Context, repo string, d digest.Digest) (done func(), err error) {
	k := blobKey{repo, d}
	for {
		h.mu.Lock()
		if _, ok := h.known[k]; ok {
			h.mu.Unlock()
			return nil, nil
		}
		busy, ok := h.sending[k]
		if !ok {
			busy = make(chan struct{})
			h.sending[k] = busy
			h.mu.Unlock()
			return func() {
				h.mu.Lock()
				defer h.mu.Unlock()
				delete(h.sending, k)
				close(busy)
			}, nil
		}
		h.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (h *host) saw(repo string, d digest.Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.known[blobKey{repo, d}] = struct{}{}
}

func (h *host) forget(repo string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k := range h.known {
		if k.repo == repo {
			delete(h.known, k)
		}
	}
}
