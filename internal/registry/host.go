package registry

import (
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
		known:  map[blobKey]struct{}{},
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
