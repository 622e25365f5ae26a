package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/retry"
)

// maxManifest bounds a manifest in memory. Registries take 4 MiB; cache
// manifests of large builds are the biggest there are.
const maxManifest = 16 << 20

const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
)

func acceptManifests() http.Header {
	return http.Header{"Accept": {strings.Join([]string{
		ocispec.MediaTypeImageIndex, dockerIndex, ocispec.MediaTypeImageManifest, dockerManifest, "*/*;q=0.1",
	}, ", ")}}
}

// Resolve returns the manifest or index that ref names now, with its
// descriptor (media type, digest, size). One GET: the digest is that of the
// body, and is checked when ref has one. The error matches ErrNotFound when
// there is none.
func (c *Client) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, []byte, error) {
	r, err := ParseRef(ref)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	desc, data, err := c.manifest(ctx, r)
	if err != nil {
		return ocispec.Descriptor{}, nil, explain(err, "resolve", r, false)
	}
	return desc, data, nil
}

// Manifest returns the manifest or index dgst of ref's repository; ref's own
// tag or digest plays no part. The bytes are checked. The error matches
// ErrNotFound when there is none.
func (c *Client) Manifest(ctx context.Context, ref string, dgst digest.Digest) ([]byte, error) {
	r, err := ParseRef(ref)
	if err != nil {
		return nil, err
	}
	r.Tag, r.Digest = "", dgst
	_, data, err := c.manifest(ctx, r)
	if err != nil {
		return nil, explain(err, "fetch manifest", r, false)
	}
	return data, nil
}

func (c *Client) manifest(ctx context.Context, r Ref) (desc ocispec.Descriptor, data []byte, err error) {
	algorithm := digest.Canonical
	if r.Digest != "" {
		if err := r.Digest.Validate(); err != nil {
			return desc, nil, err
		}
		algorithm = r.Digest.Algorithm()
	}
	h := c.host(r.Host)
	err = c.retry(ctx, func() error {
		resp, err := c.once(ctx, h, request{
			method: http.MethodGet,
			path:   r.Repo + "/manifests/" + r.target(),
			header: acceptManifests(),
			scopes: []string{pullScope(r.Repo)},
			ok:     []int{http.StatusOK},
		})
		if err != nil {
			return err
		}
		defer drop(resp)
		data, err = io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
		if err != nil {
			return err
		}
		if len(data) > maxManifest {
			return fmt.Errorf("the manifest has more than %d bytes", maxManifest)
		}
		desc = ocispec.Descriptor{
			MediaType: manifestType(resp.Header.Get("Content-Type"), data),
			Digest:    algorithm.FromBytes(data),
			Size:      int64(len(data)),
		}
		return nil
	})
	if err != nil {
		return desc, nil, err
	}
	if r.Digest != "" && desc.Digest != r.Digest {
		return desc, nil, fmt.Errorf("the registry sent a manifest with digest %s instead", desc.Digest)
	}
	return desc, data, nil
}

// manifestType is what the document says of itself; else what the server
// says; else what it looks like.
func manifestType(header string, data []byte) string {
	var doc struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
		Config    json.RawMessage `json:"config"`
	}
	_ = json.Unmarshal(data, &doc) // what is no JSON says nothing of itself
	if doc.MediaType != "" {
		return doc.MediaType
	}
	t, _, err := mime.ParseMediaType(header)
	switch {
	case err == nil && strings.HasPrefix(t, "application/vnd."):
		return t
	case doc.Manifests != nil:
		return ocispec.MediaTypeImageIndex
	case doc.Config != nil:
		return ocispec.MediaTypeImageManifest
	}
	return t
}

// Assume notes that ref's repository holds the blobs, because a manifest in it
// names them: HasBlob and PutBlob then ask nothing. If the registry lost one
// after all, PutManifest fails with ErrBlobUnknown and the note is forgotten.
func (c *Client) Assume(ref string, blobs ...ocispec.Descriptor) error {
	r, err := ParseRef(ref)
	if err != nil {
		return err
	}
	h := c.host(r.Host)
	for _, b := range blobs {
		h.saw(r.Repo, b.Digest)
	}
	return nil
}

// HasBlob reports whether ref's repository holds the blob.
func (c *Client) HasBlob(ctx context.Context, ref string, desc ocispec.Descriptor) (bool, error) {
	r, err := ParseRef(ref)
	if err != nil {
		return false, err
	}
	ok, err := c.hasBlob(ctx, c.host(r.Host), r, desc, pullScope(r.Repo))
	return ok, explain(err, "look for blob "+desc.Digest.String()+" in", r, false)
}

func (c *Client) hasBlob(ctx context.Context, h *host, r Ref, desc ocispec.Descriptor, scope string) (bool, error) {
	if err := desc.Digest.Validate(); err != nil {
		return false, err
	}
	if h.hasSeen(r.Repo, desc.Digest) {
		return true, nil
	}
	resp, err := c.do(ctx, h, request{
		method: http.MethodHead,
		path:   r.Repo + "/blobs/" + desc.Digest.String(),
		scopes: []string{scope},
		ok:     []int{http.StatusOK, http.StatusNotFound},
	})
	if err != nil {
		return false, err
	}
	drop(resp)
	if resp.StatusCode == http.StatusNotFound {
		return false, nil
	}
	h.saw(r.Repo, desc.Digest)
	return true, nil
}

// errShort is a body that ended before its length.
var errShort error = retry.Fault("the transfer ended early")

// Blob reads a blob of ref's repository from byte off to its end; the caller
// closes it. A broken transfer is taken up where it stopped. The bytes are
// not checked against the digest: off may be anything, and the reader stores
// them where they are. The error matches ErrNotFound when there is
// none, and ErrShort when the registry has a part of it.
func (c *Client) Blob(ctx context.Context, ref string, desc ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	r, err := ParseRef(ref)
	if err != nil {
		return nil, err
	}
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("fetch blob %q of %s: %w", desc.Digest, r.Name(), err)
	}
	b := &blobReader{c: c, ctx: ctx, ref: r, desc: desc, off: off}
	if desc.Size > 0 && off >= desc.Size {
		return io.NopCloser(strings.NewReader("")), nil
	}
	if err := c.retry(ctx, b.open); err != nil {
		return nil, b.explain(err)
	}
	c.host(r.Host).saw(r.Repo, desc.Digest)
	return b, nil
}

// blobReader reads a blob through as many responses as it takes. Its ctx is
// that of the Blob call it is the result of.
type blobReader struct {
	c    *Client
	ctx  context.Context
	ref  Ref
	desc ocispec.Descriptor // Size <= 0: not known
	off  int64              // of the next byte to give out
	body io.ReadCloser      // nil between a fault and the next try
	err  error              // final

	breaks retry.Breaks
}

func (b *blobReader) explain(err error) error {
	return explain(err, "fetch blob "+b.desc.Digest.String()+" of", b.ref, false)
}

func (b *blobReader) open() error {
	header := http.Header{"Accept-Encoding": {"identity"}}
	ok := []int{http.StatusOK}
	if b.off > 0 {
		r := fmt.Sprintf("bytes=%d-", b.off)
		if b.desc.Size > 0 {
			r += fmt.Sprint(b.desc.Size - 1) // some registries want both ends
		}
		header.Set("Range", r)
		ok = append(ok, http.StatusPartialContent)
	}
	resp, err := b.c.once(b.ctx, b.c.host(b.ref.Host), request{
		method: http.MethodGet,
		path:   b.ref.Repo + "/blobs/" + b.desc.Digest.String(),
		header: header,
		scopes: []string{pullScope(b.ref.Repo)},
		ok:     ok,
	})
	if e, is := errors.AsType[*Error](err); is && e.Status == http.StatusRequestedRangeNotSatisfiable && b.desc.Size > b.off {
		return fmt.Errorf("%w: %w", ErrShort, err)
	}
	if err != nil {
		return err
	}
	if b.off > 0 && resp.StatusCode == http.StatusOK { // a server without ranges
		if _, err := io.CopyN(io.Discard, resp.Body, b.off); err != nil {
			resp.Body.Close()
			return short(err)
		}
	}
	b.body = resp.Body
	return nil
}

func short(err error) error {
	if err == io.EOF {
		return errShort
	}
	return err
}

func (b *blobReader) Read(p []byte) (int, error) {
	for b.err == nil {
		if b.body == nil {
			if err := b.c.retry(b.ctx, b.open); err != nil {
				b.err = b.explain(err)
				break
			}
		}
		n, err := b.body.Read(p)
		b.off += int64(n)
		if n > 0 {
			b.breaks.Moved()
		}
		if b.desc.Size > 0 && b.off > b.desc.Size {
			b.err = b.explain(fmt.Errorf("the registry sent more than its %d bytes", b.desc.Size))
			break
		}
		if err != nil {
			b.end(err)
		}
		if n > 0 || err == nil {
			return n, nil
		}
	}
	return 0, b.err
}

// end handles the end of a response: the blob is done, the
// fault is final, or the next Read takes it up again.
func (b *blobReader) end(err error) {
	if err == io.EOF && (b.desc.Size <= 0 || b.off == b.desc.Size) {
		b.err = io.EOF
		return
	}
	err = short(err)
	b.body.Close()
	b.body = nil
	if b.ctx.Err() != nil || !b.breaks.Again(b.c.policy, err) {
		b.err = b.explain(err)
		return
	}
	b.c.stats.retries.Add(1)
}

// Close ends the transfer.
func (b *blobReader) Close() error {
	if b.err == nil {
		b.err = errors.New("read of a closed blob")
	}
	if b.body == nil {
		return nil
	}
	err := b.body.Close()
	b.body = nil
	return err
}
