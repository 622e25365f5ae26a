package gha

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
)

// A service is one of the two protocols. Errors are final.
type service interface {
	// lookup returns the entry with a key, or the newest one whose key begins
	// with it; false when there is none.
	lookup(ctx context.Context, key string, prefix bool) (entry, bool, error)

	// reserve begins an entry of size bytes. The error is errExists when there
	// is one, or a reservation of one, and ErrReadOnly when there may be none.
	reserve(ctx context.Context, key string, size int64) (slot, error)

	// upload sends the bytes of the entry; it may be called again after an
	// error. s may change to a slot that is good for longer.
	upload(ctx context.Context, s *slot, size int64, src io.ReaderAt) error

	// commit makes the entry one that can be found.
	commit(ctx context.Context, s slot, size int64) error
}

// An entry is what a look-up found.
type entry struct {
	key string // the whole
	url string // signed, for reading its bytes; good for a while
}

// A slot is a reservation.
type slot struct {
	key  string
	size int64  // that was asked for
	at   string // v1: the entry's ID; v2: a signed URL for writing its bytes
}

// errExists says that a key cannot be reserved.
var errExists = errors.New("the entry exists already, or is being made")

// Texts with which services refuse; they are the protocol, no prose.
const (
	textWriteDenied = "cache write denied"
	textExists      = "already exists"
	textQuota       = "insufficient usage"
)

// exists reports whether a refusal means errExists.
func exists(err error) bool {
	var e *answerError
	if !errors.As(err, &e) {
		return false
	}
	return e.status == http.StatusConflict || e.code == "already_exists" || strings.Contains(e.code, "AlreadyExists") ||
		e.status == http.StatusBadRequest && strings.Contains(strings.ToLower(e.message), textExists)
}

// denied reports whether a refusal to reserve means that the token is for
// reading.
func denied(err error) bool {
	var e *answerError
	return errors.As(err, &e) && (e.status == http.StatusForbidden || strings.Contains(e.message, textWriteDenied))
}

// refused reports whether err is an answer with one of the statuses.
func refused(err error, statuses ...int) bool {
	var e *answerError
	return errors.As(err, &e) && slices.Contains(statuses, e.status)
}
