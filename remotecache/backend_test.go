package remotecache_test

import (
	"testing"

	"github.com/mayfly-build/mayfly/internal/retry"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

func TestBackends(t *testing.T) {
	for _, tt := range []struct {
		name string
		wrap func(remotecache.Backend) remotecache.Backend
	}{
		{"Memory", func(b remotecache.Backend) remotecache.Backend { return b }},
		{"Verify", remotecache.Verify},
		{"Retry", func(b remotecache.Backend) remotecache.Backend { return remotecache.Retry(b, retry.Policy{}) }},
		{"Limit", func(b remotecache.Backend) remotecache.Backend { return remotecache.Limit(b, 2) }},
		{"all", func(b remotecache.Backend) remotecache.Backend {
			return remotecache.Verify(remotecache.Retry(remotecache.Limit(b, 4), retry.Policy{}))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			remotecachetest.Run(t, func(*testing.T) func() remotecache.Backend {
				m := remotecache.NewMemory()
				return func() remotecache.Backend { return tt.wrap(m) }
			})
		})
	}
}
