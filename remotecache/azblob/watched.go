package azblob

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// watched sends the SDK's requests and breaks off those on which nothing
// moves: neither the SDK nor net/http notices a body that just stops.
type watched struct {
	client *http.Client
	after  time.Duration
}

func newWatched(rt http.RoundTripper, after time.Duration) *watched {
	if rt == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConns = 0 // no limit but the one for each host
		t.MaxIdleConnsPerHost = probes
		t.DisableCompression = true  // digests and ranges are of the bytes as stored
		t.WriteBufferSize = 64 << 10 // blobs: fewer, larger writes than with net/http's 4 KiB
		t.ReadBufferSize = 64 << 10
		rt = t
	}
	return &watched{client: &http.Client{Transport: rt}, after: or(max(after, 0), time.Minute)}
}

// stalledError says that nothing moved. To net/http's callers it is a timeout.
type stalledError struct{ after time.Duration }

func (e *stalledError) Error() string   { return fmt.Sprintf("no byte moved for %s", e.after) }
func (e *stalledError) Timeout() bool   { return true }
func (e *stalledError) Temporary() bool { return true }

// Do implements policy.Transporter.
func (w *watched) Do(req *http.Request) (*http.Response, error) {
	stalled := &stalledError{w.after}
	ctx, cancel := context.WithCancelCause(req.Context())
	x := &exchange{ctx: ctx, stalled: stalled, cancel: cancel}
	x.timer = time.AfterFunc(w.after, func() { cancel(stalled) })
	req = req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &sent{req.Body, x}
	}
	resp, err := w.client.Do(req)
	x.timer.Stop()
	if err != nil {
		err = x.why(err)
		cancel(nil)
		return nil, err
	}
	resp.Body = &received{resp.Body, x}
	return resp, nil
}

// An exchange is a request on its way and its answer.
type exchange struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	stalled *stalledError
}

// why returns err, or the reason for it if that was a stall.
func (x *exchange) why(err error) error {
	if context.Cause(x.ctx) == x.stalled {
		return x.stalled
	}
	return err
}

// sent is a request body. Between two reads the bytes are on their way, so
// that is the time to watch.
type sent struct {
	io.ReadCloser
	x *exchange
}

func (s *sent) Read(p []byte) (int, error) {
	s.x.timer.Stop()
	defer s.x.timer.Reset(s.x.stalled.after)
	return s.ReadCloser.Read(p)
}

// received is a response body. While a read waits, bytes should come.
type received struct {
	io.ReadCloser
	x *exchange
}

func (r *received) Read(p []byte) (int, error) {
	r.x.timer.Reset(r.x.stalled.after)
	n, err := r.ReadCloser.Read(p)
	r.x.timer.Stop()
	if err != nil && err != io.EOF {
		err = r.x.why(err)
	}
	return n, err
}

func (r *received) Close() error {
	r.x.timer.Stop()
	err := r.ReadCloser.Close()
	r.x.cancel(nil)
	return err
}
