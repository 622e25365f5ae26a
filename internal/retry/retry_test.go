package retry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-build/mayfly/internal/retry"
)

type busy struct{ after time.Duration }

func (busy) Error() string                  { return "busy" }
func (b busy) Retry() (bool, time.Duration) { return b.after >= 0, b.after }

func TestDo(t *testing.T) {
	for _, tt := range []struct {
		name     string
		err      error
		tries    int
		from, to time.Duration // time the whole takes
	}{
		{"for good", errors.New("no such thing"), 1, 0, 0},
		{"passing", io.ErrUnexpectedEOF, 4, 350 * time.Millisecond, 700 * time.Millisecond},
		{"wrapped", fmt.Errorf("get: %w", syscall.ECONNRESET), 4, 350 * time.Millisecond, 700 * time.Millisecond},
		{"refused", syscall.ECONNREFUSED, 2, 50 * time.Millisecond, 100 * time.Millisecond},
		{"says when", busy{10 * time.Second}, 4, 30 * time.Second, 30 * time.Second},
		{"says never", busy{-1}, 1, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries, retries, start := 0, 0, time.Now()
				p := retry.Policy{Attempts: 4, Backoff: 100 * time.Millisecond, OnRetry: func() { retries++ }}
				err := p.Do(t.Context(), func() error { tries++; return tt.err })
				took := time.Since(start)
				if !errors.Is(err, tt.err) || tries != tt.tries || retries != tt.tries-1 {
					t.Errorf("%d tries, %d retries, %v", tries, retries, err)
				}
				if took < tt.from || took > tt.to {
					t.Errorf("took %v, want %v to %v", took, tt.from, tt.to)
				}
			})
		})
	}
}

func TestDoEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("the user pressed ^C")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		start := time.Now()
		err := retry.Policy{}.Do(ctx, func() error { return busy{time.Hour} })
		if !errors.Is(err, cause) || err.Error() != "the user pressed ^C, after busy" || time.Since(start) != time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestBreaks(t *testing.T) {
	p := retry.Policy{Stalls: 3}
	var b retry.Breaks
	for n := range 20 { // each with some bytes between
		if b.Moved(); !b.Again(p, io.ErrUnexpectedEOF) {
			t.Errorf("break %d of a transfer that moves is the last", n)
		}
	}
	stalls := 1
	for ; b.Again(p, retry.ErrStalled); stalls++ {
		b.Moved()
	}
	if stalls != 3 {
		t.Errorf("%d stalls", stalls)
	}
	b, stalls = retry.Breaks{}, 1
	for ; stalls < 100 && b.Again(retry.Policy{}, retry.ErrStalled); stalls++ {
		b.Moved()
	}
	if stalls != 100 {
		t.Errorf("%d stalls without a limit for them", stalls)
	}
	b, n := retry.Breaks{}, 1
	for ; b.Again(p, io.ErrUnexpectedEOF); n++ {
	}
	if n != 5 {
		t.Errorf("%d breaks without a byte", n)
	}
}

func TestRecent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("not done within 5s")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		var r retry.Recent
		say := func(want string) {
			t.Helper()
			if err := r.Interrupted(ctx); !errors.Is(err, cause) || err.Error() != want {
				t.Errorf("%v, not %s", err, want)
			}
		}
		say("not done within 5s")
		r.Note(errors.New("503"))
		say("not done within 5s, after 503")
		r.Note(fmt.Errorf("put: %w", cause))
		say("put: not done within 5s")
		time.Sleep(2 * time.Minute)
		say("not done within 5s")
	})
}

func TestDoEndsInATry(t *testing.T) {
	cause := errors.New("not done within 30s")
	ctx, cancel := context.WithCancelCause(t.Context())
	first := true
	err := retry.Policy{Backoff: time.Nanosecond}.Do(ctx, func() error {
		if first {
			first = false
			return busy{}
		}
		cancel(cause)
		return fmt.Errorf("get: %w", context.Canceled)
	})
	if !errors.Is(err, cause) || err.Error() != "not done within 30s, after busy" {
		t.Errorf("%v", err)
	}
	if err := (retry.Policy{}).Do(ctx, func() error { return io.EOF }); err != io.EOF {
		t.Errorf("a fault when it is too late: %v", err)
	}
}

func TestPassing(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{&net.DNSError{IsNotFound: true}, false},
		{&net.DNSError{IsTemporary: true}, true},
		{&net.OpError{Err: syscall.ETIMEDOUT}, true},
		{context.Canceled, false},
		{context.DeadlineExceeded, false},
		{errors.New("http2: server sent GOAWAY and closed the connection"), true},
	} {
		if got, _ := retry.Passing(tt.err); got != tt.want {
			t.Errorf("Passing(%v) = %v", tt.err, got)
		}
	}
}

func TestAgain(t *testing.T) {
	p := retry.Policy{Attempts: 4, Stalls: 2, Wait: 90 * time.Second}
	for _, tt := range []struct {
		err   error
		tries int // that are made
	}{
		{io.EOF, 4},
		{fmt.Errorf("put: %w", retry.ErrStalled), 2},
		{syscall.ECONNREFUSED, 2},
		{errors.New("no such thing"), 1},
		{busy{time.Second}, 4},
		{busy{45 * time.Second}, 3},
		{busy{time.Minute}, 2},
		{busy{2 * time.Minute}, 1},
	} {
		n := 1
		for {
			if again, _ := p.Again(n, tt.err); !again {
				break
			}
			n++
		}
		if n != tt.tries {
			t.Errorf("%v: %d tries, not %d", tt.err, n, tt.tries)
		}
	}
	if again, _ := (retry.Policy{}).Again(4, retry.ErrStalled); !again {
		t.Error("without limits a stall counts more than another fault")
	}
}

func TestAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": 0, "3": 3 * time.Second, "-1": 0, "9999999": time.Minute, "soon": 0,
		"Fri, 02 Jan 2026 03:04:10 GMT": 5 * time.Second, "Fri, 02 Jan 2026 03:04:00 GMT": 0,
	} {
		if got := retry.After(in, now); got != want {
			t.Errorf("After(%q) = %v, want %v", in, got, want)
		}
	}
}
