package gha

import (
	"context"
	"sync"
	"time"

	"github.com/mayfly-build/mayfly/internal/retry"
)

// A Limiter makes callers wait for their turn, from several goroutines at
// once; the error of Wait is that of ctx. A *rate.Limiter of golang.org/x/time
// is one, too.
type Limiter interface {
	Wait(ctx context.Context) error
}

// githubUploads is how many entries a repository may begin in a minute
// (GitHub's changelog of 2026-01-16).
const githubUploads = 200

// PerMinute returns a Limiter that lets n pass at once, and never more than n
// in any 60 seconds: a service that counts by the minute sees its limit kept,
// and a build with fewer blobs never waits. An n below 1 means 1.
func PerMinute(n int) Limiter { return &perMinute{passed: make([]time.Time, max(n, 1))} }

type perMinute struct {
	mu     sync.Mutex
	passed []time.Time // when the last ones passed or will, a ring
	next   int         // the oldest of them
}

func (l *perMinute) Wait(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	l.mu.Lock()
	at := time.Now()
	if oldest := l.passed[l.next]; !oldest.IsZero() && oldest.Add(time.Minute).After(at) {
		at = oldest.Add(time.Minute)
	}
	l.passed[l.next] = at
	l.next = (l.next + 1) % len(l.passed)
	l.mu.Unlock()
	return sleep(ctx, time.Until(at))
}

// A gate holds back the requests of one kind while the service wants none.
type gate struct {
	mu    sync.Mutex
	until time.Time
	dry   time.Time // since when none has passed; zero while they do
	why   error     // the last refusal
}

// refused notes a refusal and returns since when there are only refusals.
func (g *gate) refused(err error) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.why = err
	if g.dry.IsZero() {
		g.dry = time.Now()
	}
	return g.dry
}

// passed notes that a request was let in.
func (g *gate) passed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dry = time.Time{}
}

func (g *gate) wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		d, why := time.Until(g.until), g.why
		g.mu.Unlock()
		if d <= 0 {
			return nil
		}
		if sleep(ctx, d) != nil {
			return retry.Interrupted(ctx, why)
		}
	}
}

// shut closes the gate for at least d.
func (g *gate) shut(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until := time.Now().Add(d); until.After(g.until) {
		g.until = until
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
