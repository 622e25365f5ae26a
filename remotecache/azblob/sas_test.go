package azblob_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/azblob"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

// withSAS returns cfg with a SAS instead of the key.
func withSAS(t *testing.T, a *services.Azurite, cfg azblob.Config, may sas.AccountPermissions, expiry time.Time) azblob.Config {
	t.Helper()
	key, err := service.NewSharedKeyCredential(a.Account, a.Key)
	if err != nil {
		t.Fatal(err)
	}
	q, err := sas.AccountSignatureValues{
		Protocol: sas.ProtocolHTTPSandHTTP, StartTime: expiry.Add(-24 * time.Hour).UTC(), ExpiryTime: expiry.UTC(),
		Permissions: may.String(), ResourceTypes: (&sas.AccountResourceTypes{Container: true, Object: true}).String(),
	}.SignWithSharedKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cfg.SecretAccessKey, cfg.AccountName = "", ""
	cfg.AccountURL += "?" + q.Encode()
	return cfg
}

// silent wants an error without the signature of a SAS.
func silent(t *testing.T, cfg azblob.Config, err error) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	u, perr := url.Parse(cfg.AccountURL)
	if perr != nil {
		t.Fatal(perr)
	}
	sig := u.Query().Get("sig")
	if text := err.Error() + hint.Of(err); sig == "" || strings.Contains(text, sig) || strings.Contains(text, url.QueryEscape(sig)) || strings.Contains(text, "sig=") {
		t.Errorf("the signature is shown: %s", text)
	}
}

func testSAS(t *testing.T, a *services.Azurite) {
	cfg := empty(a)
	old, oldData := remotecachetest.Blob(1, 100)
	put(t, open(t, cfg), old, oldData)
	tomorrow := time.Now().Add(24 * time.Hour)

	t.Run("all", func(t *testing.T) {
		all := sas.AccountPermissions{Read: true, Write: true, Create: true, Delete: true, List: true}
		b := open(t, withSAS(t, a, empty(a), all, tomorrow))
		if err := b.Writable(); err != nil {
			t.Error(err)
		}
		everything(t, b)
	})
	t.Run("read", func(t *testing.T) {
		cfg := withSAS(t, a, cfg, sas.AccountPermissions{Read: true}, tomorrow)
		b := open(t, cfg)
		if err := b.Writable(); !errors.Is(err, remotecache.ErrReadOnly) || !strings.Contains(hint.Of(err), "sp=rcwl") {
			t.Errorf("Writable: %v, hint %q", err, hint.Of(err))
		}
		if got, err := read(t, b, old); err != nil || !bytes.Equal(got, oldData) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		desc, data := remotecachetest.Blob(2, 100)
		err := b.Put(t.Context(), desc, bytes.NewReader(data))
		if !errors.Is(err, remotecache.ErrReadOnly) || !strings.Contains(hint.Of(err), "Storage Blob Data Contributor") {
			t.Errorf("%v, hint %q", err, hint.Of(err))
		}
		silent(t, cfg, err)
		// Without the right to list, blobs are asked after one by one.
		many := []ocispec.Descriptor{old}
		for i := range 99 {
			many = append(many, first(remotecachetest.Blob(uint64(100+i), 10)))
		}
		for range 2 {
			if missing, err := b.Missing(t.Context(), many); err != nil || len(missing) != 99 {
				t.Errorf("%d are missing, %v", len(missing), err)
			}
		}
	})
	t.Run("expired", func(t *testing.T) {
		cfg := withSAS(t, a, cfg, sas.AccountPermissions{Read: true, Write: true}, time.Now().Add(-time.Hour))
		b := open(t, cfg)
		desc, data := remotecachetest.Blob(2, 100)
		for i := range 2 {
			var err error
			if i == 0 {
				_, err = read(t, b, old)
			} else {
				err = b.Put(t.Context(), desc, bytes.NewReader(data))
			}
			if errors.Is(err, remotecache.ErrReadOnly) || errors.Is(err, remotecache.ErrNotFound) || !strings.Contains(hint.Of(err), "ended at 20") {
				t.Errorf("%v, hint %q", err, hint.Of(err))
			}
			silent(t, cfg, err)
		}
	})
	t.Run("not yet", func(t *testing.T) {
		_, err := read(t, open(t, withSAS(t, a, cfg, sas.AccountPermissions{Read: true}, tomorrow.Add(24*time.Hour))), old)
		if !strings.Contains(hint.Of(err), "begins at 20") {
			t.Errorf("%v, hint %q", err, hint.Of(err))
		}
	})
	t.Run("forged", func(t *testing.T) {
		cfg := withSAS(t, a, cfg, sas.AccountPermissions{Read: true}, tomorrow)
		cfg.AccountURL = strings.Replace(cfg.AccountURL, "sp=r", "sp=rw", 1)
		_, err := read(t, open(t, cfg), old)
		if !strings.Contains(hint.Of(err), "make a new SAS") {
			t.Errorf("%v, hint %q", err, hint.Of(err))
		}
		silent(t, cfg, err)
	})
	t.Run("unreachable", func(t *testing.T) {
		for _, fault := range []struct {
			name string
			make func(p *proxy)
		}{
			{"closed", func(p *proxy) { p.Close() }},
			{"lost", func(p *proxy) { p.on(func(string, int) http.HandlerFunc { return p.broken(lost) }) }},
		} {
			p := newProxy(t, a)
			cfg := p.behind(a)
			cfg.Attempts = 2
			cfg = withSAS(t, a, cfg, sas.AccountPermissions{Read: true, Write: true}, tomorrow)
			fault.make(p)
			b := open(t, cfg)
			_, err := b.LoadIndex(t.Context(), "main")
			silent(t, cfg, err)
			silent(t, cfg, b.Put(t.Context(), old, bytes.NewReader(oldData)))
			_, err = b.List(t.Context())
			silent(t, cfg, err)
		}
	})
}

// TestConfig: what New does not take, it says without repeating secrets.
func TestConfig(t *testing.T) {
	const secret = "c2VjcmV0LXNlY3JldA"
	for _, tt := range []struct {
		name string
		cfg  azblob.Config
		want string
	}{
		{"nothing", azblob.Config{}, "account_url"},
		{"no URL", azblob.Config{AccountURL: "https://a.example/%zz?sig=" + secret}, "no URL"},
		{"no scheme", azblob.Config{AccountURL: "a.example?sig=" + secret}, "https"},
		{"two credentials", azblob.Config{AccountURL: "https://a.example/?sig=" + secret, SecretAccessKey: "eA=="}, "both"},
		{"key", azblob.Config{AccountURL: "https://a.example/", SecretAccessKey: secret + "!"}, "base64"},
		{"half an identity", azblob.Config{AccountURL: "https://a.example/", ClientID: "x", Assertion: assertion(nil)}, "application"},
	} {
		_, err := azblob.New(tt.cfg)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v, want one about %q", tt.name, err, tt.want)
		}
	}
	if _, err := azblob.New(azblob.Config{AccountURL: "https://acct.blob.core.windows.net", SecretAccessKey: "eA=="}); err != nil {
		t.Error(err)
	}
}
