// Package retry tries again what the network may have broken.
//
//	internal/registry, source/http, remotecache ──Policy.Do──▶ a request, again after a passing fault
//
// What is a passing fault is decided here for all of them: resets, timeouts,
// answers such as 503 and 429, and whatever an error says of itself.
package retry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// A Policy says how often to try. The zero value means the defaults.
type Policy struct {
	Attempts int           // tries in all; 0 means 5
	Backoff  time.Duration // pause before the second try, doubled for each further one; 0 means 200ms

	// Stalls is how many tries in all an exchange gets in which nothing moves
	// (ErrStalled): each costs as long as it takes to notice. 0 means Attempts.
	Stalls int

	// Wait is how long the pauses that a server asks for may last in all; a
	// server that asks for more is not waited for. 0 means any time.
	Wait time.Duration

	// OnRetry, if set, is called before each try but the first.
	OnRetry func()
}

// An Advisor is an error that knows whether trying again may help, and how
// long to wait at least.
type Advisor interface {
	error
	Retry() (again bool, after time.Duration)
}

// A Fault is an error that may go better the next time.
type Fault string

func (f Fault) Error() string { return string(f) }

// Retry implements Advisor.
func (f Fault) Retry() (again bool, after time.Duration) { return true, 0 }

// ErrStalled ends an exchange in which nothing moved for too long.
var ErrStalled error = Fault("no data for too long")

// Do calls try until it succeeds, fails for good, or the attempts are used
// up, and returns its last error. When ctx ends a wait or a try, what is
// returned is ctx's cause with the error before that.
func (p Policy) Do(ctx context.Context, try func() error) error {
	pause := p.Backoff
	if pause <= 0 {
		pause = 200 * time.Millisecond
	}
	var last error
	for n := 1; ; n++ {
		err := try()
		if err == nil || ctx.Err() != nil {
			if err != nil && last != nil && ends(ctx, err) {
				err = Interrupted(ctx, last)
			}
			return err
		}
		last = err
		again, least := p.Again(n, err)
		if !again {
			return err
		}
		// Half of the pause is chance, so that jobs that met the same fault
		// do not come back together.
		timer := time.NewTimer(max(least, pause/2+rand.N(pause/2+1)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return Interrupted(ctx, err)
		case <-timer.C:
		}
		pause *= 2
		if p.OnRetry != nil {
			p.OnRetry()
		}
	}
}

// Again reports whether to try once more after n tries in a row, the last of
// which ended with err, and how long to wait at least.
func (p Policy) Again(n int, err error) (again bool, after time.Duration) {
	most := p.Attempts
	if most <= 0 {
		most = 5
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		most = min(most, 2) // a server that is just starting, or none: one more try tells
	case errors.Is(err, ErrStalled) && p.Stalls > 0:
		most = min(most, p.Stalls)
	}
	again, after = Passing(err)
	// A server wants the same pause each time.
	tooLong := p.Wait > 0 && time.Duration(n)*after > p.Wait
	return again && n < most && !tooLong, after
}

// ends reports whether err only says that ctx has ended.
func ends(ctx context.Context, err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Cause(ctx))
}

// Breaks counts how often a transfer that is taken up where it stopped has
// broken off. The zero value is ready for use.
type Breaks struct {
	inRow  int // without a byte between them
	stalls int // in all: one that creeps from stall to stall is of no use
}

// Moved notes that bytes came.
func (b *Breaks) Moved() { b.inRow = 0 }

// Again counts a break and reports whether to go on after it.
func (b *Breaks) Again(p Policy, err error) bool {
	b.inRow++
	n := b.inRow
	if errors.Is(err, ErrStalled) {
		b.stalls++
		if p.Stalls > 0 {
			n = b.stalls
		}
	}
	again, _ := p.Again(n, err)
	return again
}

// Interrupted returns the cause of ctx's end, with the fault that came before
// it, or that it led to.
func Interrupted(ctx context.Context, fault error) error {
	cause := context.Cause(ctx)
	switch {
	case fault == nil, fault == context.Canceled, fault == context.DeadlineExceeded:
		return cause
	case errors.Is(fault, cause):
		return fault
	}
	return fmt.Errorf("%w, after %w", cause, fault)
}

// Passing reports whether trying again may help after err, and how long to
// wait at least.
func Passing(err error) (again bool, after time.Duration) {
	if a, ok := errors.AsType[Advisor](err); ok {
		return a.Retry()
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false, 0
	}
	for _, fault := range []error{
		io.ErrUnexpectedEOF, io.EOF, net.ErrClosed,
		syscall.ECONNRESET, syscall.ECONNABORTED, syscall.ECONNREFUSED, syscall.EPIPE, syscall.ETIMEDOUT,
	} {
		if errors.Is(err, fault) {
			return true, 0
		}
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.IsTemporary || dns.IsTimeout, 0
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return true, 0
	}
	// net/http and its HTTP/2 have no types for these.
	for _, text := range []string{"server closed idle connection", "connection lost", "http2: server sent GOAWAY", "stream error"} {
		if strings.Contains(err.Error(), text) {
			return true, 0
		}
	}
	return false, 0
}

// Status reports whether an answer with the HTTP status may be another one
// later.
func Status(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// maxAfter bounds a server's wish: past it a build had better say so.
const maxAfter = time.Minute

// After reads a Retry-After header, seconds or a date. It is 0 when there is
// none, and at most a minute.
func After(header string, now time.Time) time.Duration {
	var d time.Duration
	if s, err := time.ParseDuration(header + "s"); err == nil {
		d = s
	} else if at, err := http.ParseTime(header); err == nil {
		d = at.Sub(now)
	}
	return max(0, min(d, maxAfter))
}
