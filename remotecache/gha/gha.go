// Package gha keeps a cache in the cache service of GitHub Actions.
//
//	remotecache ──blobs, Index──▶ Backend ──keys──▶ v1, v2 ──▶ cache service
//	                                 │                └──bytes──▶ Azure Blob storage (v2)
//	                                 └──list, remove──▶ GitHub's REST API, where there is a token for it
//
// Names and contents are BuildKit v0.33's: a blob is an entry; an index is an
// entry for each time that it was saved, with a growing number behind its key.
// Entries cannot be changed, belong to a branch, and are read from the job's
// own branch and its base. A ref is BuildKit's scope attribute (see Ref).
//
// What the service is asked too often is waited for; what it has evicted is a
// miss. An entry that somebody began and never finished blocks its key until
// the service drops it: such a blob is not stored, and costs only what needs
// it.
package gha

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/parts"
	"github.com/mayfly-build/mayfly/internal/retry"
	"github.com/mayfly-build/mayfly/internal/stall"
	"github.com/mayfly-build/mayfly/remotecache"
)

// Config says where the cache is and how to use it.
type Config struct {
	URL     string // of the service with protocol v1 (ACTIONS_CACHE_URL), or of either
	URLv2   string // of the service with protocol v2 (ACTIONS_RESULTS_URL)
	Version int    // protocol, 1 or 2; 0 means 2 where URLv2 is set or URL is GitHub's, else 1
	Token   string // ACTIONS_RUNTIME_TOKEN; required
	Mode    Mode   // ACTIONS_CACHE_MODE

	// Repository ("acme/app") and GHToken (GITHUB_TOKEN with actions: read, or
	// write to remove) give access to GitHub's REST API: then one list tells
	// which blobs are there, and the cache can be listed and removed from.
	Repository string
	GHToken    string
	APIURL     string // "" means https://api.github.com

	Uploads Limiter // of entries begun; backends of one repository should share it; nil means PerMinute(200) of its own
	Lookups Limiter // of entries looked up; nil means no limit

	Timeout  time.Duration // how long a request that the service refuses for now (429) is put off in all while it lets others pass; 0 means 10 minutes
	Drought  time.Duration // how long it is put off while the service lets none pass; 0 means 90 seconds
	Patience time.Duration // how long an entry that another job is making is waited for, besides a second for each 8 MiB; 0 means 15 seconds
	Retry    retry.Policy  // of other passing faults; the zero value means remotecache.DefaultPolicy

	Parallel int // requests of one blob at once; 0 means 8
	Probes   int // look-ups at once; 0 means 32, and 8 with protocol v1

	HTTP      *http.Client  // nil means one of its own
	Stall     time.Duration // an exchange that moves no byte for this long is broken off and tried again; 0 means remotecache.StallAfter
	UserAgent string        // "" means "mayfly"
}

// A Backend is the cache that a job's token gives access to. It holds signed
// URLs and connections. All methods may be called from several goroutines at
// once.
type Backend struct {
	cfg   Config
	token token
	c     *client
	svc   service
	rest  *rest // nil: no access
	pool  *parts.Pool

	mu     sync.Mutex
	urls   map[string]string // by key: signed, for reading; until one is refused
	absent map[string]bool   // by key: said not to be there
	slots  map[string]slot   // by key: reserved by us, and not committed
}

var (
	_ remotecache.Keeper = (*Backend)(nil)
	_ remotecache.Guard  = (*Backend)(nil)
)

// Parts are fetched ahead in buffers of partSize bytes, of which a Backend has
// poolParts: 40 MiB. The garbage collector may double what they take.
const (
	partSize  = 4 * mib
	poolParts = 10
)

// New returns the cache that cfg names. Nothing is sent.
func New(cfg Config) (*Backend, error) {
	if cfg.Token == "" {
		return nil, errors.New("the gha cache needs token=<ACTIONS_RUNTIME_TOKEN>")
	}
	url := cfg.URL
	if cfg.Version != 1 && cfg.URLv2 != "" {
		url, cfg.Version = cfg.URLv2, 2
	}
	if url == "" {
		return nil, errors.New("the gha cache needs url_v2=<ACTIONS_RESULTS_URL> or url=<ACTIONS_CACHE_URL>")
	}
	if cfg.Version == 0 {
		cfg.Version = 1
		if strings.Contains(url, githubResults) {
			cfg.Version = 2
		}
	}
	t, err := parseToken(cfg.Token)
	if err != nil {
		return nil, err
	}
	cfg.setDefaults()
	b := &Backend{cfg: cfg, token: t, pool: parts.NewPool(partSize, poolParts), urls: map[string]string{}, absent: map[string]bool{}, slots: map[string]slot{}}
	b.c = &client{http: cfg.HTTP, agent: cfg.UserAgent, policy: cfg.Retry, timeout: cfg.Timeout, drought: cfg.Drought}
	switch cfg.Version {
	case 1:
		b.svc = newV1(b.c, url, cfg.Token, cfg.Parallel)
	case 2:
		b.svc = newV2(b.c, url, cfg.Token, cfg.Parallel)
	default:
		return nil, fmt.Errorf("the gha cache has the versions 1 and 2, not %d", cfg.Version)
	}
	if cfg.Repository != "" && cfg.GHToken != "" {
		if b.rest, err = newREST(b.c, cfg); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (c *Config) setDefaults() {
	if c.Uploads == nil {
		c.Uploads = PerMinute(githubUploads)
	}
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Minute // BuildKit's
	}
	if c.Drought <= 0 {
		c.Drought = 90 * time.Second // the service counts by the minute
	}
	if c.Retry.Attempts == 0 && c.Retry.Backoff == 0 {
		c.Retry = remotecache.DefaultPolicy()
	}
	if c.Patience <= 0 {
		c.Patience = 15 * time.Second // BuildKit's
	}
	if c.Parallel <= 0 {
		c.Parallel = 8
	}
	if c.Probes <= 0 {
		c.Probes = 32
		if c.Version == 1 {
			c.Probes = 8 // act opens its database for each request
		}
	}
	if c.UserAgent == "" {
		c.UserAgent = "mayfly"
	}
	if c.HTTP == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConns = 0 // no limit but the one for each host
		t.MaxIdleConnsPerHost = 64
		t.DisableCompression = true // ranges are of the bytes as stored
		t.WriteBufferSize, t.ReadBufferSize = 64<<10, 64<<10
		c.HTTP = &http.Client{Transport: t}
	}
	if c.Stall <= 0 {
		c.Stall = remotecache.StallAfter
	}
	base := c.HTTP.Transport
	if base == nil {
		base = http.DefaultTransport
	}
	watched := *c.HTTP
	watched.Transport = stall.Transport(base, c.Stall)
	c.HTTP = &watched
}

// fewBlobs are asked for one by one even where they could be listed.
const fewBlobs = 4

// Missing implements remotecache.Backend. Where the REST API is at hand, one
// list tells of all blobs that can be read; else each is looked up.
func (b *Backend) Missing(ctx context.Context, blobs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if !b.cfg.Mode.reads() {
		return slices.Clone(blobs), nil
	}
	if b.rest != nil && len(blobs) > fewBlobs {
		missing, err := b.notListed(ctx, blobs)
		if err == nil {
			return missing, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		// A list that is refused costs only time.
	}
	has := make([]bool, len(blobs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(b.cfg.Probes)
	for i, blob := range blobs {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() (err error) {
			_, has[i], err = b.lookup(gctx, blobKey(blob.Digest), false)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, remotecache.Tried(err)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var out []ocispec.Descriptor
	for i, blob := range blobs {
		if !has[i] {
			out = append(out, blob)
		}
	}
	return out, nil
}

// lookup asks the service for an entry, and keeps its URL.
func (b *Backend) lookup(ctx context.Context, key string, prefix bool) (entry, bool, error) {
	if b.cfg.Lookups != nil {
		if err := b.cfg.Lookups.Wait(ctx); err != nil {
			return entry{}, false, err
		}
	}
	e, ok, err := b.svc.lookup(ctx, key, prefix)
	switch {
	case refused(err, http.StatusUnauthorized) && b.token.ended():
		err = hint.With(fmt.Errorf("%w: %w", b.token.expired(), err), hintExpired)
	case refused(err, http.StatusForbidden):
		err = hint.With(err, "set `cache-mode: read` or `write` for the job: its cache token may not read")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err != nil:
	case ok:
		b.urls[e.key] = e.url
		delete(b.absent, e.key)
	case !prefix:
		delete(b.urls, key)
		b.absent[key] = true
	}
	return e, ok, err
}

// Open implements remotecache.Backend. The blob is looked up unless its URL is
// at hand, and read in several parts at once.
func (b *Backend) Open(ctx context.Context, blob ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	r, err := b.open(ctx, blob, off)
	if err != nil {
		return nil, remotecache.Tried(fmt.Errorf("open blob %s: %w", blob.Digest, err))
	}
	return r, nil
}

// Put implements remotecache.Backend. A blob that was not said to be missing is
// looked up first: it may be in another branch that the job reads.
func (b *Backend) Put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	if err := b.Writable(); err != nil {
		return fmt.Errorf("put blob %s: %w", blob.Digest, err)
	}
	if err := blob.Digest.Validate(); err != nil {
		return fmt.Errorf("put blob %q: %w", blob.Digest, err)
	}
	if err := remotecache.CheckSource(blob, src); err != nil {
		return err
	}
	if err := b.put(ctx, blob, src); err != nil {
		return remotecache.Tried(fmt.Errorf("put blob %s: %w", blob.Digest, err))
	}
	return nil
}
