// Package hint carries advice along with an error.
//
//	anything that fails ──With──▶ error chain ──Of──▶ cmd, action (printed once, below the error)
//
// The text of the error is not changed: the hint rides beside it.
package hint

import "errors"

type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// With returns err with advice for the user: what to do about it, as an
// imperative without a final stop. A nil err stays nil, an empty hint adds
// nothing.
func With(err error, hint string) error {
	if err == nil || hint == "" {
		return err
	}
	return &hinted{err: err, hint: hint}
}

// Of returns the outermost hint in the chain of err, "" when there is none.
// The outermost one was given by whoever knew most about what was wanted.
func Of(err error) string {
	if h, ok := errors.AsType[*hinted](err); ok {
		return h.hint
	}
	return ""
}
