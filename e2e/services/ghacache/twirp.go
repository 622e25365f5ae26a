package ghacache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// An answer is what a request gets.
type answer struct {
	status     int
	body       any
	retryAfter int // seconds; 0 means no such header
}

func (a answer) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	if a.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(a.retryAfter))
	}
	w.WriteHeader(a.status)
	if a.body != nil {
		_ = json.NewEncoder(w).Encode(a.body) // a client that is gone needs no answer
	}
}

func ok(body response) answer { return answer{status: http.StatusOK, body: body} }

// refused is Twirp's form of an error.
func refused(status int, code, msg string) answer {
	return answer{status: status, body: struct {
		Code string `json:"code"`
		Msg  string `json:"msg"`
	}{code, msg}}
}

// The messages of the three methods, as one each way.
type (
	request struct {
		Key         string      `json:"key"`
		Version     string      `json:"version"`
		RestoreKeys []string    `json:"restore_keys"`
		SizeBytes   json.Number `json:"size_bytes"` // a number or a string
	}
	response struct {
		OK                bool   `json:"ok,omitempty"`
		SignedUploadURL   string `json:"signed_upload_url,omitempty"`
		SignedDownloadURL string `json:"signed_download_url,omitempty"`
		MatchedKey        string `json:"matched_key,omitempty"`
		EntryID           string `json:"entry_id,omitempty"`
		Message           string `json:"message,omitempty"`
	}
)

// A call is a request of somebody.
type call struct {
	access
	request
	cfg Config
}

const (
	maxKey  = 512 // characters of a key
	maxKeys = 10  // of one look-up
)

func (s *Server) twirp(r *http.Request, a access, do func(context.Context, call) answer) answer {
	c := call{access: a, cfg: s.config()}
	if r.Header.Get("Content-Type") != "application/json" {
		return refused(http.StatusNotFound, "bad_route", "unexpected Content-Type: "+r.Header.Get("Content-Type"))
	}
	if err := json.NewDecoder(r.Body).Decode(&c.request); err != nil {
		return refused(http.StatusBadRequest, "malformed", "the json request could not be decoded: "+err.Error())
	}
	if len(c.RestoreKeys) > maxKeys {
		return refused(http.StatusBadRequest, "invalid_argument", "too many restore keys")
	}
	for _, key := range append([]string{c.Key}, c.RestoreKeys...) {
		if key == "" || len(key) > maxKey || strings.Contains(key, ",") {
			return refused(http.StatusBadRequest, "invalid_argument", fmt.Sprintf("key %q is not valid", key))
		}
	}
	if c.Version == "" {
		return refused(http.StatusBadRequest, "invalid_argument", "version is required")
	}
	return do(r.Context(), c)
}

func (s *Server) create(_ context.Context, c call) answer {
	scope := c.writable()
	if scope == "" {
		return ok(response{Message: "cache write denied: token has no writable scopes"})
	}
	if wait := c.repo.limit(c.cfg.UploadsPerMinute); wait > 0 {
		a := refused(http.StatusTooManyRequests, "resource_exhausted", "rate limit exceeded")
		a.retryAfter = wait
		return a
	}
	e, isNew := c.repo.reserve(scope, c.Key, c.Version, c.token)
	again := c.cfg.Reissue && !e.Done && e.token == c.token
	if !isNew && !again {
		const msg = "cache entry with the same key, version, and scope already exists"
		if c.cfg.DuplicateIsOK {
			return ok(response{Message: msg})
		}
		return refused(http.StatusConflict, "already_exists", msg)
	}
	url, err := s.blobs.uploadURL(e.blob, c.cfg.SAS)
	if err != nil {
		return refused(http.StatusInternalServerError, "internal", err.Error())
	}
	return ok(response{OK: true, SignedUploadURL: url})
}

func (s *Server) finalize(ctx context.Context, c call) answer {
	scope := c.writable()
	if scope == "" {
		return ok(response{Message: "cache write denied: token has no writable scopes"})
	}
	e := c.repo.reserved(scope, c.Key, c.Version)
	if e == nil {
		return refused(http.StatusNotFound, "not_found", "cache entry not found")
	}
	if c.SizeBytes == "" {
		c.SizeBytes = "0"
	}
	size, err := s.blobs.size(ctx, e.blob)
	switch want, perr := c.SizeBytes.Int64(); {
	case errors.Is(err, errNoBlob):
		return ok(response{Message: "the blob was not uploaded"})
	case err != nil:
		return refused(http.StatusInternalServerError, "internal", err.Error())
	case perr != nil || size != want:
		return ok(response{Message: fmt.Sprintf("the blob has %d bytes, not %s", size, c.SizeBytes)})
	}
	c.repo.finish(e, size)
	return ok(response{OK: true, EntryID: strconv.FormatInt(e.ID, 10)})
}

func (s *Server) download(_ context.Context, c call) answer {
	scopes := c.readable()
	if len(scopes) == 0 {
		return refused(http.StatusForbidden, "permission_denied", "cache read denied: token has no readable scopes")
	}
	e, blob, found := c.repo.find(scopes, c.Key, c.Version, c.RestoreKeys)
	if !found {
		return ok(response{})
	}
	url, err := s.blobs.downloadURL(blob, c.cfg.SAS)
	if err != nil {
		return refused(http.StatusInternalServerError, "internal", err.Error())
	}
	return ok(response{OK: true, SignedDownloadURL: url, MatchedKey: e.Key})
}
