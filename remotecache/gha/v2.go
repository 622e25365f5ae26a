package gha

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache"
)

// v2 speaks Twirp's JSON; the bytes of entries go to Azure Blob storage.
type v2 struct {
	c     *client
	base  string // ends with "CacheService/"
	token string
	store storage

	lookups, uploads gate // the service limits them apart
}

func newV2(c *client, url, token string, parallel int) *v2 {
	return &v2{c: c, base: strings.TrimRight(url, "/") + "/twirp/github.actions.results.api.v1.CacheService/", token: token,
		store: storage{c: c, parallel: parallel}}
}

// The messages of the three methods, as one each way.
type (
	ask struct {
		Key         string   `json:"key"`
		Version     string   `json:"version"`
		RestoreKeys []string `json:"restore_keys,omitempty"`
		SizeBytes   int64    `json:"size_bytes,omitempty,string"`
	}
	reply struct {
		OK          bool   `json:"ok"`
		UploadURL   string `json:"signed_upload_url"`
		DownloadURL string `json:"signed_download_url"`
		MatchedKey  string `json:"matched_key"`
		Message     string `json:"message"`
	}
)

func (v *v2) do(ctx context.Context, method string, g *gate, in ask) (reply, error) {
	in.Version = entryVersion
	body, err := json.Marshal(in)
	if err != nil {
		return reply{}, err
	}
	r := request{op: method, method: http.MethodPost, url: v.base + method, bearer: v.token, gate: g}
	return call[reply](ctx, v.c, r, body)
}

func (v *v2) lookup(ctx context.Context, key string, prefix bool) (entry, bool, error) {
	in := ask{Key: key}
	if prefix {
		in.RestoreKeys = []string{key}
	}
	out, err := v.do(ctx, "GetCacheEntryDownloadURL", &v.lookups, in)
	if err != nil || !out.OK || out.DownloadURL == "" || !prefix && out.MatchedKey != key {
		return entry{}, false, err
	}
	return entry{key: out.MatchedKey, url: out.DownloadURL}, true, nil
}

func (v *v2) reserve(ctx context.Context, key string, size int64) (slot, error) {
	const op = "CreateCacheEntry"
	out, err := v.do(ctx, op, &v.uploads, ask{Key: key})
	switch {
	case exists(err):
		return slot{}, errExists
	case denied(err):
		return slot{}, hint.With(fmt.Errorf("%w: %w", err, remotecache.ErrReadOnly), hintReadOnly)
	case err != nil:
		return slot{}, quota(err)
	case out.OK && out.UploadURL != "":
		return slot{key: key, size: size, at: out.UploadURL}, nil
	case strings.Contains(out.Message, textExists):
		return slot{}, errExists
	case strings.Contains(out.Message, textWriteDenied):
		return slot{}, hint.With(fmt.Errorf("%s: %s: %w", op, oneLine(out.Message, 300), remotecache.ErrReadOnly), hintReadOnly)
	}
	return slot{}, quota(fmt.Errorf("%s: the service refuses: %s", op, said(out.Message)))
}

// said is the service's reason, if it gave one.
func said(message string) string {
	if message == "" {
		return "it gives no reason"
	}
	return oneLine(message, 300)
}

// quota adds what to do when the repository has no room.
func quota(err error) error {
	if err != nil && strings.Contains(err.Error(), textQuota) {
		return hint.With(err, "the repository's cache storage is used up: delete caches, or raise its limit in the Actions settings")
	}
	return err
}

func (v *v2) upload(ctx context.Context, s *slot, size int64, src io.ReaderAt) error {
	err := v.store.upload(ctx, s.at, size, src)
	if !refused(err, http.StatusUnauthorized, http.StatusForbidden) {
		return err
	}
	// The signature has expired. Some services sign again.
	again, rerr := v.reserve(ctx, s.key, size)
	if rerr == nil {
		*s = again
		return v.store.upload(ctx, s.at, size, src)
	}
	if errors.Is(rerr, errExists) {
		rerr = errors.New("the service signs no other URL for the entry, which stays unfinished until the service drops it")
	}
	return fmt.Errorf("the signed URL expired before all %d bytes were sent: %w: %w", size, err, rerr)
}

func (v *v2) commit(ctx context.Context, s slot, size int64) error {
	const op = "FinalizeCacheEntryUpload"
	out, err := v.do(ctx, op, &v.uploads, ask{Key: s.key, SizeBytes: size})
	if err == nil && !out.OK {
		err = fmt.Errorf("%s: the service refuses: %s", op, said(out.Message))
	}
	return quota(err)
}
