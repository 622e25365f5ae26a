package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PutBlob makes ref's repository hold the blob. open gives its desc.Size
// bytes from the start and is called once for each try, not at all when the
// blob is there already or comes from another repository. mountFrom names a
// repository to link the blob from ("" for none); one on another host, or one
// the registry does not link from, plays no part. The registry checks the
// digest.
// The error matches *SourceError when it is that of open or of its reader.
func (c *Client) PutBlob(ctx context.Context, ref string, desc ocispec.Descriptor, open func() (io.ReadCloser, error), mountFrom string) error {
	r, err := ParseRef(ref)
	if err != nil {
		return err
	}
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("push blob %q to %s: %w", desc.Digest, r.Name(), err)
	}
	err = c.putBlob(ctx, r, desc, open, c.mountable(r, mountFrom))
	return explain(err, "push blob "+desc.Digest.String()+" to", r, true)
}

// mountable returns the repository part of from if r's registry could link
// blobs out of it.
func (c *Client) mountable(r Ref, from string) string {
	if from == "" {
		return ""
	}
	f, err := ParseRef(from)
	if err != nil || f.Host != r.Host || f.Repo == r.Repo {
		return ""
	}
	return f.Repo
}

func (c *Client) putBlob(ctx context.Context, r Ref, desc ocispec.Descriptor, open func() (io.ReadCloser, error), from string) error {
	h := c.host(r.Host)
	done, err := h.claim(ctx, r.Repo, desc.Digest)
	if done == nil {
		return err
	}
	defer done()
	var session *url.URL
	if from != "" {
		if session, err = c.startUpload(ctx, c.do, h, r, desc.Digest, from); err != nil {
			return err
		}
	} else if ok, err := c.hasBlob(ctx, h, r, desc, pushScope(r.Repo)); ok || err != nil {
		return err
	}
	if session == nil && h.hasSeen(r.Repo, desc.Digest) {
		return nil // linked
	}
	err = c.retry(ctx, func() error {
		at := session
		session = nil // a session that failed is not used again
		if at == nil {
			var err error
			if at, err = c.startUpload(ctx, c.once, h, r, desc.Digest, ""); err != nil {
				return err
			}
		}
		return c.upload(ctx, h, r, desc, at, open)
	})
	if err != nil {
		return err
	}
	h.saw(r.Repo, desc.Digest)
	return nil
}

type sender func(context.Context, *host, request) (*http.Response, error)

// startUpload opens an upload session and returns its location, nil when the
// blob was linked from another repository instead. A registry that will not
// let us see that repository is asked again without it. send is do, or once
// where the caller tries again.
func (c *Client) startUpload(ctx context.Context, send sender, h *host, r Ref, d digest.Digest, from string) (*url.URL, error) {
	req := request{
		method: http.MethodPost,
		path:   r.Repo + "/blobs/uploads/",
		scopes: []string{pushScope(r.Repo)},
		ok:     []int{http.StatusAccepted},
	}
	if from != "" {
		req.query = url.Values{"mount": {d.String()}, "from": {from}}
		req.scopes = append(req.scopes, pullScope(from))
		req.ok = append(req.ok, http.StatusCreated)
	}
	resp, err := send(ctx, h, req)
	if from != "" && errors.Is(err, ErrDenied) {
		return c.startUpload(ctx, send, h, r, d, "")
	}
	if err != nil {
		return nil, err
	}
	drop(resp)
	if resp.StatusCode == http.StatusCreated {
		h.saw(r.Repo, d)
		return nil, nil
	}
	at, err := resp.Request.URL.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" {
		return nil, errors.New("the registry opened an upload but did not say where")
	}
	return at, nil
}

// upload sends the blob as one request.
func (c *Client) upload(ctx context.Context, h *host, r Ref, desc ocispec.Descriptor, at *url.URL, open func() (io.ReadCloser, error)) error {
	q := at.Query()
	q.Set("digest", desc.Digest.String())
	to := *at
	to.RawQuery = q.Encode()
	src := &source{open: open}
	resp, err := c.once(ctx, h, request{
		method: http.MethodPut,
		at:     &to,
		header: http.Header{"Content-Type": {"application/octet-stream"}},
		scopes: []string{pushScope(r.Repo)},
		body:   src.body,
		size:   desc.Size,
		ok:     []int{http.StatusCreated, http.StatusNoContent, http.StatusAccepted},
	})
	if err != nil {
		if why := src.err.Load(); why != nil {
			return &SourceError{*why}
		}
		// The session may be gone because the registry restarted.
		if errors.Is(err, ErrNotFound) {
			return &Error{Status: http.StatusServiceUnavailable, Code: "BLOB_UPLOAD_UNKNOWN", Message: "the upload session is gone"}
		}
		return err
	}
	drop(resp)
	return nil
}

// A SourceError is that of where a blob comes from, which may be a registry too:
// what it says is no answer of the one that the blob goes to.
type SourceError struct{ Err error }

func (e *SourceError) Error() string { return e.Err.Error() }
func (e *SourceError) Unwrap() error { return e.Err }

// A source is where a blob comes from that is sent. It keeps the error of its
// own that an upload ended with.
type source struct {
	open func() (io.ReadCloser, error)
	err  atomic.Pointer[error]
}

func (s *source) body() (io.ReadCloser, error) {
	r, err := s.open()
	if err != nil {
		s.err.Store(&err)
		return nil, err
	}
	return &sourceReader{ReadCloser: r, s: s}, nil
}

type sourceReader struct {
	io.ReadCloser
	s      *source
	closed atomic.Bool
}

func (r *sourceReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && err != io.EOF && !r.closed.Load() {
		r.s.err.Store(&err)
	}
	return n, err
}

func (r *sourceReader) Close() error {
	r.closed.Store(true)
	return r.ReadCloser.Close()
}

// PutManifest stores a manifest or index under ref's tag, or under its own
// digest when ref has none. Its blobs and manifests have been put before; if
// the registry lacks one, the error matches ErrBlobUnknown, and all of them
// are looked for again by the next PutBlob.
func (c *Client) PutManifest(ctx context.Context, ref string, desc ocispec.Descriptor, data []byte) error {
	r, err := ParseRef(ref)
	if err != nil {
		return err
	}
	if r.Digest != "" && r.Digest != desc.Digest {
		return fmt.Errorf("push %s: the manifest's digest is %s", r, desc.Digest)
	}
	target := r.Tag
	if target == "" {
		target = desc.Digest.String()
	}
	h := c.host(r.Host)
	put := request{
		method: http.MethodPut,
		path:   r.Repo + "/manifests/" + target,
		header: http.Header{"Content-Type": {desc.MediaType}},
		scopes: []string{pushScope(r.Repo)},
		body:   bytesBody(data),
		size:   int64(len(data)),
		ok:     []int{http.StatusCreated, http.StatusOK, http.StatusAccepted},
	}
	sound := digest.FromBytes(data) == desc.Digest
	var resp *http.Response
	err = c.retry(ctx, func() (err error) {
		resp, err = c.once(ctx, h, put)
		if e, is := errors.AsType[*Error](err); is && e.Code == "DIGEST_INVALID" && sound {
			return linking{e}
		}
		return err
	})
	if err != nil {
		if errors.Is(err, ErrBlobUnknown) {
			h.forget(r.Repo)
		}
		return explain(err, "push", r, true)
	}
	drop(resp)
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != desc.Digest.String() {
		return fmt.Errorf("push %s: the registry stored it as %s, not %s", r, got, desc.Digest)
	}
	return nil
}

// linking is the answer of a registry that reads, in the digest of a blob, what
// another push is just writing: docker-registry does while it links the blob
// into the repository. The manifest is sound, and taken a moment later.
type linking struct{ error }

func (l linking) Unwrap() error { return l.error }

// Retry implements retry.Advisor.
func (linking) Retry() (again bool, after time.Duration) { return true, 0 }

// Warm fetches, ahead of need, what the first request to ref's repository
// will wait for: connection, challenge and a token, for pushing if push is
// set. It asks nothing that is known already.
func (c *Client) Warm(ctx context.Context, ref string, push bool) error {
	r, err := ParseRef(ref)
	if err != nil {
		return err
	}
	scope := pullScope(r.Repo)
	if push {
		scope = pushScope(r.Repo)
	}
	h := c.host(r.Host)
	header, err := c.authorization(ctx, h, []string{scope})
	if header != "" || err != nil {
		return explain(err, "log in to the registry of", r, push)
	}
	resp, err := c.do(ctx, h, request{
		method: http.MethodGet,
		scopes: []string{scope},
		ok:     []int{http.StatusOK, http.StatusNotFound, http.StatusForbidden},
	})
	if err != nil {
		return explain(err, "log in to the registry of", r, push)
	}
	drop(resp)
	return nil
}

func bytesBody(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}
