package gha_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/gha"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

const (
	mainBranch = "refs/heads/main"
	pull       = "refs/pull/7/merge"
)

var (
	writeMain = services.GHAScope{Scope: mainBranch, Permission: services.GHAReadWrite}
	readMain  = services.GHAScope{Scope: mainBranch, Permission: services.GHARead}
	writePull = services.GHAScope{Scope: pull, Permission: services.GHAReadWrite}
)

// service is one for all tests, which have repositories of their own in it.
var service struct {
	once sync.Once
	c    *services.GHACache
	err  error
}

// v2 returns the service, which behaves as usual again at the end of the test.
func v2(t *testing.T) *services.GHACache {
	t.Helper()
	service.once.Do(func() {
		service.c, service.err = services.StartGHACache(context.Background(), services.GHACacheConfig{})
	})
	services.Need(t, service.err)
	t.Cleanup(func() { service.c.Set(func(cfg *services.GHACacheConfig) { *cfg = services.GHACacheConfig{} }) })
	return service.c
}

func TestMain(m *testing.M) {
	code := m.Run()
	if service.c != nil {
		if err := service.c.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "close the service:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// dial connects a job with a token for scopes to a repository; change, unless
// nil, changes the Config.
func dial(t *testing.T, c *services.GHACache, repo *services.GHARepository, change func(*gha.Config), scopes ...services.GHAScope) *gha.Backend {
	t.Helper()
	cfg := gha.Config{URLv2: c.URL, Token: repo.Token(scopes...), Uploads: gha.PerMinute(100_000)}
	if change != nil {
		change(&cfg)
	}
	b, err := gha.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// withREST gives access to the REST API.
func withREST(c *services.GHACache, repo *services.GHARepository) func(*gha.Config) {
	return func(cfg *gha.Config) {
		cfg.APIURL, cfg.Repository, cfg.GHToken = c.URL, repo.Name, repo.GHToken()
	}
}

func TestSuiteV2(t *testing.T) {
	c := v2(t)
	remotecachetest.Run(t, func(t *testing.T) func() remotecache.Backend {
		repo := c.NewRepository()
		return func() remotecache.Backend { return dial(t, c, repo, nil, writeMain) }
	})
}

func TestSuiteV2WithREST(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the whole suite once more")
	}
	c := v2(t)
	remotecachetest.Run(t, func(t *testing.T) func() remotecache.Backend {
		repo := c.NewRepository()
		return func() remotecache.Backend { return dial(t, c, repo, withREST(c, repo), writeMain) }
	})
}

func TestSuiteV1(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the whole suite once more")
	}
	remotecachetest.Run(t, func(t *testing.T) func() remotecache.Backend {
		c, err := services.StartGHACacheV1()
		services.Use(t, c, err)
		return func() remotecache.Backend { return dialV1(t, c) }
	})
}

func dialV1(t *testing.T, c *services.GHACacheV1) *gha.Backend {
	t.Helper()
	b, err := gha.New(gha.Config{URL: c.URL, Token: anyToken, Uploads: gha.PerMinute(100_000)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// anyToken is one as act gives to jobs: it is for one scope without a name.
const anyToken = "e30." + "eyJhYyI6Ilt7XCJTY29wZVwiOlwiXCIsXCJQZXJtaXNzaW9uXCI6M31dIn0" + ".e30" // {"ac":"[{\"Scope\":\"\",\"Permission\":3}]"}

func TestKeeper(t *testing.T) {
	c := v2(t)
	remotecachetest.RunKeeper(t, func(t *testing.T) func() remotecache.Backend {
		repo := c.NewRepository()
		return func() remotecache.Backend { return dial(t, c, repo, withREST(c, repo), writeMain) }
	}, true, true)
}
