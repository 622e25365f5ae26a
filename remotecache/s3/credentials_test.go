package s3_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/s3"
)

const (
	testRole  = "arn:aws:iam::123456789012:role/ci"
	testToken = "header.identity-of-the-job.signature"
)

// An STS gives the credentials of srv to whoever comes with testToken, since
// versitygw's own gives them only for tokens of a public issuer.
type STS struct {
	URL string

	mu       sync.Mutex
	calls    int
	lifetime time.Duration
	refusals int // answers 503 before it gives any
}

func newSTS(t *testing.T, srv *services.S3, lifetime time.Duration) *STS {
	s := &STS{lifetime: lifetime}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.calls++
		answer := func(status int, body string) {
			w.Header().Set("Content-Type", "text/xml")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
		switch {
		case s.calls <= s.refusals:
			answer(503, `<ErrorResponse><Error><Code>ServiceUnavailable</Code><Message>later</Message></Error></ErrorResponse>`)
		case r.FormValue("Action") != "AssumeRoleWithWebIdentity" || r.FormValue("RoleArn") != testRole || r.FormValue("RoleSessionName") == "":
			answer(400, `<ErrorResponse><Error><Code>ValidationError</Code><Message>what?</Message></Error></ErrorResponse>`)
		case r.FormValue("WebIdentityToken") != testToken:
			answer(400, `<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>no OpenIDConnect provider found</Message></Error></ErrorResponse>`)
		default:
			answer(200, fmt.Sprintf(`<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>
				<AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><Expiration>%s</Expiration>
				</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
				srv.AccessKeyID, srv.SecretAccessKey, time.Now().Add(s.lifetime).UTC().Format(time.RFC3339Nano)))
		}
	}))
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

func (s *STS) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

// unsigned is reach without credentials.
func unsigned(srv *services.S3) s3.Config {
	cfg := reach(srv)
	cfg.AccessKeyID, cfg.SecretAccessKey, cfg.RetryBackoff = "", "", time.Millisecond
	return cfg
}

func TestWebIdentity(t *testing.T) {
	srv := start(t, services.S3Config{})
	role := func(sts *STS, token string, err error) s3.Config {
		cfg := unsigned(srv)
		cfg.RoleARN, cfg.STSEndpointURL = testRole, sts.URL
		cfg.Token = func(context.Context) (string, error) { return token, err }
		return cfg
	}

	sts := newSTS(t, srv, time.Hour)
	b := open(t, role(sts, testToken, nil))
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { put(t, b, uint64(i), 1000) })
	}
	wg.Wait()
	if n := sts.count(); n != 1 {
		t.Errorf("the role was assumed %d times", n)
	}

	// Credentials that have less than five minutes left are not used.
	sts = newSTS(t, srv, 5*time.Minute+300*time.Millisecond)
	b = open(t, role(sts, testToken, nil))
	put(t, b, 100, 1000)
	time.Sleep(400 * time.Millisecond)
	put(t, b, 101, 1000)
	if n := sts.count(); n != 2 {
		t.Errorf("the role was assumed %d times, want 2", n)
	}

	sts = newSTS(t, srv, time.Hour)
	sts.refusals = 2
	put(t, open(t, role(sts, testToken, nil)), 102, 1000)
	if n := sts.count(); n != 3 {
		t.Errorf("asked %d times, want 3", n)
	}

	errNoToken := errors.New("no permission id-token")
	for _, tt := range []struct {
		token string
		err   error
		want  string
		calls int
	}{
		{"header.stranger.signature", nil, "assume " + testRole + ": 400 InvalidIdentityToken: no OpenIDConnect provider found", 1},
		{"", errNoToken, "get the identity token: no permission id-token", 0},
	} {
		sts := newSTS(t, srv, time.Hour)
		_, err := open(t, role(sts, tt.token, tt.err)).LoadIndex(t.Context(), "main")
		if err == nil || !strings.Contains(err.Error(), tt.want) || hint.Of(err) == "" || errors.Is(err, remotecache.ErrNotFound) {
			t.Errorf("%v (%s), want %q", err, hint.Of(err), tt.want)
		}
		if tt.err != nil && !errors.Is(err, tt.err) {
			t.Errorf("the cause is lost: %v", err)
		}
		if tt.token != "" && strings.Contains(err.Error(), tt.token) {
			t.Errorf("the token is told: %v", err)
		}
		if n := sts.count(); n != tt.calls {
			t.Errorf("%s: asked %d times, want %d", tt.want, n, tt.calls)
		}
	}
}

// TestDefaultChain: with the SDK's configuration come its ways to credentials;
// without it, the environment says nothing.
func TestDefaultChain(t *testing.T) {
	srv := start(t, services.S3Config{})
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	load := func() *aws.Config {
		t.Helper()
		cfg, err := config.LoadDefaultConfig(t.Context(), config.WithCredentialsCacheOptions(func(o *aws.CredentialsCacheOptions) {
			o.ExpiryWindow = 5 * time.Minute
		}))
		if err != nil {
			t.Fatal(err)
		}
		return &cfg
	}
	try := func(cfg s3.Config) error {
		_, err := open(t, cfg).List(t.Context())
		return err
	}
	cfg := unsigned(srv)
	cfg.AWS = load()
	if err := try(cfg); err == nil || !strings.Contains(err.Error(), "get credentials: ") || hint.Of(err) == "" {
		t.Errorf("without any credentials: %v (%s)", err, hint.Of(err))
	}

	tokenFile := filepath.Join(dir, "token")
	if err := os.WriteFile(tokenFile, []byte(testToken), 0o600); err != nil {
		t.Fatal(err)
	}
	sts := newSTS(t, srv, time.Hour)
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", tokenFile)
	t.Setenv("AWS_ROLE_ARN", testRole)
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
	t.Setenv("AWS_REGION", srv.Region)
	cfg.AWS, cfg.Region = load(), ""
	if err := try(cfg); err != nil || sts.count() != 1 {
		t.Errorf("web identity: %v, %d calls", err, sts.count())
	}

	t.Setenv("AWS_ACCESS_KEY_ID", "stranger")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "guess")
	cfg.AWS = load()
	if err := try(cfg); err == nil || !strings.Contains(hint.Of(err), "access_key_id") {
		t.Errorf("wrong keys of the environment: %v", err)
	}
	if err := try(reach(srv)); err != nil {
		t.Errorf("keys of the Config, while the environment has others: %v", err)
	}
	cfg.AccessKeyID, cfg.SecretAccessKey = srv.AccessKeyID, srv.SecretAccessKey
	if err := try(cfg); err != nil {
		t.Errorf("keys of both: %v", err)
	}
}

func TestConfig(t *testing.T) {
	token := func(context.Context) (string, error) { return "", nil }
	for _, tt := range []struct {
		name string
		cfg  s3.Config
		want string // "" for no error
	}{
		{"least, AWS", s3.Config{Bucket: "b", Region: "eu-west-1"}, ""},
		{"least, other", s3.Config{Bucket: "b", EndpointURL: "http://127.0.0.1:1"}, ""},
		{"no bucket", s3.Config{Region: "eu-west-1"}, "bucket="},
		{"no region", s3.Config{Bucket: "b"}, "region="},
		{"half of a key", s3.Config{Bucket: "b", Region: "r", AccessKeyID: "x"}, "together"},
		{"role without a token", s3.Config{Bucket: "b", Region: "r", RoleARN: testRole}, "token"},
		{"token without a role", s3.Config{Bucket: "b", Region: "r", Token: token}, "token"},
		{"no URL", s3.Config{Bucket: "b", EndpointURL: "minio:9000"}, "endpoint_url"},
		{"URL with a password", s3.Config{Bucket: "b", EndpointURL: "https://u:hidden@minio"}, "endpoint_url"},
		{"retry mode", s3.Config{Bucket: "b", Region: "r", RetryMode: "never"}, "retry_mode"},
	} {
		_, err := s3.New(tt.cfg)
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hidden")) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}
