package signed_test

import (
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/signed"
)

func TestAllowedIdentity(t *testing.T) {
	set := keySet(t, issuers()[1].jwk(t, ""))
	for _, tt := range []struct {
		name   string
		issuer string
		set    *signed.KeySet
		claims []string
		ok     bool
	}{
		{"repository", issuerURL, set, []string{"repository=acme/app"}, true},
		{"owner", issuerURL, set, []string{"repository_owner=acme", "ref=refs/heads/main"}, true},
		{"everybody", issuerURL, set, nil, false},
		{"everybody, on a branch", issuerURL, set, []string{"ref=refs/heads/main"}, false},
		{"everybody, in stars", issuerURL, set, []string{"repository=*/*", "ref=refs/heads/main"}, false},
		{"no issuer", "", set, []string{"repository=acme/app"}, false},
		{"no keys", issuerURL, nil, []string{"repository=acme/app"}, false},
	} {
		p := allow(tt.set, tt.claims...)
		p.Identities[0].Issuer = tt.issuer
		if _, err := signed.Verify(remotecache.NewMemory(), p); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for _, s := range []string{"", "repository", "=x", "repository="} {
		if _, err := signed.ParseClaimPattern(s); err == nil {
			t.Errorf("%q is taken for a pattern", s)
		}
	}
	p := allow(set, "sub=a")
	p.Identities[0].Claims = append(p.Identities[0].Claims, signed.ClaimPattern{Claim: "ref"})
	if _, err := signed.Verify(remotecache.NewMemory(), p); err == nil {
		t.Error("an empty pattern")
	}
}

func TestClaimPatterns(t *testing.T) {
	es := issuers()[1]
	set := keySet(t, es.jwk(t, ""))
	for _, tt := range []struct {
		pattern, text string
		want          bool
	}{
		{"refs/heads/main", "refs/heads/main", true},
		{"refs/heads/main", "refs/heads/mainx", false},
		{"refs/heads/main", "xrefs/heads/main", false},
		{"refs/heads/*", "refs/heads/main", true},
		{"refs/heads/*", "refs/heads/a/b", false},
		{"refs/heads/**", "refs/heads/a/b", true},
		{"refs/*/main", "refs/heads/main", true},
		{"refs/*/main", "refs/main", false},
		{"**/main", "refs/heads/main", true},
		{"v1.*", "v1x2", false},
		{"v1.*", "v1.2", true},
		{"[a-z]+", "abc", false},
		{"[a-z]+", "[a-z]+", true},
		{"a?c", "abc", false},
		{"**", "a\nb", true},
	} {
		m := saved(t, es.identity(func(tok *jwt.Token) { tok.Claims.(jwt.MapClaims)["ref"] = tt.text }))
		_, err := verify(t, m, allow(set, "repository=acme/app", "ref="+tt.pattern)).LoadIndex(t.Context(), "main")
		if (err == nil) != tt.want {
			t.Errorf("%s, %q: %v", tt.pattern, tt.text, err)
		}
	}
}

func TestKeySets(t *testing.T) {
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	es := issuers()[1]
	for name, doc := range map[string]string{
		"nothing": "", "no object": "[]", "no keys": "{}", "none to verify with": `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`,
		"a short RSA key":           `{"keys":[` + issuer{"x", nil, short}.jwk(t, "") + `]}`,
		"a modulus that is none":    `{"keys":[{"kty":"RSA","n":"!","e":"AQAB"}]}`,
		"an exponent of 1":          `{"keys":[` + strings.Replace(issuers()[0].jwk(t, ""), `"AQAB"`, `"AQ"`, 1) + `]}`,
		"a point off the curve":     `{"keys":[{"kty":"EC","crv":"P-256","x":"` + b64(make([]byte, 32)) + `","y":"` + b64(make([]byte, 32)) + `"}]}`,
		"a coordinate cut short":    `{"keys":[{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}]}`,
		"an Ed25519 key cut short":  `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA"}]}`,
		"a key for another purpose": `{"keys":[` + es.jwk(t, `,"use":"enc"`) + `]}`,
		"another operation":         `{"keys":[` + es.jwk(t, `,"key_ops":["sign"]`) + `]}`,
		"another algorithm":         `{"keys":[` + es.jwk(t, `,"alg":"ES384"`) + `]}`,
	} {
		if _, err := signed.ParseKeySet("jwks.json", []byte(doc)); err == nil || !strings.Contains(err.Error(), "jwks.json") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
