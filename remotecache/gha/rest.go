package gha

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/internal/hint"
)

// rest lists and removes entries through GitHub's REST API.
type rest struct {
	c     *client
	base  string // ends with "/actions/caches"
	token string
	calls gate
}

func newREST(c *client, cfg Config) (*rest, error) {
	owner, name, ok := strings.Cut(cfg.Repository, "/")
	if !ok || owner == "" || name == "" || strings.Contains(name, "/") {
		return nil, fmt.Errorf("the gha cache's repository %q is not owner/name", cfg.Repository)
	}
	api := strings.TrimRight(cfg.APIURL, "/")
	if api == "" {
		api = "https://api.github.com"
	}
	return &rest{c: c, base: api + "/repos/" + url.PathEscape(owner) + "/" + url.PathEscape(name) + "/actions/caches", token: cfg.GHToken}, nil
}

// A listed entry is one that is finished.
type listed struct {
	ID      int64     `json:"id"`
	Key     string    `json:"key"`
	Version string    `json:"version"`
	Size    int64     `json:"size_in_bytes"`
	Created time.Time `json:"created_at"`
	Used    time.Time `json:"last_accessed_at"`
}

type listPage struct {
	Total  int      `json:"total_count"`
	Caches []listed `json:"actions_caches"`
}

const (
	pageSize  = 100 // the most that the API gives
	pagesOnce = 4   // pages asked for at once
)

func (r *rest) request(op, method, path string) request {
	return request{op: op, method: method, url: r.base + path, bearer: r.token, gate: &r.calls,
		header: http.Header{"Accept": {"application/vnd.github+json"}, "X-Github-Api-Version": {"2022-11-28"}}}
}

// list returns the entries of a branch whose keys begin with prefix, under the
// version of this layout, oldest first.
func (r *rest) list(ctx context.Context, prefix, branch string) ([]listed, error) {
	get := func(ctx context.Context, page int) (listPage, error) {
		// By age, so that entries that are added meanwhile move none of the others.
		q := url.Values{"key": {prefix}, "ref": {branch}, "per_page": {strconv.Itoa(pageSize)}, "page": {strconv.Itoa(page)},
			"sort": {"created_at"}, "direction": {"asc"}}
		out, err := call[listPage](ctx, r.c, r.request("list of caches", http.MethodGet, "?"+q.Encode()), nil)
		return out, forbidden(err, "read")
	}
	first, err := get(ctx, 1)
	if err != nil {
		return nil, err
	}
	pages := make([]listPage, max(1, (first.Total+pageSize-1)/pageSize))
	pages[0] = first
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(pagesOnce)
	for i := 1; i < len(pages); i++ {
		g.Go(func() (err error) {
			pages[i], err = get(ctx, i+1)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []listed
	for _, p := range pages {
		for _, e := range p.Caches {
			if e.Version == entryVersion {
				out = append(out, e)
			}
		}
	}
	return out, nil
}

// removeKey removes the entry with a key from a branch. It is no error when
// there is none.
func (r *rest) removeKey(ctx context.Context, key, branch string) error {
	return r.remove(ctx, "?"+url.Values{"key": {key}, "ref": {branch}}.Encode())
}

// removeID removes an entry. It is no error when there is none.
func (r *rest) removeID(ctx context.Context, id int64) error {
	return r.remove(ctx, "/"+strconv.FormatInt(id, 10))
}

func (r *rest) remove(ctx context.Context, path string) error {
	_, err := call[listPage](ctx, r.c, r.request("removal of a cache", http.MethodDelete, path), nil)
	if refused(err, http.StatusNotFound) {
		return nil
	}
	return forbidden(err, "write")
}

// forbidden adds what to do where the token may not.
func forbidden(err error, need string) error {
	if refused(err, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound) {
		return hint.With(err, "give the job `permissions: actions: "+need+"`, and check the repository's name")
	}
	return err
}

var errNoREST = hint.With(fmt.Errorf("the service itself does not list or remove entries: %w", errors.ErrUnsupported),
	"set repository=<owner>/<name> and ghtoken=<a token with actions: write>")
