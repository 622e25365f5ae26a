// Package registrytest starts real registries for tests.
//
//	tests of registry, source/image, remotecache ──Start──▶ docker-registry (Debian's package), stopped at the test's end
package registrytest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Config says what kind of registry to start. The zero value is one that
// anybody may read and write.
type Config struct {
	// User and Password are the only ones let in; "" means everybody.
	User, Password string

	// Tokens makes clients fetch a token first, as the public registries do.
	// Without User, everybody gets one for pulling and pushing.
	Tokens bool

	// ReadOnly names the repositories for which tokens never allow a push.
	ReadOnly []string
}

// A Server is a running registry.
type Server struct {
	Host string // "127.0.0.1:12345"
	Root string // where it stores

	mu     sync.Mutex
	scopes []string
}

// Scopes returns the scopes tokens were asked for, in order, as the queries
// had them.
func (s *Server) Scopes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.scopes)
}

// Start starts docker-registry on a free port of 127.0.0.1 and waits until it
// answers. The test is skipped when the program is not installed.
func Start(t testing.TB, cfg Config) *Server {
	t.Helper()
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed (Debian: apt install docker-registry)")
	}
	dir := t.TempDir()
	s := &Server{Root: filepath.Join(dir, "data")}
	auth := ""
	switch {
	case cfg.Tokens:
		auth = s.tokenAuth(t, dir, cfg)
	case cfg.User != "":
		auth = htpasswdAuth(t, dir, cfg)
	}
	file := filepath.Join(dir, "config.yml")
	for range 10 {
		s.Host = freeAddr(t)
		config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"+
			"storage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}\nhttp: {addr: %q}\n%s", s.Root, s.Host, auth)
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		if run(t, bin, file, s.Host) {
			return s
		}
	}
	t.Fatal("docker-registry finds no free port")
	return nil
}

// run starts the registry and reports whether it serves host; it does not if
// somebody else took the port in the meantime.
func run(t testing.TB, bin, file, host string) bool {
	var log bytes.Buffer
	cmd := exec.Command(bin, "serve", file)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-exited
	})
	for range 2000 {
		select {
		case <-exited:
			if strings.Contains(log.String(), "address already in use") {
				return false
			}
			t.Fatalf("docker-registry ended: %s", &log)
		case <-time.After(10 * time.Millisecond):
		}
		resp, err := http.Get("http://" + host + "/v2/")
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.Header.Get("Docker-Distribution-Api-Version") == "" {
			continue
		}
		select {
		case <-exited: // the answer was somebody else's
		case <-time.After(20 * time.Millisecond):
			return true
		}
	}
	t.Fatalf("docker-registry does not answer: %s", &log)
	return false
}

func freeAddr(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func htpasswdAuth(t testing.TB, dir string, cfg Config) string {
	bin, err := exec.LookPath("htpasswd")
	if err != nil {
		t.Skip("htpasswd is not installed (Debian: apt install apache2-utils)")
	}
	out, err := exec.Command(bin, "-Bbn", cfg.User, cfg.Password).Output()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "htpasswd")
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("auth: {htpasswd: {realm: test, path: %q}}\n", file)
}

const (
	tokenIssuer  = "registrytest"
	tokenService = "registry"
)

// tokenAuth starts a token server that signs what the registry trusts.
func (s *Server) tokenAuth(t testing.TB, dir string, cfg Config) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: tokenIssuer},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(dir, "token.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if cfg.User != "" && (user != cfg.User || password != cfg.Password) {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"wrong user or password"}]}`)
			return
		}
		scopes := r.URL.Query()["scope"]
		s.mu.Lock()
		s.scopes = append(s.scopes, strings.Join(scopes, " "))
		s.mu.Unlock()
		json.NewEncoder(w).Encode(map[string]any{"token": sign(key, der, user, grant(cfg, scopes)), "expires_in": 300})
	}))
	t.Cleanup(srv.Close)
	return fmt.Sprintf("auth: {token: {realm: %q, service: %s, issuer: %s, rootcertbundle: %q}}\n",
		srv.URL+"/token", tokenService, tokenIssuer, bundle)
}

type access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

func grant(cfg Config, scopes []string) []access {
	out := []access{}
	for _, scope := range strings.Fields(strings.Join(scopes, " ")) {
		part := strings.Split(scope, ":")
		if len(part) != 3 {
			continue
		}
		a := access{Type: part[0], Name: part[1]}
		for _, action := range strings.Split(part[2], ",") {
			if action == "pull" || !slices.Contains(cfg.ReadOnly, a.Name) {
				a.Actions = append(a.Actions, action)
			}
		}
		out = append(out, a)
	}
	return out
}

// sign makes a JSON web token (RFC 7519) signed with ES256.
func sign(key *ecdsa.PrivateKey, der []byte, user string, granted []access) string {
	enc := base64.RawURLEncoding
	part := func(v any) string {
		b, _ := json.Marshal(v)
		return enc.EncodeToString(b)
	}
	now := time.Now()
	body := part(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(der)}}) +
		"." + part(map[string]any{
		"iss": tokenIssuer, "aud": tokenService, "sub": user, "jti": now.String(), "access": granted,
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	})
	sum := sha256.Sum256([]byte(body))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		panic(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return body + "." + enc.EncodeToString(sig)
}
