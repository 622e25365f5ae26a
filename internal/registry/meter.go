package registry

import (
	"context"
	"io"
	"net/http"

	"github.com/mayfly-build/mayfly/internal/stall"
)

// A meter counts what goes over the wire and watches that it goes at all.
type meter struct {
	c     *Client
	rt    http.RoundTripper
	token bool
	stall *stall.Watch // nil: not watched
}

func (m *meter) RoundTrip(req *http.Request) (*http.Response, error) {
	m.c.stats.requests.Add(1)
	if m.token {
		m.c.stats.tokens.Add(1)
	}
	if req.Header.Get("User-Agent") != m.c.cfg.UserAgent {
		req = req.Clone(req.Context())
		req.Header.Set("User-Agent", m.c.cfg.UserAgent)
	}
	if req.Body != nil && req.Body != http.NoBody {
		req = req.WithContext(req.Context())
		req.Body = &upload{ReadCloser: req.Body, m: m, size: req.ContentLength}
	}
	return m.rt.RoundTrip(req)
}

// upload is a request body. Between two reads the bytes are on their way, so
// that is the time to watch.
type upload struct {
	io.ReadCloser
	m    *meter
	size int64
}

func (u *upload) Read(p []byte) (int, error) {
	u.m.stall.Stop()
	n, err := u.ReadCloser.Read(p)
	u.m.c.stats.out.Add(int64(n))
	if err != nil {
		u.m.stall.StartFor(u.size)
	} else {
		u.m.stall.Start()
	}
	return n, err
}

// answer is a response body. While a read waits, bytes should come.
type answer struct {
	io.ReadCloser
	m      *meter
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (a *answer) Read(p []byte) (int, error) {
	a.m.stall.Start()
	n, err := a.ReadCloser.Read(p)
	a.m.stall.Stop()
	a.m.c.stats.in.Add(int64(n))
	if err != nil && err != io.EOF && context.Cause(a.ctx) == stall.Err {
		err = stall.Err
	}
	return n, err
}

func (a *answer) Close() error {
	a.m.stall.Stop()
	err := a.ReadCloser.Close()
	a.cancel(nil)
	return err
}
