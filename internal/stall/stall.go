// Package stall ends exchanges in which nothing moves.
//
//	internal/registry ──Watch──▶ a timer that bytes put off
//	cmd (gha, s3, azblob) ──Transport──▶ the same around any http.RoundTripper
//
// A time limit for a whole transfer would have to know its size; one for the
// silence between two of its bytes does not.
package stall

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/mayfly-build/mayfly/internal/retry"
)

// Err ends an exchange that moves nothing. It may go better the next time.
var Err = retry.ErrStalled

// A Watch cancels an exchange with Err when nothing moved for a while. A nil
// Watch watches nothing. Its methods may be called at once.
type Watch struct {
	after  time.Duration
	cancel context.CancelCauseFunc

	mu    sync.Mutex // guards the fields below
	timer *time.Timer
	ended bool
}

// New returns a Watch that calls cancel when it was started and not stopped
// for after.
func New(after time.Duration, cancel context.CancelCauseFunc) *Watch {
	return &Watch{after: after, cancel: cancel}
}

// Start begins a silence: something is to move now.
func (w *Watch) Start() { w.StartFor(0) }

// StartFor begins a silence in which a server may have size bytes to hash or to
// move before it answers: it may last as much longer as that takes at 8 MiB/s.
func (w *Watch) StartFor(size int64) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	d := w.after + time.Duration(max(size, 0)/moved)*time.Millisecond
	if w.timer == nil {
		w.timer = time.AfterFunc(d, func() { w.cancel(Err) })
		return
	}
	w.timer.Reset(d)
}

// moved is how many bytes a server is taken to move at least in a millisecond.
const moved = 8 << 10

// Stop ends the silence.
func (w *Watch) Stop() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}

// End stops the silence for good: the exchange is over, whoever still looks
// for the end of what was sent.
func (w *Watch) End() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

type sizeKey struct{}

// Moving returns ctx for an exchange that makes the server move size bytes
// which are not in the request, such as the parts of an upload.
func Moving(ctx context.Context, size int64) context.Context {
	return context.WithValue(ctx, sizeKey{}, size)
}

// Transport returns base with exchanges ended that move no byte for after:
// before the answer, between two reads of a body, or after the last byte of an
// upload; then a server has time for the bytes, see StartFor and Moving.
func Transport(base http.RoundTripper, after time.Duration) http.RoundTripper {
	return &transport{base, after}
}

type transport struct {
	base  http.RoundTripper
	after time.Duration
}

// CloseIdleConnections closes those of the base.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	w := New(t.after, cancel)
	req = req.WithContext(ctx)
	size, _ := ctx.Value(sizeKey{}).(int64)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &upload{req.Body, w, size + req.ContentLength}
	}
	w.StartFor(size)
	resp, err := t.base.RoundTrip(req)
	w.Stop()
	if err != nil {
		if errors.Is(context.Cause(ctx), Err) {
			err = Err
		}
		w.End()
		cancel(nil)
		return nil, err
	}
	resp.Body = &answer{resp.Body, w, ctx, cancel}
	return resp, nil
}

// An upload is a request body. Between two reads the bytes are on their way:
// that is the time to watch.
type upload struct {
	io.ReadCloser
	w    *Watch
	size int64 // that the server has to do with afterwards
}

func (u *upload) Read(p []byte) (int, error) {
	u.w.Stop()
	n, err := u.ReadCloser.Read(p)
	if err != nil {
		u.w.StartFor(u.size)
	} else {
		u.w.Start()
	}
	return n, err
}

// An answer is a response body. While a read waits, bytes should come.
type answer struct {
	io.ReadCloser
	w      *Watch
	ctx    context.Context // of the exchange, which ends with the body
	cancel context.CancelCauseFunc
}

func (a *answer) Read(p []byte) (int, error) {
	a.w.Start()
	n, err := a.ReadCloser.Read(p)
	a.w.Stop()
	if err != nil && err != io.EOF && errors.Is(context.Cause(a.ctx), Err) {
		err = Err
	}
	if err != nil { // not everybody closes a body that has ended
		a.end()
	}
	return n, err
}

func (a *answer) Close() error {
	err := a.ReadCloser.Close()
	a.end()
	return err
}

// end lets go of the exchange.
func (a *answer) end() {
	a.w.End()
	a.cancel(nil)
}
