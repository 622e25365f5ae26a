package gha

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/retry"
	"github.com/mayfly-build/mayfly/remotecache"
)

// A client sends requests to the service, its storage and the REST API, and
// tries again as often as that helps.
type client struct {
	http    *http.Client
	agent   string
	policy  retry.Policy
	timeout time.Duration // how long one request may be put off by a service that is asked too often
	drought time.Duration // the same, while it takes no other request
}

// A request is one that may be sent more than once.
type request struct {
	op     string // what it is, for errors: "CreateCacheEntry"
	method string
	url    string
	bearer string // token; "" sends none
	header http.Header
	body   func() io.Reader // nil: none
	length int64            // of body
	gate   *gate            // nil: goes at any time
}

// maxPause bounds the pause after a 429 that names none.
const maxPause = 30 * time.Second

// send returns the answer to r if its status is 2xx; its body is the caller's
// to close. Other answers are an *answerError. A 429 is waited for as long as
// timeout and drought allow, other passing faults are tried again as the policy
// says.
func (c *client) send(ctx context.Context, r request) (*http.Response, error) {
	g := r.gate
	if g == nil {
		g = &gate{} // of this request alone
	}
	begin, pause := time.Now(), time.Second
	for {
		resp, err := c.attempts(ctx, r, g)
		refusal, ok := errors.AsType[*answerError](err)
		if !ok || refusal.status != http.StatusTooManyRequests || ctx.Err() != nil {
			if err == nil {
				g.passed()
			}
			return resp, err
		}
		wait := refusal.after
		if wait <= 0 {
			wait = pause/2 + rand.N(pause/2)
			pause = min(2*pause, maxPause)
		}
		since := g.refused(err)
		if time.Since(begin)+wait > c.timeout || time.Since(since)+wait > c.drought {
			return nil, hint.With(fmt.Errorf("after %s: %w", time.Since(since).Round(time.Second), err),
				"the repository uses its cache too often for GitHub's limits: export with mode=min, or from fewer jobs at once")
		}
		g.shut(wait)
	}
}

func (c *client) attempts(ctx context.Context, r request, g *gate) (resp *http.Response, err error) {
	err = c.policy.Do(ctx, func() (err error) {
		if err := g.wait(ctx); err != nil {
			return err
		}
		resp, err = c.once(ctx, r)
		return err
	})
	return resp, err
}

func (c *client) once(ctx context.Context, r request) (*http.Response, error) {
	var body io.Reader
	if r.body != nil && r.length > 0 {
		body = r.body()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, body)
	if err != nil {
		return nil, fmt.Errorf("%s: the service gave a URL that cannot be used", r.op) // err would show it
	}
	for name, values := range r.header {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", c.agent)
	if r.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+r.bearer)
	}
	if body != nil {
		req.ContentLength = r.length
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // its URL may carry a signature
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("%s on %s: %w", r.op, req.URL.Host, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, answerOf(r.op, req.URL.Host, resp)
}

// An answerError is an answer that was not the wanted one.
type answerError struct {
	op, host string
	status   int
	code     string // the service's, such as "already_exists"; may be ""
	message  string // the service's own words; may be ""
	after    time.Duration
}

func (e *answerError) Error() string {
	s := fmt.Sprintf("%s on %s: %d %s", e.op, e.host, e.status, http.StatusText(e.status))
	if e.code != "" {
		s = fmt.Sprintf("%s on %s: %d %s", e.op, e.host, e.status, e.code)
	}
	if e.message != "" {
		s += ": " + e.message
	}
	return s
}

// Retry implements retry.Advisor. A 429 is the business of send.
func (e *answerError) Retry() (again bool, after time.Duration) {
	return retry.Status(e.status) && e.status != http.StatusTooManyRequests, e.after
}

// maxAnswer bounds the JSON of an answer that is read.
const maxAnswer = 1 << 20

func answerOf(op, host string, resp *http.Response) *answerError {
	e := &answerError{op: op, host: host, status: resp.StatusCode, after: retry.After(resp.Header.Get("Retry-After"), time.Now())}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // what came says enough
	var doc struct {
		Code, Msg string // Twirp
		Message   string // v1, REST
		TypeKey   string // v1
		Error     string // act
	}
	// A byte order mark may stand before it.
	if json.Unmarshal(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), &doc) == nil {
		e.code = oneLine(doc.Code+doc.TypeKey, 80)
		e.message = oneLine(doc.Msg+doc.Message+doc.Error, 300)
		return e
	}
	// Azure's messages may repeat what was signed: only the code is shown.
	e.code = oneLine(resp.Header.Get("x-ms-error-code"), 80)
	return e
}

// oneLine makes foreign text safe for an error: printable, without line
// breaks, not more than limit bytes.
func oneLine(s string, limit int) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, ""), func(r rune) bool { return r <= 0x20 || r == 0x7f }), " ")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// call sends in as JSON (nothing when it is nil) and reads the JSON of the
// answer; an empty one leaves Out as it is.
func call[Out any](ctx context.Context, c *client, r request, in []byte) (out Out, err error) {
	r.header = r.header.Clone()
	if r.header == nil {
		r.header = http.Header{}
	}
	if in != nil {
		r.header.Set("Content-Type", "application/json")
		r.body, r.length = func() io.Reader { return bytes.NewReader(in) }, int64(len(in))
	}
	err = c.policy.Do(ctx, func() error {
		resp, err := c.send(ctx, r)
		if err != nil {
			return remotecache.Tried(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err == nil && len(bytes.TrimSpace(body)) > 0 {
			if json.Unmarshal(body, &out) != nil {
				err = errors.New("the answer is not the JSON that was expected")
			}
		}
		if err != nil {
			return fmt.Errorf("%s on %s: %w", r.op, resp.Request.URL.Host, err)
		}
		return nil
	})
	return out, err
}
