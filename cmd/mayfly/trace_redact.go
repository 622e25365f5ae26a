package main

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/mayfly-build/mayfly/engine/secret"
)

// A redactor removes what is secret from texts that leave the machine: values
// that it knows, and what looks like a credential. It may be used from several
// goroutines at once.
type redactor struct {
	mu     sync.Mutex
	values []string // guarded by mu

	userinfo      *regexp.Regexp // of a URL
	authorization *regexp.Regexp // a header
	assignment    *regexp.Regexp // NAME=VALUE, also in a URL's query; the value may be quoted
	token         *regexp.Regexp // what services make recognisable
}

// newRedactor returns a redactor that knows the build arguments that are
// called like credentials.
func newRedactor(w world, o buildOptions) *redactor {
	r := &redactor{
		userinfo:      regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^/\s@"']+@(?:sha256:)?`),
		authorization: regexp.MustCompile(`(?i)((?:authorization["']?\s*[:=]\s*["']?(?:bearer|basic|token)?|\bbearer)\s+)[A-Za-z0-9._~+/=-]{6,}`),
		assignment:    regexp.MustCompile(`[\w.-]+=(?:"[^"]*"|'[^']*'|\\"[^"]*"|[^\s,;&"']+)`),
		token:         regexp.MustCompile(`\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)`),
	}
	for _, arg := range o.buildArgs {
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			value = w.env(name)
		}
		if isCredential(name) {
			r.learn([]byte(value))
		}
	}
	return r
}

// watch returns a store whose secrets are known once they were given: they are
// not read before, since a file may be a pipe.
func (r *redactor) watch(s secret.Store) secret.Store { return watchedSecrets{s, r} }

type watchedSecrets struct {
	secret.Store
	r *redactor
}

func (s watchedSecrets) Get(ctx context.Context, id string) ([]byte, error) {
	dt, err := s.Store.Get(ctx, id)
	if err == nil {
		s.r.learn(dt)
	}
	return dt, err
}

// learn remembers a value and, when it has several lines, each of them. A
// value may stand in a text quoted, as Go does it.
func (r *redactor) learn(value []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, word := range secret.Words(value) {
		quoted := strconv.Quote(string(word))
		for _, s := range []string{string(word), quoted[1 : len(quoted)-1]} {
			if !slices.Contains(r.values, s) {
				r.values = append(r.values, s)
			}
		}
	}
	// The longer first: one may be part of another.
	slices.SortStableFunc(r.values, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
}

// text returns s with *** in place of what is secret.
func (r *redactor) text(s string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range r.values {
		s = strings.ReplaceAll(s, v, "***")
	}
	s = r.userinfo.ReplaceAllStringFunc(s, func(m string) string {
		if strings.HasSuffix(m, "@sha256:") { // of an image: docker-image://alpine@sha256:…
			return m
		}
		return m[:strings.Index(m, "://")] + "://***@"
	})
	s = r.authorization.ReplaceAllString(s, "$1***")
	return r.token.ReplaceAllString(r.assignments(s), "***")
}

// assignments removes the values of NAME=VALUE whose name is a credential's,
// also where one is the value of another: "--opt=token=x".
func (r *redactor) assignments(s string) string {
	return r.assignment.ReplaceAllStringFunc(s, func(m string) string {
		key, value, _ := strings.Cut(m, "=")
		if isCredential(key) || isSignature(key) {
			return key + "=***"
		}
		return key + "=" + r.assignments(value)
	})
}

// isSignature reports whether a parameter of a signed URL, or a name that
// isCredential does not have, gives access.
func isSignature(key string) bool {
	key = strings.ToLower(key)
	return key == "sig" || slices.ContainsFunc([]string{"signature", "credential", "passwd", "apikey", "api_key", "private_key"}, func(word string) bool {
		return strings.Contains(key, word)
	})
}
