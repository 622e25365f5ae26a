package services

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

	"github.com/mayfly-build/mayfly/e2e/services/ghacache"
)

// CacheKinds are what StartCache can start: the services that keep caches.
// "gha" is protocol v2, "gha-v1" act's server; "registry" is Debian's
// docker-registry, "registry-v3" distribution's.
var CacheKinds = []string{"gha", "gha-v1", "s3", "azblob", "registry", "registry-v3", "local"}

// CacheConfig says how to start a service that keeps caches.
type CacheConfig struct {
	Dir string // where it keeps them; "" means a temporary directory that Close removes

	// Via, unless nil, puts something before each server of the service: it is
	// told the server's URL and returns the one that clients use, and what
	// ends it. A directory has no server.
	Via func(server string) (url string, end func() error, err error)
}

// A Cache is a running service that keeps caches for builds.
type Cache struct {
	Kind string

	// GHA is the service of kind gha, nil otherwise; the others are the same
	// for theirs.
	GHA      *GHACache
	GHAv1    *GHACacheV1
	S3       *S3
	Azurite  *Azurite // of azblob
	Registry *Registry

	dir     string // of caches in directories
	place   func(name string) CachePlace
	closers []func() error // in the order in which they were opened
}

// A CachePlace is an empty place for one cache, as mayfly, buildctl and buildx
// spell it.
type CachePlace struct {
	To   string // an export, without mode
	From string
}

// StartCache starts a service.
func StartCache(ctx context.Context, kind string, cfg CacheConfig) (_ *Cache, err error) {
	c := &Cache{Kind: kind, dir: cfg.Dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "mayfly-cache-"); err != nil {
			return nil, fmt.Errorf("make a directory for caches: %w", err)
		}
		c.closers = append(c.closers, func() error { return os.RemoveAll(c.dir) })
	}
	switch kind {
	case "registry", "registry-v3":
		err = c.startRegistry(cfg)
	case "local":
		c.place = func(name string) CachePlace {
			dir := filepath.Join(c.dir, name)
			return CachePlace{To: "type=local,dest=" + dir, From: "type=local,src=" + dir}
		}
	case "s3":
		err = c.startS3(cfg)
	case "azblob":
		err = c.startAzblob(cfg)
	case "gha":
		err = c.startGHA(ctx, cfg)
	case "gha-v1":
		err = c.startGHAv1(cfg)
	default:
		err = fmt.Errorf("there is no cache of kind %q; there are %s", kind, strings.Join(CacheKinds, ", "))
	}
	return c, err
}

// Place returns the place of a name: letters, digits and hyphens.
func (c *Cache) Place(name string) CachePlace { return c.place(name) }

// Close stops the service.
func (c *Cache) Close() error {
	var errs []error
	for len(c.closers) > 0 {
		last := len(c.closers) - 1
		errs = append(errs, c.closers[last]())
		c.closers = c.closers[:last]
	}
	return errors.Join(errs...)
}

func (c *Cache) via(cfg CacheConfig, server string) (string, error) {
	if cfg.Via == nil {
		return server, nil
	}
	u, end, err := cfg.Via(server)
	if err == nil {
		c.closers = append(c.closers, end)
	}
	return u, err
}

func (c *Cache) startRegistry(cfg CacheConfig) (err error) {
	version := 2
	if c.Kind == "registry-v3" {
		version = 3
	}
	if c.Registry, err = StartRegistry(RegistryConfig{Dir: filepath.Join(c.dir, c.Kind), Version: version}); err != nil {
		return err
	}
	c.closers = append(c.closers, c.Registry.Close)
	u, err := c.via(cfg, "http://"+c.Registry.Addr)
	if err != nil {
		return err
	}
	c.place = func(name string) CachePlace {
		spec := "type=registry,ref=" + strings.TrimPrefix(u, "http://") + "/" + name + ":cache"
		return CachePlace{spec, spec}
	}
	return nil
}

func (c *Cache) startS3(cfg CacheConfig) (err error) {
	if c.S3, err = StartS3(S3Config{Dir: filepath.Join(c.dir, "s3")}); err != nil {
		return err
	}
	c.closers = append(c.closers, c.S3.Close)
	u, err := c.via(cfg, c.S3.URL)
	if err != nil {
		return err
	}
	c.place = func(name string) CachePlace {
		spec := fmt.Sprintf("type=s3,region=%s,bucket=%s,endpoint_url=%s,use_path_style=true,access_key_id=%s,secret_access_key=%s,prefix=%s/,name=cache",
			c.S3.Region, c.S3.Bucket, u, c.S3.AccessKeyID, c.S3.SecretAccessKey, name)
		return CachePlace{spec, spec}
	}
	return nil
}

func (c *Cache) startAzblob(cfg CacheConfig) error {
	a, err := StartAzurite(AzuriteConfig{})
	if err != nil {
		return err
	}
	c.Azurite = a
	c.closers = append(c.closers, a.Close)
	u, err := c.via(cfg, a.URL)
	if err != nil {
		return err
	}
	c.place = func(name string) CachePlace {
		spec := fmt.Sprintf("type=azblob,account_url=%s,account_name=%s,secret_access_key=%s,prefix=%s/,name=cache", u, a.Account, a.Key, name)
		return CachePlace{spec, spec}
	}
	return nil
}

func (c *Cache) startGHA(ctx context.Context, cfg CacheConfig) error {
	az, err := StartAzurite(AzuriteConfig{})
	if err != nil {
		return err
	}
	c.closers = append(c.closers, az.Close)
	storage, err := c.via(cfg, az.URL)
	if err != nil {
		return err
	}
	srv, err := ghacache.New(ctx, ghacache.Storage{URL: storage, Account: az.Account, Key: az.Key}, ghacache.Config{})
	if err != nil {
		return err
	}
	h := httptest.NewServer(srv)
	c.closers = append(c.closers, func() error { h.Close(); return nil })
	u, err := c.via(cfg, h.URL)
	if err != nil {
		return err
	}
	c.GHA = &GHACache{Server: srv, URL: u, Azurite: az}
	c.place = func(string) CachePlace {
		token := c.GHA.NewRepository().Token(GHAScope{Scope: "refs/heads/main", Permission: GHAReadWrite})
		spec := fmt.Sprintf("type=gha,version=2,url=%[1]s/,url_v2=%[1]s/,token=%[2]s,scope=cache", u, token)
		return CachePlace{spec, spec}
	}
	return nil
}

func (c *Cache) startGHAv1(cfg CacheConfig) error {
	g, err := StartGHACacheV1()
	if err != nil {
		return err
	}
	c.GHAv1 = g
	c.closers = append(c.closers, g.Close)
	token := ghacache.AnyToken(GHAScope{Scope: "refs/heads/main", Permission: GHAReadWrite})
	u, err := c.via(cfg, g.URL)
	if err != nil {
		return err
	}
	c.place = func(name string) CachePlace {
		spec := fmt.Sprintf("type=gha,version=1,url=%s,token=%s,scope=%s", u, token, name)
		return CachePlace{spec, spec}
	}
	return nil
}

// Delayed returns a CacheConfig.Via that adds delay to every request.
func Delayed(delay time.Duration) func(string) (string, func() error, error) {
	return func(server string) (string, func() error, error) {
		return Proxied(server, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			time.Sleep(delay)
			next.ServeHTTP(w, r)
		})
	}
}

// Proxied puts a proxy before a server and returns its URL, with the path that
// the server's has, and what ends it. handle answers each request, or has next
// do it: the server sees the host that clients name, which signatures cover.
func Proxied(server string, handle func(w http.ResponseWriter, r *http.Request, next http.Handler)) (string, func() error, error) {
	target, err := url.Parse(server)
	if err != nil {
		return "", nil, err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}
	next := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
			r.Out.Host = r.In.Host
		},
		Transport: transport,
	}
	p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handle(w, r, next) }))
	proxied := *target
	proxied.Host = strings.TrimPrefix(p.URL, "http://")
	return proxied.String(), func() error {
		p.Close()
		transport.CloseIdleConnections()
		return nil
	}, nil
}
