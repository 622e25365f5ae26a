package registry_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	client "github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/internal/registry/registrytest"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
	"github.com/mayfly-build/mayfly/remotecache/registry"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

func open(t testing.TB, cfg registry.Config) *registry.Backend {
	t.Helper()
	if cfg.Client == nil {
		cfg.Client = client.New(client.Config{})
		t.Cleanup(cfg.Client.CloseIdle)
	}
	b, err := registry.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSuite(t *testing.T) {
	for name, form := range map[string]manifest.Form{
		"manifest": {}, "index": {Index: true}, "docker": {Index: true, Docker: true},
	} {
		t.Run(name, func(t *testing.T) {
			srv := registrytest.Start(t, registrytest.Config{})
			var n atomic.Int32
			remotecachetest.Run(t, func(t *testing.T) func() remotecache.Backend {
				ref := fmt.Sprintf("%s/cache%d:latest", srv.Host, n.Add(1))
				return func() remotecache.Backend { return open(t, registry.Config{Ref: ref, Form: form}) }
			})
		})
	}
}
