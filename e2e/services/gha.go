package services

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/mayfly-build/mayfly/e2e/services/ghacache"
)

// What StartGHACache and its callers say of the service.
type (
	GHACacheConfig = ghacache.Config     // how it behaves
	GHARepository  = ghacache.Repository // a repository with its cache
	GHAScope       = ghacache.Scope      // a branch that a token is for
	GHAEntry       = ghacache.Entry      // of the cache
	GHAFault       = ghacache.Fault      // what a request meets
)

// What a token may do in a GHAScope.
const (
	GHARead      = ghacache.Read
	GHAWrite     = ghacache.Write
	GHAReadWrite = ghacache.Read | ghacache.Write
)

// A GHACache is the cache service of GitHub Actions, protocol v2, with azurite
// behind it. URL is both ACTIONS_RESULTS_URL and the REST API's.
type GHACache struct {
	*ghacache.Server
	URL     string
	Azurite *Azurite

	http *httptest.Server
}

// StartGHACache starts the service on a free loopback port, without any
// repository.
func StartGHACache(ctx context.Context, cfg GHACacheConfig) (*GHACache, error) {
	az, err := StartAzurite(AzuriteConfig{})
	if err != nil {
		return nil, err
	}
	srv, err := ghacache.New(ctx, ghacache.Storage{URL: az.URL, Account: az.Account, Key: az.Key}, cfg)
	if err != nil {
		return nil, errors.Join(err, az.Close())
	}
	c := &GHACache{Server: srv, Azurite: az, http: httptest.NewServer(srv)}
	c.URL = c.http.URL
	return c, nil
}

// Close stops the service and its azurite.
func (c *GHACache) Close() error {
	c.http.Close()
	return c.Azurite.Close()
}

// A GHACacheV1 is act's cache server, which speaks protocol v1, as those of
// gitea and forgejo do. It knows no scopes and takes any token.
type GHACacheV1 struct {
	URL string // ACTIONS_CACHE_URL, with a final slash; a secret is part of it

	Dir string // of what it keeps

	p *process
}

// StartGHACacheV1 starts the server that hack/setup.sh built, on a free
// loopback port and an empty temporary directory that Close removes.
func StartGHACacheV1() (*GHACacheV1, error) {
	bin, err := Tool("ghacache")
	if err != nil {
		return nil, err
	}
	c := &GHACacheV1{}
	if c.Dir, err = os.MkdirTemp("", "mayfly-ghacache-"); err != nil {
		return nil, fmt.Errorf("make the cache server's directory: %w", err)
	}
	// The first line of its output is its URL.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	defer r.Close()
	cmd := exec.Command(bin, c.Dir)
	cmd.Stdout = w
	out := bufio.NewReader(r)
	c.p, err = start(cmd, func() bool {
		if r.SetReadDeadline(time.Now().Add(time.Second)) != nil {
			return false
		}
		line, err := out.ReadString('\n')
		c.URL += line
		return err == nil
	})
	c.URL = strings.TrimSpace(c.URL)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close stops the server and removes what it kept.
func (c *GHACacheV1) Close() error {
	var err error
	if c.p != nil {
		err = c.p.stop()
	}
	return errors.Join(err, os.RemoveAll(c.Dir))
}

// ActionsCache runs GitHub's own client, @actions/cache, in dir: op is save or
// restore of a path below dir under a key; restore keys may follow. It returns
// what it says at its end: the entry's ID or the key that matched, "" for none.
// What the client logs goes to log.
func ActionsCache(ctx context.Context, dir string, env []string, log io.Writer, op, path, key string, restoreKeys ...string) (string, error) {
	bin, err := Tool("actions-cache")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, bin, append([]string{op, path, key}, restoreKeys...)...)
	cmd.Dir, cmd.Stderr = dir, log
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "_")
		if name != "ACTIONS" && name != "GITHUB" && name != "RUNNER" { // of the job that runs us, if any
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(append(cmd.Env, "RUNNER_TEMP="+dir, "GITHUB_WORKSPACE="+dir, "GITHUB_SERVER_URL=https://github.com"), env...)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("actions-cache %s %s: %w", op, key, err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for _, l := range lines[:len(lines)-1] {
		fmt.Fprintln(log, l)
	}
	return strings.TrimSpace(strings.TrimPrefix(lines[len(lines)-1], "result:")), nil
}
