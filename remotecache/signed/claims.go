package signed

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// An AllowedIdentity is a set of CI jobs that may sign: those that the issuer
// says all of Claims of.
type AllowedIdentity struct {
	Issuer string  // as in the documents: "https://token.actions.githubusercontent.com"
	Keys   *KeySet // the issuer's

	// Claims has at least one that says whose job it is, such as sub,
	// repository or project_path.
	Claims []ClaimPattern
}

// A ClaimPattern is what a claim is to be. In Pattern, * stands for any
// characters but '/', ** for any; the rest is literal.
type ClaimPattern struct {
	Claim   string
	Pattern string
}

// ParseClaimPattern reads "repository=acme/*".
func ParseClaimPattern(s string) (ClaimPattern, error) {
	claim, pattern, ok := strings.Cut(s, "=")
	if !ok || claim == "" || pattern == "" {
		return ClaimPattern{}, fmt.Errorf("identity %q is not <claim>=<pattern>, such as repository=acme/app", s)
	}
	return ClaimPattern{claim, pattern}, nil
}

// ownerClaims are those that say whose a job is. A branch, say, everybody can
// have: refs/heads/main alone would allow every repository of the service.
var ownerClaims = []string{
	"sub",
	"repository", "repository_id", "repository_owner", "repository_owner_id", "workflow_ref", "job_workflow_ref", "enterprise", "enterprise_id", // GitHub
	"project_path", "project_id", "namespace_path", "namespace_id", "ci_config_ref_uri", // GitLab
	"organization_slug", "organization_id", "pipeline_id", // Buildkite
	"oidc.circleci.com/project-id", "oidc.circleci.com/org-id", // CircleCI
}

type identityRule struct {
	issuer string
	keys   *KeySet
	claims []claimRule
}

type claimRule struct {
	ClaimPattern
	match *regexp.Regexp
}

func (a AllowedIdentity) compile() (*identityRule, error) {
	if a.Issuer == "" || a.Keys == nil {
		return nil, errors.New("an identity needs the issuer (verify-issuer=) and its keys (verify-jwks=)")
	}
	r := &identityRule{issuer: a.Issuer, keys: a.Keys}
	owned := false
	for _, c := range a.Claims {
		if c.Claim == "" || c.Pattern == "" {
			return nil, fmt.Errorf("identity %q of %s is not <claim>=<pattern>", c.Claim+"="+c.Pattern, a.Issuer)
		}
		r.claims = append(r.claims, claimRule{c, glob(c.Pattern)})
		owned = owned || slices.Contains(ownerClaims, c.Claim) && strings.Trim(c.Pattern, "*/:") != ""
	}
	if !owned {
		return nil, fmt.Errorf("the identities allowed would be everybody's at %s: say whose, such as repository=acme/app or sub=…", a.Issuer)
	}
	return r, nil
}

// glob makes a pattern a regular expression, which takes no longer than the
// text has characters.
func glob(pattern string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for pattern != "" {
		if rest, ok := strings.CutPrefix(pattern, "**"); ok {
			b.WriteString(`.*`)
			pattern = rest
			continue
		}
		if rest, ok := strings.CutPrefix(pattern, "*"); ok {
			b.WriteString(`[^/]*`)
			pattern = rest
			continue
		}
		n := strings.IndexByte(pattern, '*')
		if n < 0 {
			n = len(pattern)
		}
		b.WriteString(regexp.QuoteMeta(pattern[:n]))
		pattern = pattern[n:]
	}
	b.WriteString(`\z`)
	return regexp.MustCompile(b.String())
}

// checkIdentity judges a document that was to be for the audience, at the
// time of signing.
func (c *compiled) checkIdentity(doc, audience string, at time.Time) *PolicyError {
	var unverified jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(doc, &unverified); err != nil {
		return refuse(BadSignature, fmt.Errorf("the identity: %w", err))
	}
	nearest := refuse(UnknownKey, fmt.Errorf("an identity of the issuer %q signed it", unverified.Issuer))
	for _, r := range c.identities {
		if r.issuer != unverified.Issuer {
			continue
		}
		refused := r.check(doc, audience, at)
		if refused == nil {
			return nil
		}
		if slices.Index(order, refused.Reason) > slices.Index(order, nearest.Reason) {
			nearest = refused
		}
	}
	return nearest
}

func (r *identityRule) check(doc, audience string, at time.Time) *PolicyError {
	parser := jwt.NewParser(jwt.WithValidMethods([]string{algRSA, algEC, algEd}), jwt.WithStrictDecoding(),
		jwt.WithJSONNumber(), jwt.WithoutClaimsValidation()) // they are judged below, at another time than now
	claims := jwt.MapClaims{}
	if _, err := parser.ParseWithClaims(doc, claims, r.keyFor); err != nil {
		return refuse(BadSignature, fmt.Errorf("the identity: %w", err))
	}
	if err := checkRegistered(claims, r.issuer, audience, at); err != nil {
		return refuse(BadSignature, fmt.Errorf("the identity: %w", err))
	}
	for _, c := range r.claims {
		text, ok := claimText(claims[c.Claim])
		if !ok {
			return refuse(NotAllowed, fmt.Errorf("the identity has no %s, which is to be %s", c.Claim, c.Pattern))
		}
		if !c.match.MatchString(text) {
			return refuse(NotAllowed, fmt.Errorf("the identity has the %s %q, not %s", c.Claim, text, c.Pattern))
		}
	}
	return nil
}

// keyFor returns the keys for a document: of the kind that its algorithm
// takes, since a key is for one algorithm, whatever the document says.
func (r *identityRule) keyFor(t *jwt.Token) (any, error) {
	if _, ok := t.Header["crit"]; ok {
		return nil, errors.New(`it has a header "crit", which nobody here knows`)
	}
	id, _ := t.Header["kid"].(string)
	set := jwt.VerificationKeySet{}
	for _, k := range r.keys.find(id, t.Method.Alg()) {
		set.Keys = append(set.Keys, k)
	}
	if len(set.Keys) == 0 {
		return nil, fmt.Errorf("%s has no %s key %q in the JWKS", r.issuer, t.Method.Alg(), id)
	}
	return set, nil
}

// checkRegistered judges what every document says, for the time at which it
// signed.
func checkRegistered(c jwt.MapClaims, issuer, audience string, at time.Time) error {
	if iss, err := c.GetIssuer(); err != nil || iss != issuer {
		return fmt.Errorf("it is of the issuer %q", iss)
	}
	if aud, err := c.GetAudience(); err != nil || len(aud) != 1 || aud[0] != audience {
		return fmt.Errorf("it is for the audience %q, and so for something else", aud)
	}
	issued, err := c.GetIssuedAt()
	if err != nil || issued == nil {
		return errors.New("it does not say when it was issued")
	}
	expires, err := c.GetExpirationTime()
	if err != nil || expires == nil {
		return errors.New("it does not say when it expires")
	}
	begins, err := c.GetNotBefore()
	if err != nil {
		return errors.New("it does not say from when on it is good")
	}
	switch {
	case at.After(expires.Add(skew)):
		return fmt.Errorf("it had expired when it signed: %s, %s", stamp(expires.Time), stamp(at))
	case begins != nil && at.Before(begins.Add(-skew)):
		return fmt.Errorf("it was not good yet when it signed: %s, %s", stamp(begins.Time), stamp(at))
	case at.Sub(issued.Time).Abs() > skew:
		// It is asked for while signing. So nobody who signs can choose a time
		// that gets around Policy.MaxAge.
		return fmt.Errorf("it was not issued when it signed: %s, %s", stamp(issued.Time), stamp(at))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// claimText returns a claim as text; false for one that is not there, or is a
// list or an object.
func claimText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case json.Number:
		return v.String(), true
	}
	return "", false
}
