// Package ghacache is the cache service of GitHub Actions, protocol v2, as far
// as its clients can tell.
//
//	@actions/cache, BuildKit, mayfly ──Twirp JSON──▶ ┌────────┐
//	gh, mayfly ──────────────────────REST───────────▶ │ Server │ ──signs URLs of──▶ azurite
//	clients ──────────────────PUT, GET of signed URLs─└────────┘───────────────────▶ azurite
//
// In: requests with tokens that a Repository minted. Out: entries, immutable
// for each scope, key and version, whose bytes lie in an Azure Blob container
// and are read and written there by the clients themselves. Tests make it
// refuse, forget and delay.
package ghacache

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
)

// Config says how a Server behaves; it may be changed while the Server runs.
// The zero value is GitHub's behaviour without limits.
type Config struct {
	SAS              time.Duration // how long signed URLs are good for; 0 means 10 minutes, as GitHub's; whole seconds
	Delay            time.Duration // before each answer: the distance to the service
	UploadsPerMinute int           // CreateCacheEntry calls of a repository before 429 with Retry-After; 0 means any number
	DuplicateIsOK    bool          // an entry that exists is 200 ok:false, as some servers answer, instead of 409
	Reissue          bool          // a reservation that was not finalized gives the token that made it its URL again
}

// Storage is where the bytes are: an account of the Azure Blob service.
type Storage struct {
	URL, Account, Key string // the URL without a final slash
}

// A Server is the service with any number of repositories. All methods may be
// called from several goroutines at once.
type Server struct {
	blobs  *blobs
	secret []byte // signs tokens
	mux    *http.ServeMux

	mu    sync.Mutex
	cfg   Config
	repos map[int64]*Repository // by ID
}

// New returns a Server that keeps its blobs in a new container of storage.
func New(ctx context.Context, storage Storage, cfg Config) (*Server, error) {
	s := &Server{secret: []byte(rand.Text()), cfg: cfg, repos: map[int64]*Repository{}}
	s.mux = s.routes()
	cred, err := azblob.NewSharedKeyCredential(storage.Account, storage.Key)
	if err != nil {
		return nil, fmt.Errorf("read the key of account %s: %w", storage.Account, err)
	}
	s.blobs, err = newBlobs(ctx, storage.URL, cred)
	return s, err
}

// Set changes the Config.
func (s *Server) Set(change func(*Config)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.cfg)
}

func (s *Server) config() Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg
}

// handle answers a request about a repository with what do returns.
func (s *Server) handle(method string, repo *Repository, w http.ResponseWriter, r *http.Request, do func() answer) {
	f := repo.enter(method)
	select {
	case <-time.After(s.config().Delay):
	case <-r.Context().Done():
		return
	}
	switch {
	case f == nil:
		do().write(w)
	case f.Lost:
		do()
		panic(http.ErrAbortHandler)
	case f.Status == 0:
		panic(http.ErrAbortHandler)
	default:
		if f.RetryAfter != "" {
			w.Header().Set("Retry-After", f.RetryAfter)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(f.Status)
		fmt.Fprint(w, f.Body)
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// routes has the paths of the two APIs. All else, such as
// _apis/artifactcache of protocol v1, is not found.
func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for method, do := range map[string]func(context.Context, call) answer{
		"CreateCacheEntry":         s.create,
		"FinalizeCacheEntryUpload": s.finalize,
		"GetCacheEntryDownloadURL": s.download,
	} {
		mux.HandleFunc("POST /twirp/github.actions.results.api.v1.CacheService/"+method, func(w http.ResponseWriter, r *http.Request) {
			a, err := s.access(bearer(r))
			if err != nil {
				refused(http.StatusUnauthorized, "unauthenticated", err.Error()).write(w)
				return
			}
			s.handle(method, a.repo, w, r, func() answer { return s.twirp(r, a, do) })
		})
	}
	for pattern, do := range map[string]func(*http.Request, *Repository) answer{
		"GET /repos/{owner}/{repo}/actions/caches":         list,
		"DELETE /repos/{owner}/{repo}/actions/caches":      deleteByKey,
		"DELETE /repos/{owner}/{repo}/actions/caches/{id}": deleteByID,
	} {
		method := "list"
		if strings.HasPrefix(pattern, http.MethodDelete) {
			method = "delete"
		}
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			repo, refusal := s.restRepository(r)
			if repo == nil {
				refusal.write(w)
				return
			}
			s.handle(method, repo, w, r, func() answer { return do(r, repo) })
		})
	}
	return mux
}

// bearer returns the token of a request.
func bearer(r *http.Request) string {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token
}

// NewRepository adds a repository, whose entries no other one sees.
func (s *Server) NewRepository() *Repository {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &Repository{s: s, id: int64(len(s.repos) + 1), ghToken: "ghs_" + rand.Text(), counts: map[string]int{}, faults: map[string]*Fault{}}
	r.Name = "acme/app-" + strconv.FormatInt(r.id, 10)
	s.repos[r.id] = r
	return r
}

func (s *Server) repository(id int64) *Repository {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.repos[id]
}

func (s *Server) repositoryNamed(name string) *Repository {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.repos {
		if r.Name == name {
			return r
		}
	}
	return nil
}
