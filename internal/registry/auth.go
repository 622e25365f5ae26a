package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/mayfly-build/mayfly/internal/hint"
)

// A token is one answer of a token server, or the wait for it.
type token struct {
	done    chan struct{} // closed once value or err is set
	value   string
	err     error
	expires time.Time
}

// defaultTokenLife is what the token protocol says of a token without
// expires_in.
const defaultTokenLife = time.Minute

// tokenMargin is kept between a token's last use and its end: a request that
// starts with a token must also be checked before it ends.
const tokenMargin = 10 * time.Second

func (t *token) usable(now time.Time) bool {
	select {
	case <-t.done:
		return t.err == nil && now.Before(t.expires)
	default:
		return true // being fetched
	}
}

// resource is what a keychain is asked about.
type resource struct{ full, host string }

func (r resource) String() string      { return r.full }
func (r resource) RegistryStr() string { return r.host }

func pullScope(repo string) string { return "repository:" + repo + ":pull" }
func pushScope(repo string) string { return "repository:" + repo + ":pull,push" }

// authorization returns the header for a request that needs the scopes, ""
// while the host has not asked for any. The first scope names the repository
// whose credentials are used.
func (c *Client) authorization(ctx context.Context, h *host, scopes []string) (string, error) {
	h.mu.Lock()
	ch := h.challenge
	h.mu.Unlock()
	if ch == nil {
		return "", nil
	}
	repo := repoOf(scopes)
	cred, err := c.credential(ctx, h, repo)
	if err != nil {
		return "", err
	}
	if strings.EqualFold(ch.Scheme, "basic") {
		switch {
		case cred.Auth != "":
			return "Basic " + cred.Auth, nil
		case cred.Username != "" || cred.Password != "":
			return "Basic " + base64.StdEncoding.EncodeToString([]byte(cred.Username+":"+cred.Password)), nil
		}
		return "", nil
	}
	if cred.RegistryToken != "" {
		return "Bearer " + cred.RegistryToken, nil
	}
	tok, err := c.token(ctx, h, ch, cred, scopes)
	if err != nil {
		return "", err
	}
	return "Bearer " + tok, nil
}

func repoOf(scopes []string) string {
	if len(scopes) == 0 {
		return ""
	}
	return strings.Split(scopes[0], ":")[1]
}

func (c *Client) credential(ctx context.Context, h *host, repo string) (authn.AuthConfig, error) {
	h.mu.Lock()
	cred, ok := h.creds[repo]
	h.mu.Unlock()
	if ok {
		return cred, nil
	}
	r := resource{host: h.name}
	if h.name == "docker.io" {
		r.host = name.DefaultRegistry // the name credentials are filed under
	}
	r.full = r.host
	if repo != "" {
		r.full += "/" + repo
	}
	auth, err := authn.Resolve(ctx, c.cfg.Keychain, r)
	if err == nil {
		var p *authn.AuthConfig
		if p, err = authn.Authorization(ctx, auth); err == nil {
			cred = *p
		}
	}
	if err != nil {
		return cred, hint.With(fmt.Errorf("read the credentials of %s: %w", h.name, err),
			"check config.json in $DOCKER_CONFIG (or ~/.docker) and that the credential helper it names is installed")
	}
	h.mu.Lock()
	h.creds[repo] = cred
	h.mu.Unlock()
	return cred, nil
}

// token returns a token that covers the scopes; concurrent callers share one
// request.
func (c *Client) token(ctx context.Context, h *host, ch *transport.Challenge, cred authn.AuthConfig, scopes []string) (string, error) {
	for {
		h.mu.Lock()
		key, tok := h.findToken(scopes)
		mine := tok == nil
		if mine {
			tok = &token{done: make(chan struct{})}
			h.tokens[key] = tok
		}
		h.mu.Unlock()
		if mine {
			tok.value, tok.expires, tok.err = c.fetchToken(ctx, h, ch, cred, scopes)
			if tok.err != nil {
				h.dropToken(tok)
			}
			close(tok.done)
		}
		select {
		case <-tok.done:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
		if !mine && tok.err != nil && ctx.Err() == nil &&
			(errors.Is(tok.err, context.Canceled) || errors.Is(tok.err, context.DeadlineExceeded)) {
			continue // the one who fetched it gave up; we did not
		}
		return tok.value, tok.err
	}
}

// findToken returns the key of the scopes and a token that covers them, nil
// when there is none. The caller holds h.mu.
func (h *host) findToken(scopes []string) (string, *token) {
	now := time.Now()
	key := strings.Join(scopes, " ")
	if t := h.tokens[key]; t != nil && t.usable(now) {
		return key, t
	}
	for k, t := range h.tokens {
		if t.usable(now) && covers(strings.Fields(k), scopes) {
			return k, t
		}
	}
	return key, nil
}

// covers reports whether a token for have is good for want. Push implies pull
// here because pushScope asks for both.
func covers(have, want []string) bool {
	for _, w := range want {
		if slices.Contains(have, w) {
			continue
		}
		repo, pull := strings.CutSuffix(w, ":pull")
		if !pull || !slices.Contains(have, repo+":pull,push") {
			return false
		}
	}
	return true
}

func (h *host) dropToken(tok *token) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, t := range h.tokens {
		if t == tok {
			delete(h.tokens, k)
		}
	}
}

// refused notes that the host answered 401: the challenge is kept, and the
// header, if it was a token, not used again.
func (h *host) refused(ch *transport.Challenge, header string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ch != nil {
		h.challenge = ch
	}
	value, isToken := strings.CutPrefix(header, "Bearer ")
	for k, t := range h.tokens {
		select {
		case <-t.done:
			if isToken && t.value == value {
				delete(h.tokens, k)
			}
		default:
		}
	}
}

func (c *Client) fetchToken(ctx context.Context, h *host, ch *transport.Challenge, cred authn.AuthConfig, scopes []string) (string, time.Time, error) {
	var tok *transport.Token
	var asked time.Time
	err := c.retry(ctx, func() error {
		d, _ := h.dialect()
		challenge := *ch
		challenge.Insecure = d.scheme == "http"
		rt := &meter{c: c, rt: c.transport(d), token: true}
		asked = time.Now()
		var err error
		tok, err = transport.Exchange(ctx, h.tokenRegistry(ch), authn.FromConfig(cred), rt, scopes, &challenge)
		return tokenError(err)
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("get a token for %s: %w", h.name, err)
	}
	value := tok.AccessToken
	if value == "" {
		value = tok.Token
	}
	life := defaultTokenLife
	if tok.ExpiresIn > 0 {
		life = time.Duration(tok.ExpiresIn) * time.Second
	}
	return value, asked.Add(max(life-tokenMargin, life/2)), nil
}

// tokenRegistry is the registry on whose behalf a token is fetched.
// go-containerregistry refuses token servers at private addresses, so that a
// registry on the Internet cannot make us call inside. A registry that is
// itself local, private or marked insecure may well have its token server
// beside it: it vouches for it.
func (h *host) tokenRegistry(ch *transport.Challenge) name.Registry {
	own, _ := name.NewRegistry(h.addr)
	d, _ := h.dialect()
	if u, err := url.Parse(ch.Parameters["realm"]); err == nil && (d.lax || isPrivate(h.addr)) {
		if beside, err := name.NewRegistry(u.Host); err == nil {
			return beside
		}
	}
	return own
}

// tokenError turns an error of go-containerregistry into ours, without what a
// token server may have put into its answer.
func tokenError(err error) error {
	if err == nil {
		return nil
	}
	if te, ok := errors.AsType[*transport.Error](err); ok {
		e := &Error{Status: te.StatusCode}
		if len(te.Errors) > 0 {
			e.Code, e.Message = oneLine(string(te.Errors[0].Code), 80), oneLine(te.Errors[0].Message, 300)
		}
		return e
	}
	if strings.HasPrefix(err.Error(), "no token in bearer response") {
		return errors.New("the token server's answer has no token")
	}
	return plain(err)
}

// challengeOf returns what a 401 asks for, nil when it is nothing we know.
func challengeOf(resp *http.Response) *transport.Challenge {
	var found *transport.Challenge
	for _, v := range resp.Header.Values("WWW-Authenticate") {
		for _, ch := range parseChallenges(v) {
			bearer := strings.EqualFold(ch.Scheme, "bearer") && ch.Parameters["realm"] != ""
			if bearer {
				return &ch
			}
			if strings.EqualFold(ch.Scheme, "basic") && found == nil {
				found = &ch
			}
		}
	}
	return found
}
