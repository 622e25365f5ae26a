package s3_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
	"github.com/mayfly-build/mayfly/remotecache/s3"
)

func start(t testing.TB, cfg services.S3Config) *services.S3 {
	t.Helper()
	srv, err := services.StartS3(cfg)
	return services.Use(t, srv, err)
}

// reach says how to reach srv.
func reach(srv *services.S3) s3.Config {
	return s3.Config{
		Bucket: srv.Bucket, Region: srv.Region, EndpointURL: srv.URL, UsePathStyle: true,
		AccessKeyID: srv.AccessKeyID, SecretAccessKey: srv.SecretAccessKey,
	}
}

func open(t testing.TB, cfg s3.Config) *s3.Backend {
	t.Helper()
	b, err := s3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// stores makes empty stores in one service, each below a prefix of its own.
func stores(cfg s3.Config) func(t *testing.T) func() remotecache.Backend {
	var n atomic.Int32
	return func(t *testing.T) func() remotecache.Backend {
		cfg := cfg
		cfg.Prefix = fmt.Sprintf("ci cache+/%d/", n.Add(1))
		return func() remotecache.Backend { return open(t, cfg) }
	}
}

func TestSuite(t *testing.T) {
	srv := start(t, services.S3Config{})
	remotecachetest.Run(t, stores(reach(srv)))
}

// TestSuiteTLS: over TLS, bodies are not signed.
func TestSuiteTLS(t *testing.T) {
	if testing.Short() {
		t.Skip("the suite once more")
	}
	srv := start(t, services.S3Config{TLS: true})
	pem, err := os.ReadFile(srv.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	cfg := reach(srv)
	cfg.HTTP = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: 64}}
	t.Cleanup(cfg.HTTP.CloseIdleConnections)
	remotecachetest.Run(t, stores(cfg))
}

func TestKeeper(t *testing.T) {
	srv := start(t, services.S3Config{})
	remotecachetest.RunKeeper(t, stores(reach(srv)), true, true)
}

func put(t testing.TB, b remotecache.Backend, seed uint64, size int) (digest.Digest, []byte) {
	t.Helper()
	desc, data := remotecachetest.Blob(seed, size)
	if err := b.Put(t.Context(), desc, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	return desc.Digest, data
}

func readAll(t testing.TB, b remotecache.Backend, seed uint64, size int) error {
	t.Helper()
	desc, want := remotecachetest.Blob(seed, size)
	r, err := b.Open(t.Context(), desc, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err == nil && !bytes.Equal(got, want) {
		err = errors.New("other bytes")
	}
	return err
}
