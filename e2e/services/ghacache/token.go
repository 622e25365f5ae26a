package ghacache

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A Permission is what a token may do in a Scope.
type Permission int

// The bits of a Permission, with GitHub's values.
const (
	Read Permission = 1 << iota
	Write
)

// A Scope is a branch, and what a token may do with its entries.
type Scope struct {
	Scope      string // "refs/heads/main"
	Permission Permission
}

type claims struct {
	AC           string `json:"ac,omitempty"` // JSON of []Scope
	RepositoryID string `json:"repository_id"`
	SCP          string `json:"scp"`
	jwt.RegisteredClaims
}

// Token mints what a job gets as ACTIONS_RUNTIME_TOKEN: good for six hours, and
// for these scopes in this order, the job's own one first.
func (r *Repository) Token(scopes ...Scope) string {
	return r.TokenUntil(time.Now().Add(6*time.Hour), scopes...)
}

// TokenUntil is Token with another end.
func (r *Repository) TokenUntil(end time.Time, scopes ...Scope) string {
	return mint(r.s.secret, r.id, end, scopes)
}

// AnyToken mints a token for servers that look at none, such as act's: its
// form is right, its signature nobody's.
func AnyToken(scopes ...Scope) string {
	return mint([]byte(rand.Text()), 1, time.Now().Add(6*time.Hour), scopes)
}

func mint(secret []byte, repository int64, end time.Time, scopes []Scope) string {
	ac, err := json.Marshal(scopes)
	if err != nil {
		panic(err) // strings and numbers can be marshalled
	}
	now := time.Now()
	t, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		AC: string(ac), RepositoryID: strconv.FormatInt(repository, 10), SCP: fmt.Sprintf("Actions.Results:%d:1", now.UnixNano()), // the run and its job
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    "https://token.actions.githubusercontent.com",
			NotBefore: jwt.NewNumericDate(now.Add(-10 * time.Minute)), ExpiresAt: jwt.NewNumericDate(end),
		},
	}).SignedString(secret)
	if err != nil {
		panic(err) // HMAC with a key of bytes does not fail
	}
	return t
}

// access is what a token gives.
type access struct {
	repo   *Repository
	token  string
	scopes []Scope
}

// access checks a token.
func (s *Server) access(token string) (access, error) {
	var c claims
	if _, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return s.secret, nil }, jwt.WithValidMethods([]string{"HS256"})); err != nil {
		return access{}, err
	}
	id, err := strconv.ParseInt(c.RepositoryID, 10, 64)
	if err != nil {
		return access{}, fmt.Errorf("repository_id: %w", err)
	}
	a := access{repo: s.repository(id), token: token}
	if a.repo == nil {
		return access{}, fmt.Errorf("no repository %d", id)
	}
	if err := json.Unmarshal([]byte(c.AC), &a.scopes); err != nil {
		return access{}, fmt.Errorf("ac: %w", err)
	}
	return a, nil
}

func (a access) readable() (out []string) {
	for _, s := range a.scopes {
		if s.Permission&Read != 0 {
			out = append(out, s.Scope)
		}
	}
	return out
}

// writable returns the scope that is written to, "" for none.
func (a access) writable() (scope string) {
	for _, s := range a.scopes {
		if s.Permission&Write != 0 {
			scope = s.Scope
		}
	}
	return scope
}
