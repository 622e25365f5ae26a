package gha

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/parts"
	"github.com/mayfly-build/mayfly/internal/stall"
	"github.com/mayfly-build/mayfly/remotecache"
)

// v1 speaks the REST protocol of GitHub Enterprise Server, gitea, forgejo and
// act; the bytes of entries go to the service itself.
type v1 struct {
	c        *client
	base     string // ends with "artifactcache/"
	token    string
	parallel int // requests of one blob at once

	lookups, uploads gate
}

// chunkSize is how much of an entry one request carries: what GitHub's own
// client sends.
const chunkSize = 32 * mib

func newV1(c *client, url, token string, parallel int) *v1 {
	return &v1{c: c, base: strings.TrimRight(url, "/") + "/_apis/artifactcache/", token: token, parallel: parallel}
}

func (v *v1) request(op, method, path string, g *gate) request {
	return request{op: op, method: method, url: v.base + path, bearer: v.token, gate: g,
		header: http.Header{"Accept": {"application/json;api-version=6.0-preview.1"}}}
}

func (v *v1) lookup(ctx context.Context, key string, prefix bool) (entry, bool, error) {
	q := url.Values{"keys": {key}, "version": {entryVersion}}
	out, err := call[struct {
		CacheKey        string `json:"cacheKey"`
		ArchiveLocation string `json:"archiveLocation"`
	}](ctx, v.c, v.request("look-up", http.MethodGet, "cache?"+q.Encode(), &v.lookups), nil)
	if err != nil || out.ArchiveLocation == "" || !prefix && !strings.EqualFold(out.CacheKey, key) { // act lowers the case of keys
		return entry{}, false, err
	}
	return entry{key: out.CacheKey, url: out.ArchiveLocation}, true, nil
}

func (v *v1) reserve(ctx context.Context, key string, size int64) (slot, error) {
	const op = "reservation"
	body, err := json.Marshal(struct {
		Key     string `json:"key"`
		Version string `json:"version"`
		Size    int64  `json:"cacheSize,omitempty"`
	}{key, entryVersion, size})
	if err != nil {
		return slot{}, err
	}
	out, err := call[struct {
		CacheID int64 `json:"cacheId"`
	}](ctx, v.c, v.request(op, http.MethodPost, "caches", &v.uploads), body)
	switch {
	case exists(err):
		return slot{}, errExists
	case denied(err):
		return slot{}, hint.With(fmt.Errorf("%w: %w", err, remotecache.ErrReadOnly), hintReadOnly)
	case err != nil:
		return slot{}, err
	case out.CacheID == 0:
		return slot{}, fmt.Errorf("%s: the service gives no ID for the entry", op)
	}
	return slot{key: key, size: size, at: strconv.FormatInt(out.CacheID, 10)}, nil
}

func (v *v1) upload(ctx context.Context, s *slot, size int64, src io.ReaderAt) error {
	if size == 0 {
		return nil
	}
	return parts.Upload(ctx, size, chunkSize, v.parallel, func(ctx context.Context, _ int, off, n int64) error {
		r := v.request("upload", http.MethodPatch, "caches/"+s.at, nil)
		r.header.Set("Content-Type", octets)
		r.header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/*", off, off+n-1))
		r.body, r.length = func() io.Reader { return io.NewSectionReader(src, off, n) }, n
		resp, err := v.c.send(ctx, r)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

func (v *v1) commit(ctx context.Context, s slot, size int64) error {
	body, err := json.Marshal(struct {
		Size int64 `json:"size"`
	}{size})
	if err != nil {
		return err
	}
	// The service puts the entry together of its parts.
	_, err = call[struct{}](stall.Moving(ctx, size), v.c, v.request("commit", http.MethodPost, "caches/"+s.at, &v.uploads), body)
	return err
}
