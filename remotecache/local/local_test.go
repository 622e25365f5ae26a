package local_test

import (
	"testing"

	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/local"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

func open(t testing.TB, cfg local.Config) *local.Backend {
	t.Helper()
	b, err := local.New(cfg)
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
			remotecachetest.Run(t, func(t *testing.T) func() remotecache.Backend {
				dir := t.TempDir()
				return func() remotecache.Backend { return open(t, local.Config{Dir: dir, Form: form}) }
			})
		})
	}
}
