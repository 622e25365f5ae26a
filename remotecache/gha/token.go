package gha

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache"
)

// A token is what a job's runtime token says. Its signature is the service's
// business.
type token struct {
	scopes  []scope // in the token's order: the job's own one first
	expires time.Time
}

// A scope is a branch whose entries may be used.
type scope struct {
	Scope      string // "refs/heads/main"
	Permission int    // canRead, canWrite
}

const (
	canRead  = 1
	canWrite = 2
)

func parseToken(jwt string) (token, error) {
	t, err := decodeToken(jwt)
	if err != nil {
		err = hint.With(fmt.Errorf("the cache token (ACTIONS_RUNTIME_TOKEN) cannot be read: %w", err),
			"pass the runner's token on to this step: crazy-max/ghaction-github-runtime does it for `run:` steps")
	}
	return t, err
}

func decodeToken(jwt string) (token, error) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return token{}, errors.New("it is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return token{}, errors.New("its payload is not base64") // err would show some of it
	}
	var claims struct {
		AC  string  `json:"ac"`
		Exp float64 `json:"exp"` // seconds since 1970
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return token{}, errors.New("its payload is not the JSON of claims")
	}
	if claims.AC == "" {
		return token{}, errors.New("it has no access controls (claim ac)")
	}
	var t token
	if err := json.Unmarshal([]byte(claims.AC), &t.scopes); err != nil {
		return token{}, errors.New("its access controls (claim ac) are not a list of scopes")
	}
	if claims.Exp > 0 {
		t.expires = time.Unix(int64(claims.Exp), 0)
	}
	return t, nil
}

// writable returns the scope that is written to: the last one that may be, as
// BuildKit has it; false for none. Outside of GitHub its name may be "".
func (t token) writable() (string, bool) {
	for _, s := range slices.Backward(t.scopes) {
		if s.Permission&canWrite != 0 {
			return s.Scope, true
		}
	}
	return "", false
}

// readable returns the scopes that may be read, the one that is written to
// first, then in the token's order: own branch before base branch. A scope that
// may only be written is among them, as BuildKit has it: act's tokens have no
// others, and a service that means it refuses.
func (t token) readable() []string {
	own, has := t.writable()
	var out []string
	for _, s := range t.scopes {
		switch {
		case s.Permission&(canRead|canWrite) == 0:
		case has && s.Scope == own:
			out = append([]string{s.Scope}, out...)
		default:
			out = append(out, s.Scope)
		}
	}
	return out
}

func (t token) ended() bool { return !t.expires.IsZero() && time.Now().After(t.expires) }

func (t token) expired() error {
	return fmt.Errorf("the job's cache token expired at %s", t.expires.UTC().Format(time.RFC3339))
}

// A Mode is what the runner lets a job do with caches, $ACTIONS_CACHE_MODE.
// Another value, such as "", forbids nothing.
type Mode string

// The modes that forbid something, and the one that does not.
const (
	ModeNone      Mode = "none"
	ModeRead      Mode = "read"
	ModeWrite     Mode = "write"
	ModeWriteOnly Mode = "write-only"
)

func (m Mode) reads() bool  { return m != ModeNone && m != ModeWriteOnly }
func (m Mode) writes() bool { return m != ModeNone && m != ModeRead }

// Writable implements remotecache.Guard: it looks at the token and the Mode.
func (b *Backend) Writable() error {
	if !b.cfg.Mode.writes() {
		return hint.With(fmt.Errorf("the job's cache-mode is %q: %w", b.cfg.Mode, remotecache.ErrReadOnly),
			"set `cache-mode: write` for the job where the workflow may write the cache")
	}
	if b.token.ended() {
		return hint.With(fmt.Errorf("%w: %w", b.token.expired(), remotecache.ErrReadOnly), hintExpired)
	}
	if _, ok := b.token.writable(); ok {
		return nil
	}
	readable := "nothing"
	if list := b.token.readable(); len(list) > 0 {
		readable = strings.Join(list, ", ")
	}
	return hint.With(fmt.Errorf("the job's cache token may only read (%s): %w", readable, remotecache.ErrReadOnly), hintReadOnly)
}

const (
	hintReadOnly = "save the cache in a workflow on push, schedule or workflow_dispatch: on the default branch GitHub gives a " +
		"read-only cache to events that outsiders can trigger (pull_request_target, issue_comment, workflow_run of a fork)"
	hintExpired = "make the job shorter: its cache token lasts about 6 hours"
)
