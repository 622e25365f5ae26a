package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// cacheServices are the names of what a cache can be kept in.
var cacheServices = []string{"registry", "local", "s3", "azblob", "gha"}

// A cacheService is a running service that keeps caches.
type cacheService struct {
	name string

	// place returns an empty place in it.
	place func(ctx context.Context, name string) (place, error)
	close func() error
}

// A place is where one cache goes, as both tools spell it.
type place struct {
	to, from string
	done     func() error // removes it; nil where that costs more than it gives
}

// startCacheService starts a service whose answers come after delay.
func startCacheService(ctx context.Context, b *bench, name string, delay time.Duration) (*cacheService, error) {
	switch name {
	case "registry":
		return registryCaches(b, delay)
	case "local":
		return localCaches(b), nil
	}
	return nil, fmt.Errorf("there is no service %q; there are %s", name, strings.Join(cacheServices, ", "))
}

// delayed puts a proxy before a server that forwards requests after delay,
// with the host they name; without a delay it is the server itself.
func delayed(server string, delay time.Duration) (string, func(), error) {
	if delay <= 0 {
		return server, func() {}, nil
	}
	target, err := url.Parse(server)
	if err != nil {
		return "", nil, err
	}
	h := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
			r.Out.Host = r.In.Host // signatures cover it
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
	}
	p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(delay)
		h.ServeHTTP(w, r)
	}))
	proxied := *target
	proxied.Host = strings.TrimPrefix(p.URL, "http://")
	return proxied.String(), p.Close, nil
}

func registryCaches(b *bench, delay time.Duration) (*cacheService, error) {
	dir := filepath.Join(b.dir, "cache-registry")
	if err := errors.Join(b.discard(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return nil, err
	}
	r, err := services.StartRegistry(services.RegistryConfig{Dir: dir})
	if err != nil {
		return nil, err
	}
	u, stop, err := delayed("http://"+r.Addr, delay)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	host := strings.TrimPrefix(u, "http://")
	return &cacheService{
		name: "registry",
		place: func(_ context.Context, name string) (place, error) {
			ref := host + "/bench/" + name + ":cache"
			return place{to: exportOf(ref), from: importOf(ref)}, nil
		},
		close: func() error { stop(); return errors.Join(r.Close(), b.discard(dir)) },
	}, nil
}

func localCaches(b *bench) *cacheService {
	return &cacheService{
		name: "local",
		place: func(_ context.Context, name string) (place, error) {
			dir := filepath.Join(b.dir, "cache-local-"+name)
			return place{
				to:   "type=local,mode=max,dest=" + dir,
				from: "type=local,src=" + dir,
				done: func() error { return b.discard(dir) },
			}, nil
		},
		close: func() error { return nil },
	}
}

