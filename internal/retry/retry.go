// Package retry tries things again that may go better the next time.
//
//	remotecache, backends ──func──▶ Policy.Do ──▶ the func, until it succeeds or fails for good
//
// Whoever knows why something failed says so by wrapping the error: After for
// faults that pass, Permanent for those that do not. Of errors that nobody
// wrapped, the faults of a network pass.
package retry

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"time"
)

// A Policy says how often and how fast to try. The zero value is ready for
// use.
type Policy struct {
	Attempts int           // tries in all; 0 means 4
	Pause    time.Duration // before the second try, doubled for each further one; 0 means 250ms
	MaxPause time.Duration // bound of a pause, also of one a server asked for; 0 means 30s
}

func (p Policy) withDefaults() Policy {
	if p.Attempts <= 0 {
		p.Attempts = 4
	}
	if p.Pause <= 0 {
		p.Pause = 250 * time.Millisecond
	}
	if p.MaxPause <= 0 {
		p.MaxPause = 30 * time.Second
	}
	return p
}

// Do calls f until it returns nil, an error that does not pass, or the
// attempts are used up, and returns what it returned last. When ctx ends
// while waiting, the error is that of f, joined with ctx's cause.
func (p Policy) Do(ctx context.Context, f func() error) error {
	p = p.withDefaults()
	for n := 1; ; n++ {
		err := f()
		if err == nil || ctx.Err() != nil || n == p.Attempts || !Passing(err) {
			return err
		}
		if werr := p.Wait(ctx, n, err); werr != nil {
			return errors.Join(werr, err)
		}
	}
}

// Wait pauses after try n (the first is 1) failed with err: for as long as err
// asks, at least for the policy's pause, half of which is chance so that jobs
// that met the same fault do not come back together. It returns early, with
// the cause, when ctx ends.
func (p Policy) Wait(ctx context.Context, n int, err error) error {
	p = p.withDefaults()
	pause := p.MaxPause
	if shift := n - 1; shift < 30 && p.Pause<<shift > 0 {
		pause = min(p.Pause<<shift, p.MaxPause)
	}
	pause = pause/2 + rand.N(pause/2+1)
	if a, ok := errors.AsType[*after](err); ok {
		pause = max(pause, min(a.pause, p.MaxPause))
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// Limit returns how many tries the policy allows in all.
func (p Policy) Limit() int { return p.withDefaults().Attempts }

type after struct {
	err   error
	pause time.Duration
}

func (a *after) Error() string { return a.err.Error() }
func (a *after) Unwrap() error { return a.err }

// After marks err as one that passes, after pause at the earliest (0: no
// wish). A nil err stays nil.
func After(err error, pause time.Duration) error {
	if err == nil {
		return nil
	}
	return &after{err, pause}
}

type permanent struct{ err error }

func (p *permanent) Error() string { return p.err.Error() }
func (p *permanent) Unwrap() error { return p.err }

// Permanent marks err as one that will come again, or that has been tried
// again enough. A nil err stays nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanent{err}
}

// Passing reports whether trying again may help. The outermost mark decides;
// without one, faults of the network pass and all else stays.
func Passing(err error) bool {
	for e := err; e != nil; e = errors.Unwrap(e) {
		switch e.(type) {
		case *after:
			return true
		case *permanent:
			return false
		}
	}
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return false
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.Is(err, syscall.ECONNABORTED), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, net.ErrClosed):
		return true
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.IsTemporary || dns.IsTimeout
	}
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}
