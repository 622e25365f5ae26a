package azblob_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache/azblob"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

// assertion returns a CI service that hands out numbered tokens.
func assertion(n *atomic.Int32) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return fmt.Sprint("oidc-token-", n.Add(1)), nil }
}

// An entra is the part of Microsoft Entra ID that gives tokens: no service
// that one could run does it. Its tokens are what azurite checks.
type entra struct {
	*httptest.Server
	lifetime time.Duration

	mu     sync.Mutex
	grants []string // the credentials that were shown
	refuse string   // error_description, instead of a token
}

func newEntra(t *testing.T, lifetime time.Duration) *entra {
	e := &entra{lifetime: lifetime}
	e.Server = httptest.NewTLSServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *entra) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	out := map[string]any{}
	switch {
	case strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration"):
		out["issuer"] = e.URL + "/tenant-1/v2.0"
		out["authorization_endpoint"] = e.URL + "/tenant-1/oauth2/v2.0/authorize"
		out["token_endpoint"] = e.URL + "/tenant-1/oauth2/v2.0/token"
	case r.URL.Path != "/tenant-1/oauth2/v2.0/token", r.FormValue("client_id") != "client-1", !strings.Contains(r.FormValue("scope"), "https://storage.azure.com/.default"):
		w.WriteHeader(http.StatusBadRequest)
		out["error"], out["error_description"] = "invalid_request", fmt.Sprint("unexpected ", r.URL.Path, r.Form["client_id"], r.Form["scope"])
	case e.refuse != "":
		w.WriteHeader(http.StatusUnauthorized)
		out["error"], out["error_description"] = "invalid_client", e.refuse
	default:
		e.grants = append(e.grants, r.FormValue("client_assertion")+r.FormValue("client_secret"))
		now, grace := time.Now(), 10*time.Second // a token that is renewed in time is never refused
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
			"aud": "https://storage.azure.com", "iss": "https://sts.windows.net/tenant-1/", "jti": len(e.grants),
			"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(e.lifetime + grace).Unix(),
		}).SignedString([]byte("nobody looks"))
		if err != nil {
			panic(err)
		}
		out["access_token"], out["token_type"], out["expires_in"] = token, "Bearer", int(e.lifetime.Seconds())
	}
	_ = json.NewEncoder(w).Encode(out)
}

// shown returns the credentials that tokens were given for.
func (e *entra) shown() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.grants...)
}

// trusting sends requests to servers with the certificates of an azurite and
// an entra, and lists the Authorization headers sent to the first.
type trusting struct {
	rt   *http.Transport
	host string

	mu   sync.Mutex
	auth map[string]bool
}

func trust(t *testing.T, a *services.Azurite, e *entra) *trusting {
	t.Helper()
	pem, err := os.ReadFile(a.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	pool.AddCert(e.Certificate())
	rt := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(rt.CloseIdleConnections)
	host, _, _ := strings.Cut(strings.TrimPrefix(a.URL, "https://"), "/")
	return &trusting{rt: rt, host: host, auth: map[string]bool{}}
}

func (tr *trusting) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == tr.host {
		tr.mu.Lock()
		tr.auth[req.Header.Get("Authorization")] = true
		tr.mu.Unlock()
	}
	return tr.rt.RoundTrip(req)
}

// TestAssertion: the token of a CI service becomes one for the storage, and
// again whenever that runs out.
func TestAssertion(t *testing.T) {
	a, err := services.StartAzurite(services.AzuriteConfig{TLS: true})
	services.Use(t, a, err)
	for _, tt := range []struct {
		name     string
		lifetime time.Duration
		renewed  bool
	}{{"long", time.Hour, false}, {"short", time.Second, true}} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEntra(t, tt.lifetime)
			tr := trust(t, a, e)
			var n atomic.Int32
			cfg := empty(a)
			cfg.SecretAccessKey, cfg.Transport, cfg.AuthorityHost = "", tr, e.URL+"/"
			cfg.TenantID, cfg.ClientID, cfg.Assertion = "tenant-1", "client-1", assertion(&n)
			b := open(t, cfg)
			everything(t, b)
			if tt.renewed {
				time.Sleep(1100 * time.Millisecond) // the first token is over
				desc, data := remotecachetest.Blob(3, 1000)
				put(t, b, desc, data)
			}
			got := e.shown()
			if tt.renewed == (len(got) == 1) || len(got) == 0 || got[0] != "oidc-token-1" || tt.renewed && got[1] != "oidc-token-2" {
				t.Errorf("tokens are given for %q", got)
			}
			if len(tr.auth) != len(got) {
				t.Errorf("%d tokens used, %d given", len(tr.auth), len(got))
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		e := newEntra(t, time.Hour)
		e.refuse = "AADSTS700213: No matching federated identity record found for presented assertion subject 'repo:acme/app:pull_request'.\r\nTrace ID: 1234\r\n"
		var n atomic.Int32
		cfg := empty(a)
		cfg.SecretAccessKey, cfg.Transport, cfg.AuthorityHost = "", trust(t, a, e), e.URL+"/"
		cfg.TenantID, cfg.ClientID, cfg.Assertion = "tenant-1", "client-1", assertion(&n)
		_, err := open(t, cfg).LoadIndex(t.Context(), "main")
		if err == nil || !strings.Contains(err.Error(), "get a token: 401 invalid_client: AADSTS700213") || !strings.Contains(err.Error(), "repo:acme/app:pull_request") ||
			strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "oidc-token") || !strings.Contains(hint.Of(err), "federated credential") {
			t.Errorf("%v, hint %q", err, hint.Of(err))
		}
	})
	t.Run("no assertion", func(t *testing.T) {
		e := newEntra(t, time.Hour)
		cfg := empty(a)
		cfg.SecretAccessKey, cfg.Transport, cfg.AuthorityHost = "", trust(t, a, e), e.URL+"/"
		cfg.TenantID, cfg.ClientID = "tenant-1", "client-1"
		cfg.Assertion = func(context.Context) (string, error) { return "", errors.New("the CI service has none") }
		_, err := open(t, cfg).LoadIndex(t.Context(), "main")
		if err == nil || !strings.Contains(err.Error(), "the CI service has none") || hint.Of(err) != "" {
			t.Errorf("%v, hint %q", err, hint.Of(err))
		}
	})
	// Of the default chain: an application that the environment names.
	t.Run("environment", func(t *testing.T) {
		e := newEntra(t, time.Hour)
		for k, v := range map[string]string{"AZURE_TENANT_ID": "tenant-1", "AZURE_CLIENT_ID": "client-1", "AZURE_CLIENT_SECRET": "secret-1", "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential"} {
			t.Setenv(k, v)
		}
		cfg := empty(a)
		cfg.SecretAccessKey, cfg.Transport, cfg.AuthorityHost = "", trust(t, a, e), e.URL+"/"
		everything(t, open(t, cfg))
		if got := e.shown(); len(got) != 1 || got[0] != "secret-1" {
			t.Errorf("tokens are given for %q", got)
		}
	})
	t.Run("nothing in the environment", func(t *testing.T) {
		e := newEntra(t, time.Hour)
		t.Setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
		cfg := empty(a)
		cfg.SecretAccessKey, cfg.Transport, cfg.AuthorityHost = "", trust(t, a, e), e.URL+"/"
		_, err := open(t, cfg).LoadIndex(t.Context(), "main")
		if err == nil || !strings.Contains(err.Error(), "AZURE_TENANT_ID") || !strings.Contains(hint.Of(err), "azure/login") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, hint %q", err, hint.Of(err))
		}
	})
	t.Run("without TLS", func(t *testing.T) {
		var n atomic.Int32
		cfg := azblob.Config{AccountURL: "http://127.0.0.1:1/x", TenantID: "tenant-1", ClientID: "client-1", Assertion: assertion(&n)}
		_, err := open(t, cfg).LoadIndex(t.Context(), "main")
		if err == nil || !strings.Contains(hint.Of(err), "https") || n.Load() != 0 {
			t.Errorf("%v, hint %q, %d assertions", err, hint.Of(err), n.Load())
		}
	})
}
