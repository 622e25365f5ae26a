package azblob

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/retry"
	"github.com/mayfly-build/mayfly/internal/stall"
	"github.com/mayfly-build/mayfly/remotecache"
)

// auth is what we know of the credential.
type auth struct {
	kind    authKind
	account string
	place   string     // the account's URL without scheme and SAS
	sas     url.Values // of AccountURL
	secrets []string   // never to be shown
}

type authKind int

const (
	byToken authKind = iota
	byKey
	bySAS
)

func authOf(cfg Config) (auth, error) {
	u, err := url.Parse(cfg.AccountURL)
	if err != nil { // its text is the URL
		return auth{}, errors.New("the azblob cache's account_url is no URL")
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return auth{}, fmt.Errorf("the azblob cache's account_url %s://%s is no https URL", u.Scheme, u.Host)
	}
	label, _, _ := strings.Cut(u.Hostname(), ".")
	a := auth{account: or(cfg.AccountName, label), place: strings.TrimSuffix(u.Host+u.Path, "/"), sas: u.Query()}
	signed := a.sas.Get("sig")
	for _, s := range []string{signed, url.QueryEscape(signed), cfg.SecretAccessKey} {
		if s != "" {
			a.secrets = append(a.secrets, s)
		}
	}
	switch {
	case cfg.SecretAccessKey != "" && signed != "":
		return auth{}, errors.New("the azblob cache has both a secret_access_key and a SAS in its account_url: give one of them")
	case cfg.SecretAccessKey != "":
		a.kind = byKey
	case signed != "":
		a.kind = bySAS
	case cfg.Assertion != nil && (cfg.TenantID == "" || cfg.ClientID == ""):
		return auth{}, hint.With(errors.New("the azblob cache has an OIDC token, but not the application to use it for"),
			"give client_id and tenant_id of the application with the federated credential")
	}
	return a, nil
}

// redact returns text without secrets.
func (a auth) redact(text string) string {
	for _, s := range a.secrets {
		text = strings.ReplaceAll(text, s, "REDACTED")
	}
	return text
}

// clientOf returns what sends the requests. Neither the SDK nor net/http
// notices a body that just stops, hence stall.
func clientOf(cfg Config) *http.Client {
	rt := cfg.Transport
	if rt == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConns = 0 // no limit but the one for each host
		t.MaxIdleConnsPerHost = probes
		t.DisableCompression = true  // digests and ranges are of the bytes as stored
		t.WriteBufferSize = 64 << 10 // blobs: fewer, larger writes than with net/http's 4 KiB
		t.ReadBufferSize = 64 << 10
		rt = t
	}
	return &http.Client{Transport: stall.Transport(rt, cfg.Stall)}
}

// connect makes the client of the container.
func (b *Backend) connect() (*container.Client, error) {
	var c *service.Client
	opts := &service.ClientOptions{ClientOptions: b.options()}
	key, err := b.key()
	switch {
	case err != nil:
	case key != nil:
		c, err = service.NewClientWithSharedKeyCredential(b.cfg.AccountURL, key, opts)
	case b.auth.kind == bySAS:
		c, err = service.NewClientWithNoCredential(b.cfg.AccountURL, opts)
	default:
		var token azcore.TokenCredential
		if token, err = b.token(); err == nil {
			c, err = service.NewClient(b.cfg.AccountURL, token, opts)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("azblob cache %s: %w", b.auth.place, err)
	}
	return c.NewContainerClient(b.cfg.Container), nil
}

func (b *Backend) key() (*service.SharedKeyCredential, error) {
	if b.auth.kind != byKey {
		return nil, nil
	}
	key, err := service.NewSharedKeyCredential(b.auth.account, b.cfg.SecretAccessKey)
	if err != nil { // its text quotes the key's bytes
		return nil, errors.New("secret_access_key is not base64")
	}
	return key, nil
}

func (b *Backend) token() (azcore.TokenCredential, error) {
	opts := b.options()
	host := b.cfg.AuthorityHost
	if b.cfg.Assertion == nil {
		opts.Cloud.ActiveDirectoryAuthorityHost = host
		return azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{
			ClientOptions: opts, TenantID: b.cfg.TenantID, DisableInstanceDiscovery: host != "",
		})
	}
	// Never empty: azidentity would look into the environment.
	opts.Cloud.ActiveDirectoryAuthorityHost = or(host, cloud.AzurePublic.ActiveDirectoryAuthorityHost)
	return azidentity.NewClientAssertionCredential(b.cfg.TenantID, b.cfg.ClientID, b.cfg.Assertion,
		&azidentity.ClientAssertionCredentialOptions{ClientOptions: opts, DisableInstanceDiscovery: host != ""})
}

// options has the SDK send requests our way, and try them again as
// internal/retry would.
func (b *Backend) options() policy.ClientOptions {
	again := int32(b.cfg.Attempts - 1)
	if again == 0 {
		again = -1 // 0 would mean the SDK's own choice
	}
	return policy.ClientOptions{
		Transport:        b.http,
		Telemetry:        policy.TelemetryOptions{ApplicationID: "mayfly"},
		PerCallPolicies:  []policy.Policy{policyFunc(beginOperation)},
		PerRetryPolicies: []policy.Policy{policyFunc(b.try)},
		Retry: policy.RetryOptions{
			// The pauses are 1, 3, 7, 15 times as long; retry.Policy's are 1, 2, 4,
			// 8 times the Backoff.
			MaxRetries: again, RetryDelay: b.cfg.Backoff / 2, MaxRetryDelay: time.Minute,
			ShouldRetry: func(resp *http.Response, err error) bool {
				if err != nil {
					passing, _ := retry.Passing(err)
					return passing
				}
				return retry.Status(resp.StatusCode) && resp.Header.Get(noMore) == ""
			},
		},
	}
}

type policyFunc func(*policy.Request) (*http.Response, error)

// Do implements policy.Policy.
func (f policyFunc) Do(req *policy.Request) (*http.Response, error) { return f(req) }

// tries counts the tries of one operation of the SDK.
type tries struct{ n int }

func beginOperation(req *policy.Request) (*http.Response, error) {
	req.SetOperationValue(&tries{})
	return req.Next()
}

// noMore marks an answer that is not to be tried again. The SDK's retries ask
// nobody who knows how many there have been.
const noMore = "X-Mayfly-Final"

// try is one try of an operation.
func (b *Backend) try(req *policy.Request) (*http.Response, error) {
	resp, err := req.Next()
	fault := err
	if err == nil {
		if !retry.Status(resp.StatusCode) {
			return resp, nil
		}
		fault = &busy{resp.StatusCode, retry.After(resp.Header.Get("Retry-After"), time.Now())}
	}
	op := &tries{}
	req.OperationValue(&op)
	op.n++
	switch again, _ := b.policy.Again(op.n, fault); {
	case again:
		b.faults.Note(b.hide(fault))
	case err != nil:
		err = remotecache.Tried(err)
	default:
		resp.Header.Set(noMore, "true")
	}
	return resp, err
}

// busy is an answer that may be another one later.
type busy struct {
	status int
	after  time.Duration
}

func (e *busy) Error() string                { return fmt.Sprintf("%d %s", e.status, http.StatusText(e.status)) }
func (e *busy) Retry() (bool, time.Duration) { return true, e.after }
