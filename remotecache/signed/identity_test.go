package signed_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/signed"
)

const issuerURL = "https://token.actions.githubusercontent.com"

// An issuer issues identity documents.
type issuer struct {
	kid    string
	method jwt.SigningMethod
	key    crypto.Signer
}

// issuers returns one for each algorithm; RSA keys take long to make.
var issuers = sync.OnceValue(func() []issuer {
	rsaKey, err1 := rsa.GenerateKey(rand.Reader, 2048)
	ecKey, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, edKey, err3 := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(err1, err2, err3); err != nil {
		panic(err)
	}
	return []issuer{{"rsa-1", jwt.SigningMethodRS256, rsaKey}, {"ec-1", jwt.SigningMethodES256, ecKey}, {"ed-1", jwt.SigningMethodEdDSA, edKey}}
})

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwk returns the issuer's public key as JSON, with more fields.
func (i issuer) jwk(t testing.TB, more string) string {
	t.Helper()
	switch k := i.key.Public().(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf(`{"kty":"RSA","kid":%q,"n":%q,"e":%q%s}`, i.kid, b64(k.N.Bytes()), b64(big.NewInt(int64(k.E)).Bytes()), more)
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":%q,"x":%q,"y":%q%s}`, i.kid, b64(point[1:33]), b64(point[33:]), more)
	case ed25519.PublicKey:
		return fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","kid":%q,"x":%q%s}`, i.kid, b64(k), more)
	}
	t.Fatalf("%T", i.key)
	return ""
}

func keySet(t testing.TB, jwks ...string) *signed.KeySet {
	t.Helper()
	set, err := signed.ParseKeySet("jwks.json", []byte(`{"keys":[`+strings.Join(jwks, ",")+`]}`))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// job returns what GitHub says of a job of acme/app on main.
func job(audience string) jwt.MapClaims {
	return jwt.MapClaims{
		"iss": issuerURL, "aud": audience, "jti": "8a5c", "sub": "repo:acme/app:ref:refs/heads/main",
		"repository": "acme/app", "repository_owner": "acme", "ref": "refs/heads/main", "ref_protected": "true", "run_attempt": 1,
		"workflow_ref": "acme/app/.github/workflows/release.yml@refs/heads/main",
		"nbf":          noon().Add(-10 * time.Minute).Unix(), "iat": noon().Unix(), "exp": noon().Add(5 * time.Minute).Unix(),
	}
}

// identity issues documents that edit may change.
func (i issuer) identity(edit func(*jwt.Token)) signed.Identity {
	return func(_ context.Context, audience string) (string, error) {
		tok := jwt.NewWithClaims(i.method, job(audience))
		tok.Header["kid"] = i.kid
		if edit != nil {
			edit(tok)
		}
		return tok.SignedString(i.key)
	}
}

func allow(set *signed.KeySet, claims ...string) signed.Policy {
	a := signed.AllowedIdentity{Issuer: issuerURL, Keys: set}
	for _, c := range claims {
		p, err := signed.ParseClaimPattern(c)
		if err != nil {
			panic(err)
		}
		a.Claims = append(a.Claims, p)
	}
	return signed.Policy{Identities: []signed.AllowedIdentity{a}}
}

// saved returns a cache that is signed.
func saved(t testing.TB, s ...signed.Signer) *remotecache.Memory {
	t.Helper()
	m := remotecache.NewMemory()
	save(t, sign(t, m, s...), "main", fill(t, m, 1))
	return m
}

func TestIdentity(t *testing.T) {
	all := issuers()
	set := keySet(t, all[0].jwk(t, `,"use":"sig","alg":"RS256"`), all[1].jwk(t, ""), all[2].jwk(t, `,"key_ops":["verify"]`),
		`{"kty":"RSA","use":"enc","kid":"x"}`, `{"kty":"EC","crv":"P-521","kid":"y"}`)
	for _, i := range all {
		t.Run(i.method.Alg(), func(t *testing.T) {
			m := saved(t, i.identity(nil))
			load(t, verify(t, m, allow(set, "repository=acme/app")), "main")
			load(t, verify(t, m, allow(set, "sub=repo:acme/*:ref:**", "ref=refs/heads/*", "ref_protected=true", "run_attempt=1")), "main")
			refused(t, verify(t, m, allow(set, "repository=acme/other")), "main", signed.NotAllowed)
			refused(t, verify(t, m, keys(newKey(t, "ed25519"))), "main", signed.UnknownKey)
			// Without a kid, every key of the kind is tried.
			load(t, verify(t, saved(t, i.identity(func(tok *jwt.Token) { delete(tok.Header, "kid") })), allow(set, "repository=acme/app")), "main")
		})
	}
	t.Run("beside a key", func(t *testing.T) {
		key := newKey(t, "p256")
		m := saved(t, key, all[1].identity(nil))
		load(t, verify(t, m, allow(set, "repository=acme/app")), "main")
		load(t, verify(t, m, keys(key)), "main")
		p := allow(set, "repository=acme/other")
		p.Keys = keys(newKey(t, "p256")).Keys
		refused(t, verify(t, m, p), "main", signed.NotAllowed)
		p.Identities = append(p.Identities, allow(set, "repository=acme/app").Identities...)
		load(t, verify(t, m, p), "main")
	})
}

// TestIdentityRefused has documents that must not do.
func TestIdentityRefused(t *testing.T) {
	all := issuers()
	rs, es, ed := all[0], all[1], all[2]
	set := keySet(t, rs.jwk(t, ""), es.jwk(t, ""), ed.jwk(t, ""))
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	claim := func(name string, value any) func(*jwt.Token) {
		return func(tok *jwt.Token) { tok.Claims.(jwt.MapClaims)[name] = value }
	}
	without := func(name string) func(*jwt.Token) {
		return func(tok *jwt.Token) { delete(tok.Claims.(jwt.MapClaims), name) }
	}
	at := func(d time.Duration) int64 { return noon().Add(d).Unix() }
	secret := func(method jwt.SigningMethod, key any) signed.Identity {
		return func(_ context.Context, audience string) (string, error) {
			tok := jwt.NewWithClaims(method, job(audience))
			tok.Header["kid"] = rs.kid
			return tok.SignedString(key)
		}
	}
	rsaPEM := encodePublic(t, rs.key.Public())
	for _, tt := range []struct {
		name string
		id   signed.Identity
		want signed.Reason
	}{
		{"another issuer", es.identity(claim("iss", "https://gitlab.com")), signed.UnknownKey},
		{"no issuer", es.identity(without("iss")), signed.UnknownKey},
		{"the issuer's name, another key", issuer{"ec-1", jwt.SigningMethodES256, stranger}.identity(nil), signed.BadSignature},
		{"a key that is not in the set", issuer{"ec-2", jwt.SigningMethodES256, stranger}.identity(nil), signed.BadSignature},
		{"a key by the ID of another", issuer{"ec-1", jwt.SigningMethodRS256, rs.key}.identity(nil), signed.BadSignature},
		{"alg=none", secret(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType), signed.BadSignature},
		{"HS256 with the public key", secret(jwt.SigningMethodHS256, rsaPEM), signed.BadSignature},
		{"HS256 with the modulus", secret(jwt.SigningMethodHS256, rs.key.Public().(*rsa.PublicKey).N.Bytes()), signed.BadSignature},
		{"PS256", issuer{"rsa-1", jwt.SigningMethodPS256, rs.key}.identity(nil), signed.BadSignature},
		{"crit", es.identity(func(tok *jwt.Token) { tok.Header["crit"] = []string{"b64"} }), signed.BadSignature},
		{"expired", es.identity(claim("exp", at(-time.Hour))), signed.BadSignature},
		{"just expired", es.identity(claim("exp", at(-6*time.Minute))), signed.BadSignature},
		{"no expiry", es.identity(without("exp")), signed.BadSignature},
		{"expiry is text", es.identity(claim("exp", "never")), signed.BadSignature},
		{"not yet", es.identity(claim("nbf", at(time.Hour))), signed.BadSignature},
		{"issued later", es.identity(claim("iat", at(time.Hour))), signed.BadSignature},
		{"issued before, and long good", es.identity(func(tok *jwt.Token) {
			claim("iat", at(-24*time.Hour))(tok)
			claim("exp", at(24*time.Hour))(tok)
		}), signed.BadSignature},
		{"no time of issue", es.identity(without("iat")), signed.BadSignature},
		{"another repository", es.identity(claim("repository", "eve/app")), signed.NotAllowed},
		{"a repository below", es.identity(claim("repository", "acme/app/x")), signed.NotAllowed},
		{"no repository", es.identity(without("repository")), signed.NotAllowed},
		{"a list of repositories", es.identity(claim("repository", []string{"acme/app"})), signed.NotAllowed},
		{"another branch", es.identity(claim("ref", "refs/heads/evil/main")), signed.NotAllowed},
		{"a line more", es.identity(claim("ref", "refs/heads/main\nx")), signed.NotAllowed},
		{"clocks apart", es.identity(func(tok *jwt.Token) {
			claim("iat", at(4*time.Minute))(tok)
			claim("nbf", at(4*time.Minute))(tok)
		}), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := verify(t, saved(t, unchecked(tt.id)), allow(set, "repository=acme/*", "ref=refs/heads/main"))
			if tt.want == "" {
				load(t, v, "main")
				return
			}
			pe := refused(t, v, "main", tt.want)
			if strings.Contains(pe.Error(), "eyJ") {
				t.Errorf("the error shows a document: %v", pe)
			}
		})
	}
}

// TestIdentityOfAnotherIndex takes the document of one Index for another: its
// audience does not fit.
func TestIdentityOfAnotherIndex(t *testing.T) {
	es := issuers()[1]
	var first string
	_ = saved(t, signed.Identity(func(ctx context.Context, audience string) (string, error) {
		var err error
		first, err = es.identity(nil)(ctx, audience)
		return first, err
	}))
	m := remotecache.NewMemory()
	idx := fill(t, m, 2)
	again := func(context.Context, string) (string, error) { return first, nil }
	err := sign(t, m, signed.Identity(again)).SaveIndex(t.Context(), "main", idx)
	if err == nil || !strings.Contains(err.Error(), "audience") || hint.Of(err) == "" || strings.Contains(err.Error(), "eyJ") {
		t.Errorf("an audience that was not asked for: %v, hint %q", err, hint.Of(err))
	}
	policy := allow(keySet(t, es.jwk(t, "")), "repository=acme/app")
	save(t, sign(t, m, unchecked(again)), "main", idx)
	refused(t, verify(t, m, policy), "main", signed.BadSignature)
	// One that is good for something else as well.
	both := func(ctx context.Context, audience string) (string, error) {
		return es.identity(func(tok *jwt.Token) { tok.Claims.(jwt.MapClaims)["aud"] = []string{audience, "sts.amazonaws.com"} })(ctx, audience)
	}
	save(t, sign(t, m, unchecked(both)), "main", idx)
	refused(t, verify(t, m, policy), "main", signed.BadSignature)
	// A document that is none.
	for _, doc := range []string{"x", "a.b.c", "..", "eyJhbGciOiJFUzI1NiJ9.e30."} {
		save(t, sign(t, m, unchecked(func(context.Context, string) (string, error) { return doc, nil })), "main", idx)
		_, err := verify(t, m, policy).LoadIndex(t.Context(), "main")
		if !errors.Is(err, remotecache.ErrUntrusted) {
			t.Errorf("%s: %v", doc, err)
		}
	}
}

// unchecked is an Identity that does not look at what it is given.
type unchecked signed.Identity

func (unchecked) KeyID() string { return "oidc" }
func (u unchecked) Sign(ctx context.Context, message []byte) (signed.Signature, error) {
	doc, err := u(ctx, signed.Audience(message))
	return signed.Signature{JWT: doc}, err
}

// TestGitHubIdentity has an issuer behind GitHub's interface, which fails once.
func TestGitHubIdentity(t *testing.T) {
	es := issuers()[1]
	var calls atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		q := r.URL.Query()
		if r.Header.Get("Authorization") != "Bearer s3cret" || q.Get("api-version") != "2.0" || !strings.HasPrefix(r.URL.Path, "/runner/") {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		doc, err := es.identity(nil)(r.Context(), q.Get("audience"))
		if err != nil {
			t.Error(err)
		}
		if err := json.NewEncoder(w).Encode(struct {
			Count int    `json:"count"`
			Value string `json:"value"`
		}{len(doc), doc}); err != nil {
			t.Error(err)
		}
	}))
	defer srv.Close()
	url := srv.URL + "/runner/idtoken?api-version=2.0"
	id, err := signed.GitHubIdentity(srv.Client(), url, "s3cret")
	if err != nil {
		t.Fatal(err)
	}
	load(t, verify(t, saved(t, id), allow(keySet(t, es.jwk(t, "")), "repository=acme/app")), "main")
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls", n)
	}

	m := remotecache.NewMemory()
	fails := func(url, token, want string) {
		t.Helper()
		id, err := signed.GitHubIdentity(nil, url, token)
		if err == nil {
			err = sign(t, m, id).SaveIndex(t.Context(), "main", fill(t, m, 1))
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "t0ken") || strings.Contains(err.Error(), "audience=") {
			t.Errorf("%v, want %q and nothing secret", err, want)
		}
	}
	fails(url, "t0ken", "401")
	fails("", "", "may not ask")
	fails("t0ken", "t0ken", "no URL")
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"value":{"t0ken":1}}`) }))
	fails(other.URL, "t0ken", "no document")
	other.Close()
	fails(other.URL, "t0ken", "refused")
	if _, err := signed.GitHubIdentity(nil, "", ""); !strings.Contains(hint.Of(err), "id-token: write") {
		t.Errorf("hint %q", hint.Of(err))
	}
}
