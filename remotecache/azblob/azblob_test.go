package azblob_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/azblob"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

// containers numbers the stores of all tests.
var containers atomic.Int32

// server starts an azurite for the test.
func server(t testing.TB) *services.Azurite {
	t.Helper()
	a, err := services.StartAzurite(services.AzuriteConfig{})
	return services.Use(t, a, err)
}

// empty returns how to reach an empty store: a container that is not there.
func empty(a *services.Azurite) azblob.Config {
	return azblob.Config{
		AccountURL: a.URL, AccountName: a.Account, SecretAccessKey: a.Key,
		Container: fmt.Sprint("cache-", containers.Add(1)),
	}
}

func open(t testing.TB, cfg azblob.Config) *azblob.Backend {
	t.Helper()
	b, err := azblob.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.CloseIdle)
	return b
}

func TestSuite(t *testing.T) {
	a := server(t)
	newStore := func(t *testing.T) func() remotecache.Backend {
		cfg := empty(a)
		return func() remotecache.Backend { return open(t, cfg) }
	}
	remotecachetest.Run(t, newStore)
	t.Run("Keeper", func(t *testing.T) { remotecachetest.RunKeeper(t, newStore, true, true) })
}
