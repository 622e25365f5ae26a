package http

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"time"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/retry"
)

// A download is one file on its way, through as many tries as it takes.
type download struct {
	s    *Source
	id   Identifier
	auth string
	f    *os.File
	hash hash.Hash

	size   int64       // bytes in f and hash
	header http.Header // of the first try's response
	mark   string      // what tells whether the rest is the rest of the same; "" means start over
}

// A statusError is an answer without the file.
type statusError struct {
	status int
	after  time.Duration
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%d %s", e.status, http.StatusText(e.status))
}

// Retry says whether a later answer may differ (see retry.Advisor).
func (e *statusError) Retry() (bool, time.Duration) { return retry.Status(e.status), e.after }

type stalledError struct{ after time.Duration }

func (e *stalledError) Error() string                { return fmt.Sprintf("no data for %v", e.after) }
func (e *stalledError) Retry() (bool, time.Duration) { return true, 0 }

// try downloads what is missing.
func (d *download) try(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := &stalledError{d.s.cfg.Stall}
	watch := time.AfterFunc(stalled.after, func() { cancel(stalled) })
	defer watch.Stop()
	err := d.transfer(ctx, func() { watch.Reset(stalled.after) })
	if err != nil && errors.Is(context.Cause(ctx), stalled) {
		return stalled
	}
	return err
}

func (d *download) transfer(ctx context.Context, moved func()) error {
	resp, err := d.send(ctx)
	if err != nil {
		return d.explain(err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusPartialContent && d.mark != "":
		// f and hash go on where they are.
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		if err := d.restart(resp); err != nil {
			return err
		}
	default:
		return d.explain(&statusError{resp.StatusCode, retry.After(resp.Header.Get("Retry-After"), time.Now())})
	}
	n, err := io.Copy(io.MultiWriter(d.f, d.hash), reader(func(p []byte) (int, error) {
		n, err := resp.Body.Read(p)
		moved()
		return n, err
	}))
	d.size += n
	return plain(err)
}

type reader func([]byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

// restart makes ready for the file from its start.
func (d *download) restart(resp *http.Response) error {
	if _, err := d.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := d.f.Truncate(0); err != nil {
		return err
	}
	d.hash.Reset()
	d.size, d.header, d.mark = 0, resp.Header, ""
	// The rest of a file can be had only of its bytes as they are, and only if
	// the server can tell them from others: by a strong tag, or a date.
	if !resp.Uncompressed && resp.Header.Get("Accept-Ranges") == "bytes" {
		d.mark = resp.Header.Get("Last-Modified")
		if tag := resp.Header.Get("ETag"); len(tag) > 2 && tag[0] == '"' {
			d.mark = tag
		}
	}
	return nil
}

func (d *download) send(ctx context.Context) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.id.URL, nil)
	if err != nil {
		return nil, err
	}
	if req.URL.Host == uploadHost {
		return d.s.upload(ctx, req.URL)
	}
	req.Header.Set("User-Agent", d.s.cfg.UserAgent)
	for _, h := range d.id.header {
		req.Header.Set(h.Name, h.Value)
	}
	if d.auth != "" {
		req.Header.Set("Authorization", d.auth)
	}
	if d.size > 0 && d.mark != "" {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.size))
		req.Header.Set("If-Range", d.mark)
	}
	return (&http.Client{Transport: d.s.cfg.Transport}).Do(req)
}

// upload opens what the client sends.
func (s *Source) upload(ctx context.Context, u *url.URL) (*http.Response, error) {
	if s.cfg.Upload == nil {
		return nil, errors.New("the client sends no files")
	}
	body, err := s.cfg.Upload(ctx, u)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: body}, nil
}

// plain takes the URL out of an error of net/http: it may carry credentials,
// and the caller names it anyway.
func plain(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

func (d *download) explain(err error) error {
	err = plain(err)
	host := ""
	if u, uerr := url.Parse(d.id.URL); uerr == nil {
		host = u.Hostname()
	}
	if se, ok := errors.AsType[*statusError](err); ok {
		switch se.status {
		case http.StatusUnauthorized, http.StatusForbidden:
			return hint.With(err, fmt.Sprintf("give the build a token for the host as the secret HTTP_AUTH_TOKEN_%s", host))
		case http.StatusNotFound, http.StatusGone:
			return hint.With(err, "check the URL")
		}
		return err
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return hint.With(err, "check the name of the host "+host)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return hint.With(err, "check that a server listens on "+host)
	}
	return err
}
