package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/signed"
)

// identityTimeout bounds one question for a job's identity.
const identityTimeout = 30 * time.Second

// githubIssuer is who signs the identities of jobs of GitHub Actions.
const githubIssuer = "https://token.actions.githubusercontent.com"

// trust reads how the cache is signed and whose signature counts.
func (c *cacheOpener) trust(a *attrs, s *store, u use) error {
	policy, verify, err := c.policy(a)
	if err != nil {
		return err
	}
	var signers []signed.Signer
	if u == writing {
		if signers, err = c.signers(a); err != nil {
			return err
		}
	}
	if len(signers) > 0 && !verify {
		// What others saved is carried on under our signature: only what we
		// signed ourselves may be.
		keys := publicKeys(signers)
		if len(keys) == 0 {
			s.replaces = true
		} else {
			policy, verify = signed.Policy{Keys: keys}, true
		}
	}
	raw := s.backend
	if verify {
		if s.backend, err = signed.Verify(raw, policy); err != nil {
			return err
		}
		if all := s.indexes; all != nil {
			s.indexes = verifyAll(all, raw, policy)
		}
	}
	if len(signers) > 0 {
		if s.backend, err = signed.Sign(s.backend, signed.Config{Signers: signers}); err != nil {
			return err
		}
	}
	return nil
}

// signers reads sign-key and sign.
func (c *cacheOpener) signers(a *attrs) (out []signed.Signer, err error) {
	for _, file := range list(a.str("sign-key", "")) {
		data, err := c.keyData(file)
		if err != nil {
			return nil, fmt.Errorf("sign-key: %w", err)
		}
		key, err := signed.ParsePrivateKey(file, data)
		if err != nil {
			return nil, fmt.Errorf("sign-key: %w", err)
		}
		out = append(out, key)
	}
	switch v := a.str("sign", ""); v {
	case "":
	case "oidc":
		id, err := c.identity()
		if err != nil {
			return nil, fmt.Errorf("sign=oidc: %w", err)
		}
		out = append(out, id)
	default:
		return nil, fmt.Errorf("sign=%s is not oidc; a key is given with sign-key=FILE", v)
	}
	return out, nil
}

// keyData reads a key: of a file or, as env:NAME, of a variable.
func (c *cacheOpener) keyData(from string) ([]byte, error) {
	name, ok := strings.CutPrefix(from, "env:")
	if !ok {
		return os.ReadFile(from)
	}
	v, ok := c.w.getenv(name)
	if !ok || v == "" {
		return nil, fmt.Errorf("the variable %s is not set", name)
	}
	return []byte(v), nil
}

// identity returns what asks the CI service who this job is.
func (c *cacheOpener) identity() (signed.Identity, error) {
	return signed.GitHubIdentity(c.identities, c.w.env("ACTIONS_ID_TOKEN_REQUEST_URL"), c.w.env("ACTIONS_ID_TOKEN_REQUEST_TOKEN"))
}

// tokenFor returns a function that fetches this job's identity document for an
// audience, nil where the CI service gives none.
func (c *cacheOpener) tokenFor(audience string) func(context.Context) (string, error) {
	id, err := c.identity()
	if err != nil {
		return nil
	}
	return func(ctx context.Context) (string, error) { return id(ctx, audience) }
}

func publicKeys(signers []signed.Signer) (out []signed.PublicKey) {
	for _, s := range signers {
		if k, ok := s.(*signed.KeySigner); ok {
			out = append(out, k.PublicKey())
		}
	}
	return out
}

// policy reads whose signature an index needs.
func (c *cacheOpener) policy(a *attrs) (p signed.Policy, verify bool, err error) {
	for _, file := range list(a.str("verify-key", "")) {
		data, err := c.keyData(file)
		if err != nil {
			return p, false, fmt.Errorf("verify-key: %w", err)
		}
		keys, err := signed.ParsePublicKeys(file, data)
		if err != nil {
			return p, false, fmt.Errorf("verify-key: %w", err)
		}
		p.Keys = append(p.Keys, keys...)
	}
	p.MaxAge = a.duration("verify-max-age", 0)
	jwks, claims := a.str("verify-jwks", ""), list(a.str("verify-identity", ""))
	issuer := a.str("verify-issuer", githubIssuer)
	switch {
	case jwks == "" && len(claims) == 0:
		return p, len(p.Keys) > 0, nil
	case jwks == "":
		return p, false, hint.With(errors.New("verify-identity needs verify-jwks=FILE"),
			"the issuer's keys are at "+issuer+"/.well-known/jwks")
	case len(claims) == 0:
		return p, false, errors.New("verify-jwks needs verify-identity=<claim>=<pattern>, such as repository=acme/app: the issuer signs for everybody")
	}
	data, err := os.ReadFile(jwks)
	if err != nil {
		return p, false, fmt.Errorf("verify-jwks: %w", err)
	}
	keys, err := signed.ParseKeySet(jwks, data)
	if err != nil {
		return p, false, fmt.Errorf("verify-jwks: %w", err)
	}
	allowed := signed.AllowedIdentity{Issuer: issuer, Keys: keys}
	for _, text := range claims {
		claim, err := signed.ParseClaimPattern(text)
		if err != nil {
			return p, false, fmt.Errorf("verify-identity: %w", err)
		}
		allowed.Claims = append(allowed.Claims, claim)
	}
	p.Identities = []signed.AllowedIdentity{allowed}
	return p, true, nil
}

// list splits a list within an attribute, whose commas are taken.
func list(s string) (out []string) {
	for _, part := range strings.Split(s, ";") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// verifyAll returns load with every index that the policy refuses left out,
// and the error telling of it.
func verifyAll(load func(context.Context, string) ([]*remotecache.Index, error), raw remotecache.Backend, p signed.Policy) func(context.Context, string) ([]*remotecache.Index, error) {
	return func(ctx context.Context, ref string) ([]*remotecache.Index, error) {
		all, err := load(ctx, ref)
		errs := []error{err}
		var out []*remotecache.Index
		for _, idx := range all {
			v, err := signed.Verify(loaded{raw, idx}, p)
			if err == nil {
				idx, err = v.LoadIndex(ctx, ref)
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			out = append(out, idx)
		}
		return out, errors.Join(errs...)
	}
}

// loaded is a backend whose index is loaded already.
type loaded struct {
	remotecache.Backend
	idx *remotecache.Index
}

func (l loaded) LoadIndex(context.Context, string) (*remotecache.Index, error) { return l.idx, nil }

// aliased saves an Index under more refs than the one it is told.
type aliased struct {
	remotecache.Backend
	more []string
}

func (b aliased) SaveIndex(ctx context.Context, ref string, idx *remotecache.Index) error {
	if err := b.Backend.SaveIndex(ctx, ref, idx); err != nil {
		return err
	}
	for _, r := range b.more {
		again := idx.Clone()
		again.Version = ""
		if err := b.Backend.SaveIndex(ctx, r, again); err != nil {
			return err
		}
	}
	return nil
}
