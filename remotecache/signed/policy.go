package signed

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-build/mayfly/remotecache"
)

// A Reason is why an Index is refused, in a few words.
type Reason string

// The reasons. Those further down were found later: what comes before was in
// order.
const (
	Unsigned     Reason = "it is not signed"
	Malformed    Reason = "its signature is damaged"
	UnknownKey   Reason = "no key or issuer that is allowed has signed it"
	BadSignature Reason = "its signature does not match"
	NotAllowed   Reason = "who signed it is not allowed to"
	OtherRef     Reason = "it was signed for another ref"
	OtherContent Reason = "it was changed after it was signed"
	TooOld       Reason = "it was signed too long ago"
	InFuture     Reason = "it was signed in the future"
)

func (r Reason) hint() string {
	switch r {
	case Unsigned:
		return "sign it where it is written, with sign-key= or sign=oidc of --cache-to"
	case UnknownKey, NotAllowed:
		return "allow who signed it with verify-key= or verify-identity=, or have the cache written by somebody who is"
	case InFuture:
		return "set this machine's clock, or that of the one that signed"
	}
	return ""
}

// A PolicyError says why an Index is refused. It is a
// remotecache.ErrUntrusted: the build runs without that cache.
type PolicyError struct {
	Ref    string
	Reason Reason

	// Version is that of the Index that was refused. A job that replaces the
	// Index saves with it; see remotecache.Backend.SaveIndex.
	Version string

	Err error // the particulars; nil when there are none
}

// Error implements error.
func (e *PolicyError) Error() string {
	text := fmt.Sprintf("cache index %q is not trusted: %s", e.Ref, e.Reason)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// RefusedVersion returns Version: an Exporter asks for it.
func (e *PolicyError) RefusedVersion() string { return e.Version }

// Unwrap returns remotecache.ErrUntrusted and the particulars.
func (e *PolicyError) Unwrap() []error {
	if e.Err == nil {
		return []error{remotecache.ErrUntrusted}
	}
	return []error{remotecache.ErrUntrusted, e.Err}
}

func refuse(r Reason, err error) *PolicyError { return &PolicyError{Reason: r, Err: err} }

// A Policy says whose signature is needed: that of any one of Keys or
// Identities.
type Policy struct {
	Keys       []PublicKey
	Identities []AllowedIdentity
	MaxAge     time.Duration    // since signing; 0 means any
	Now        func() time.Time // nil means time.Now
}

// skew is how far clocks of the machine that signs, of the issuer and of this
// machine may be apart.
const skew = 5 * time.Minute

// compiled is a Policy ready for use.
type compiled struct {
	keys       []PublicKey
	identities []*identityRule
	maxAge     time.Duration
	now        func() time.Time
}

func (p Policy) compile() (*compiled, error) {
	c := &compiled{keys: p.Keys, maxAge: p.MaxAge, now: p.Now}
	if c.now == nil {
		c.now = time.Now
	}
	if len(p.Keys) == 0 && len(p.Identities) == 0 {
		return nil, errors.New("no key and no identity is allowed")
	}
	if p.MaxAge < 0 {
		return nil, fmt.Errorf("the age %s is negative", p.MaxAge)
	}
	for _, a := range p.Identities {
		r, err := a.compile()
		if err != nil {
			return nil, err
		}
		c.identities = append(c.identities, r)
	}
	return c, nil
}

// check judges an envelope for a canonical Index that was loaded as ref, and
// removes from the Index what was not signed. It returns nil when all is well.
func (c *compiled) check(data []byte, ref string, idx *remotecache.Index) *PolicyError {
	env, p, err := decodeEnvelope(data)
	if err != nil {
		return refuse(Malformed, err)
	}
	by, refused := c.signer(env, p)
	if refused != nil {
		return refused
	}
	if p.Ref != ref {
		return refuse(OtherRef, fmt.Errorf("%s signed it for %q", by, p.Ref))
	}
	is, err := newPayload(ref, idx, p.Time, p.Signers)
	if err != nil {
		return refuse(OtherContent, err)
	}
	if subtle.ConstantTimeCompare([]byte(is.Index), []byte(p.Index)) != 1 {
		return refuse(OtherContent, fmt.Errorf("%s signed %s, this is %s", by, p.Index, is.Index))
	}
	if is.Details != p.Details {
		withoutDetails(idx)
	}
	now := c.now()
	switch age := now.Sub(p.Time); {
	case age < -skew:
		return refuse(InFuture, fmt.Errorf("%s signed it on %s", by, p.Time.Format(time.RFC3339)))
	case c.maxAge > 0 && age > c.maxAge:
		return refuse(TooOld, fmt.Errorf("%s signed it on %s, more than %s ago", by, p.Time.Format(time.RFC3339), c.maxAge))
	}
	return nil
}

// order has the reasons why a signature may not do, the worst first.
var order = []Reason{UnknownKey, BadSignature, NotAllowed}

// signer returns who of those that are allowed has signed. When nobody has, it
// says what is wrong with the signature that came closest.
func (c *compiled) signer(env *envelope, p *payload) (string, *PolicyError) {
	var nearest *PolicyError
	var others []string
	for _, s := range env.Signatures {
		refused := c.checkSignature(s, env.message(), p)
		if refused == nil {
			return s.KeyID, nil
		}
		if refused.Reason == UnknownKey {
			others = append(others, refused.Err.Error())
		}
		if nearest == nil || slices.Index(order, refused.Reason) > slices.Index(order, nearest.Reason) {
			nearest = refused
		}
	}
	if nearest.Reason == UnknownKey {
		nearest = refuse(UnknownKey, errors.New(strings.Join(others, "; ")))
	}
	return "", nearest
}

func (c *compiled) checkSignature(s Signature, message []byte, p *payload) *PolicyError {
	if !slices.Contains(p.Signers, s.KeyID) {
		return refuse(BadSignature, fmt.Errorf("%q is not among those who signed", s.KeyID))
	}
	if s.JWT != "" {
		return c.checkIdentity(s.JWT, Audience(message), p.Time)
	}
	for _, k := range c.keys {
		switch {
		case k.id != s.KeyID:
		case k.verify(message, s.Sig):
			return nil
		default:
			return refuse(BadSignature, fmt.Errorf("it is not by key %s", s.KeyID))
		}
	}
	return refuse(UnknownKey, fmt.Errorf("key %q signed it", s.KeyID))
}
