package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
)

// tagPage is how many tags are asked for at once.
const tagPage = 1000

// Tags returns the tags of ref's repository, none when there is no such
// repository.
func (c *Client) Tags(ctx context.Context, ref string) ([]string, error) {
	r, err := ParseRef(ref)
	if err != nil {
		return nil, err
	}
	var out []string
	query := url.Values{"n": {fmt.Sprint(tagPage)}}
	for {
		page, next, err := c.tags(ctx, r, query)
		if errors.Is(err, ErrNotFound) {
			return out, nil
		}
		if err != nil {
			return nil, explain(err, "list tags of", r, false)
		}
		out = append(out, page...)
		if next == nil {
			return out, nil
		}
		query = next
	}
}

func (c *Client) tags(ctx context.Context, r Ref, query url.Values) (tags []string, next url.Values, err error) {
	resp, err := c.do(ctx, c.host(r.Host), request{
		method: http.MethodGet,
		path:   r.Repo + "/tags/list",
		query:  query,
		scopes: []string{pullScope(r.Repo)},
		ok:     []int{http.StatusOK},
	})
	if err != nil {
		return nil, nil, err
	}
	defer drop(resp)
	var list struct {
		Tags []string `json:"tags"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxManifest)).Decode(&list); err != nil {
		return nil, nil, fmt.Errorf("read the list: %w", err)
	}
	return list.Tags, nextPage(resp.Header.Get("Link"), query), nil
}

// nextPage reads a Link header: <…?last=b&n=2>; rel="next" (RFC 5988). It is
// nil when there is none, or one that leads nowhere new.
func nextPage(link string, now url.Values) url.Values {
	target, params, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
	if !ok || !strings.Contains(params, "next") {
		return nil
	}
	u, err := url.Parse(target)
	if err != nil || u.RawQuery == now.Encode() {
		return nil
	}
	return u.Query()
}

// DeleteManifest removes a manifest of ref's repository and with it every tag
// that names it. The error matches ErrNotFound when there is none, and
// errors.ErrUnsupported when the registry removes nothing on request.
func (c *Client) DeleteManifest(ctx context.Context, ref string, dgst digest.Digest) error {
	r, err := ParseRef(ref)
	if err != nil {
		return err
	}
	if err := dgst.Validate(); err != nil {
		return err
	}
	r.Tag, r.Digest = "", dgst
	resp, err := c.do(ctx, c.host(r.Host), request{
		method: http.MethodDelete,
		path:   r.Repo + "/manifests/" + dgst.String(),
		scopes: []string{"repository:" + r.Repo + ":delete,pull"},
		ok:     []int{http.StatusAccepted, http.StatusOK, http.StatusNoContent},
	})
	if err != nil {
		if answer, ok := errors.AsType[*Error](err); ok && (answer.Status == http.StatusMethodNotAllowed || answer.Code == "UNSUPPORTED") {
			err = fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
		}
		return explain(err, "delete", r, true)
	}
	drop(resp)
	return nil
}
