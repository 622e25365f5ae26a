package ghacache

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

type (
	listing struct {
		Total  int          `json:"total_count"`
		Caches []listedItem `json:"actions_caches"`
	}
	listedItem struct {
		ID           int64     `json:"id"`
		Ref          string    `json:"ref"`
		Key          string    `json:"key"`
		Version      string    `json:"version"`
		LastAccessed time.Time `json:"last_accessed_at"`
		Created      time.Time `json:"created_at"`
		Size         int64     `json:"size_in_bytes"`
	}
	// problem is the REST API's form of an error.
	problem struct {
		Message string `json:"message"`
		Status  string `json:"status"`
	}
)

func listed(e Entry) listedItem {
	return listedItem{ID: e.ID, Ref: e.Scope, Key: e.Key, Version: e.Version, LastAccessed: e.Used, Created: e.Created, Size: e.Size}
}

func trouble(status int, message string) answer {
	return answer{status: status, body: problem{message, strconv.Itoa(status)}}
}

// restRepository returns the repository of a REST request, nil and the answer
// when its token is not one of it.
func (s *Server) restRepository(r *http.Request) (*Repository, answer) {
	repo := s.repositoryNamed(r.PathValue("owner") + "/" + r.PathValue("repo"))
	token := bearer(r)
	switch {
	case repo == nil:
		return nil, trouble(http.StatusNotFound, "Not Found")
	case token == "":
		return nil, trouble(http.StatusUnauthorized, "Requires authentication")
	case token != repo.ghToken:
		return nil, trouble(http.StatusUnauthorized, "Bad credentials")
	}
	return repo, answer{}
}

func list(r *http.Request, repo *Repository) answer {
	q := r.URL.Query()
	var all []Entry
	for _, e := range repo.Entries() {
		if e.Done && strings.HasPrefix(e.Key, q.Get("key")) && (q.Get("ref") == "" || e.Scope == q.Get("ref")) {
			all = append(all, e)
		}
	}
	slices.SortStableFunc(all, func(a, b Entry) int {
		c := cmp.Or(a.Used.Compare(b.Used), cmp.Compare(a.ID, b.ID))
		switch q.Get("sort") {
		case "created_at":
			c = cmp.Compare(a.ID, b.ID)
		case "size_in_bytes":
			c = cmp.Or(cmp.Compare(a.Size, b.Size), c)
		}
		if q.Get("direction") != "asc" {
			c = -c
		}
		return c
	})
	number := func(name string, otherwise, most int) int {
		n, err := strconv.Atoi(q.Get(name))
		if err != nil || n < 1 {
			return otherwise
		}
		return min(n, most)
	}
	size, page := number("per_page", 30, 100), number("page", 1, 1<<30)
	out := listing{Total: len(all), Caches: []listedItem{}}
	for _, e := range all[min(len(all), (page-1)*size):min(len(all), page*size)] {
		out.Caches = append(out.Caches, listed(e))
	}
	return answer{status: http.StatusOK, body: out}
}

func deleteByID(r *http.Request, repo *Repository) answer {
	n, err := repo.Evict(r.Context(), func(e Entry) bool { return strconv.FormatInt(e.ID, 10) == r.PathValue("id") })
	switch {
	case err != nil:
		return trouble(http.StatusInternalServerError, err.Error())
	case n == 0:
		return trouble(http.StatusNotFound, "Not Found")
	}
	return answer{status: http.StatusNoContent}
}

func deleteByKey(r *http.Request, repo *Repository) answer {
	key, ref := r.URL.Query().Get("key"), r.URL.Query().Get("ref")
	var out listing
	_, err := repo.Evict(r.Context(), func(e Entry) bool {
		gone := e.Done && e.Key == key && (ref == "" || e.Scope == ref)
		if gone {
			out.Caches = append(out.Caches, listed(e))
		}
		return gone
	})
	out.Total = len(out.Caches)
	switch {
	case err != nil:
		return trouble(http.StatusInternalServerError, err.Error())
	case out.Total == 0:
		return trouble(http.StatusNotFound, "Not Found")
	}
	return answer{status: http.StatusOK, body: out}
}
