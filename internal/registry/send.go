package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-build/mayfly/internal/stall"
)

// A request is one question to a host, as it stands before it is known how
// the host is spoken to and by whom.
type request struct {
	method string
	path   string // below /v2/
	query  url.Values
	at     *url.URL // where to send it instead: an upload's location
	header http.Header
	scopes []string

	// body opens the request body anew for each try; size is its length.
	body func() (io.ReadCloser, error)
	size int64

	ok []int // the wanted statuses
}

// retry calls try again after a passing fault.
func (c *Client) retry(ctx context.Context, try func() error) error {
	return c.policy.Do(ctx, try)
}

// do sends r, again after a fault, until the answer has a wanted status. The
// caller closes the body.
func (c *Client) do(ctx context.Context, h *host, r request) (*http.Response, error) {
	var resp *http.Response
	err := c.retry(ctx, func() error {
		var err error
		resp, err = c.once(ctx, h, r)
		return err
	})
	return resp, err
}

// once sends r, with credentials as soon as the host asks for them and in the
// dialect the host turns out to speak, but without repeating it after a fault.
func (c *Client) once(ctx context.Context, h *host, r request) (*http.Response, error) {
	scopes := r.scopes
	var sent string
	var refusal *Error
	for {
		header, err := c.authorization(ctx, h, scopes)
		if err != nil {
			return nil, err
		}
		if refusal != nil && header == sent {
			return nil, refusal // there is nothing better to show
		}
		d, settled := h.dialect()
		resp, err := c.send(ctx, h, d, r, header)
		if !settled && otherDialect(d, resp, err) && h.reject(d) {
			drop(resp)
			continue
		}
		if err != nil {
			return nil, err
		}
		h.settle(d)
		if slices.Contains(r.ok, resp.StatusCode) {
			return resp, nil
		}
		answer := answerError(resp, time.Now())
		drop(resp)
		ch := challengeOf(resp)
		if resp.StatusCode != http.StatusUnauthorized || ch == nil || !h.owns(resp.Request.URL) || refusal != nil && sent != "" {
			return nil, answer
		}
		// Sent without being asked who we are, or with a token that ran out
		// or does not cover what the registry wants to see.
		h.refused(ch, header)
		want := strings.Fields(ch.Parameters["scope"])
		if header != "" && len(want) > 0 && !covers(scopes, want) {
			scopes = append(slices.Clone(scopes), want...)
		}
		refusal, sent = answer, header
	}
}

// otherDialect reports whether an exchange failed because the host speaks
// TLS where we did not, or the other way round.
func otherDialect(d dialect, resp *http.Response, err error) bool {
	if d.scheme == "https" {
		// Nobody listens on 443, or not with TLS.
		return err != nil && (speaksPlainHTTP(err) || isRefused(err) || errors.Is(err, io.EOF))
	}
	if err != nil {
		// A TLS alert instead of a status line.
		return strings.Contains(err.Error(), "malformed HTTP")
	}
	if resp.StatusCode != http.StatusBadRequest {
		return false
	}
	if resp.Request.Method == http.MethodHead {
		return true // a TLS server's words are lost; a registry has no reason for a 400 here
	}
	// Peek, and leave the body as it was for whoever reports it.
	head, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	resp.Body = rejoin{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
	return bytes.Contains(head, []byte("HTTPS")) && bytes.Contains(head, []byte("HTTP request"))
}

type rejoin struct {
	io.Reader
	io.Closer
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

func (h *host) owns(u *url.URL) bool { return u.Host == h.addr }

func (c *Client) transport(d dialect) http.RoundTripper {
	if d.lax {
		return c.lax
	}
	return c.verified
}

// send sends r one time and returns whatever is answered.
func (c *Client) send(ctx context.Context, h *host, d dialect, r request, auth string) (*http.Response, error) {
	u := r.at
	if u == nil {
		u = &url.URL{Scheme: d.scheme, Host: h.addr, Path: "/v2/" + r.path, RawQuery: r.query.Encode()}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), nil)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("make a request: %w", plain(err))
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	if auth != "" && h.owns(u) {
		req.Header.Set("Authorization", auth)
	}
	m := &meter{c: c, rt: c.transport(d), stall: stall.New(c.cfg.Stall, cancel)}
	if r.body != nil {
		if req.Body, err = r.body(); err != nil {
			cancel(nil)
			return nil, err
		}
		req.GetBody, req.ContentLength = r.body, r.size
		if r.size == 0 {
			req.Body.Close()
			req.Body, req.GetBody = http.NoBody, nil
		}
	}
	client := &http.Client{Transport: m, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		// A CDN below the registry's domain is still somebody else, and
		// a presigned URL with a second credential is refused by S3.
		if !h.owns(next.URL) {
			next.Header.Del("Authorization")
		}
		return nil
	}}
	m.stall.Start()
	resp, err := client.Do(req)
	m.stall.Stop()
	if err != nil {
		if errors.Is(context.Cause(ctx), stall.Err) {
			err = stall.Err
		}
		cancel(nil)
		return nil, plain(err)
	}
	resp.Body = &answer{ReadCloser: resp.Body, m: m, ctx: ctx, cancel: cancel}
	return resp, nil
}

// drop closes a response whose body nobody wants, in a way that lets its
// connection be used again.
func drop(resp *http.Response) {
	if resp == nil {
		return
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	resp.Body.Close()
}
