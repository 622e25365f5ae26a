package ghacache

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Repository is what entries belong to.
type Repository struct {
	Name string // "acme/app-1"

	s       *Server
	id      int64
	ghToken string

	mu      sync.Mutex
	entries []*entry
	last    int64             // ID given out
	window  time.Time         // when the minute of the rate limit began
	uploads int               // in it
	counts  map[string]int    // of requests, by method
	faults  map[string]*Fault // by method
}

// GHToken returns a token for the REST API.
func (r *Repository) GHToken() string { return r.ghToken }

// Counts returns how many requests there were so far: of the methods
// CreateCacheEntry, FinalizeCacheEntryUpload and GetCacheEntryDownloadURL, and
// list and delete of the REST API. What goes to the storage is not seen.
func (r *Repository) Counts() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.counts)
}

// A Fault is what happens instead of an answer.
type Fault struct {
	Times      int    // how many requests it meets
	Status     int    // HTTP status; 0 means that the connection breaks
	RetryAfter string // that header; "" means none
	Body       string
	Lost       bool // the request is carried out, and the connection breaks before its answer
}

// Fail lets the next requests of a method (a name as in Counts) meet a fault.
func (r *Repository) Fail(method string, f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults[method] = &f
}

// enter counts a request and returns the fault it meets, nil for none.
func (r *Repository) enter(method string) *Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[method]++
	f := r.faults[method]
	if f == nil || f.Times <= 0 {
		return nil
	}
	f.Times--
	met := *f
	return &met
}

// An Entry is one entry of the cache, or a reservation of one.
type Entry struct {
	ID      int64
	Scope   string // "refs/heads/main"
	Key     string
	Version string
	Size    int64 // bytes
	Done    bool  // finalized: it can be found
	Created time.Time
	Used    time.Time
}

type entry struct {
	Entry
	blob  string // name in the container
	token string // that reserved it
}

// Entries returns all there is, oldest first.
func (r *Repository) Entries() []Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Entry
	for _, e := range r.entries {
		out = append(out, e.Entry)
	}
	return out
}

// Evict removes the entries that gone selects, with their bytes, as the
// service does with those that nobody uses; it returns how many there were.
func (r *Repository) Evict(ctx context.Context, gone func(Entry) bool) (int, error) {
	r.mu.Lock()
	var evicted []*entry
	r.entries = slices.DeleteFunc(r.entries, func(e *entry) bool {
		if !gone(e.Entry) {
			return false
		}
		evicted = append(evicted, e)
		return true
	})
	r.mu.Unlock()
	for _, e := range evicted {
		if err := r.s.blobs.remove(ctx, e.blob); err != nil {
			return 0, err
		}
	}
	return len(evicted), nil
}

// Crash leaves the reservation of a job that ended before it uploaded anything.
func (r *Repository) Crash(scope, key, version string) {
	r.reserve(scope, key, version, "")
}

// reserve adds an entry that is not finalized. ok is false when there is one
// already; it is returned.
func (r *Repository) reserve(scope, key, version, token string) (e *entry, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.entries, func(e *entry) bool { return e.Scope == scope && e.Key == key && e.Version == version })
	if i >= 0 {
		return r.entries[i], false
	}
	r.last++
	now := time.Now().UTC()
	e = &entry{Entry: Entry{ID: r.last, Scope: scope, Key: key, Version: version, Created: now, Used: now}, blob: r.s.blobs.newName(), token: token}
	r.entries = append(r.entries, e)
	return e, true
}

// reserved returns the reservation of a key in one of the scopes.
func (r *Repository) reserved(scope, key, version string) *entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries {
		if !e.Done && e.Scope == scope && e.Key == key && e.Version == version {
			return e
		}
	}
	return nil
}

func (r *Repository) finish(e *entry, size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Size, e.Done = size, true
}

// find looks for an entry as the service does: scope by scope, in each the key
// itself, then the newest that it or a restore key begins.
func (r *Repository) find(scopes []string, key, version string, restore []string) (Entry, string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, scope := range scopes {
		newest := func(match func(key string) bool) *entry {
			var found []*entry
			for _, e := range r.entries {
				if e.Done && e.Scope == scope && e.Version == version && match(e.Key) {
					found = append(found, e)
				}
			}
			if len(found) == 0 {
				return nil
			}
			return slices.MaxFunc(found, func(a, b *entry) int {
				return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
			})
		}
		e := newest(func(k string) bool { return k == key })
		for _, prefix := range append([]string{key}, restore...) {
			if e != nil {
				break
			}
			e = newest(func(k string) bool { return strings.HasPrefix(k, prefix) })
		}
		if e != nil {
			e.Used = time.Now().UTC()
			return e.Entry, e.blob, true
		}
	}
	return Entry{}, "", false
}

// limit counts an upload; when there were too many it returns how many
// seconds to wait.
func (r *Repository) limit(most int) (wait int) {
	if most <= 0 {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Sub(r.window) >= time.Minute {
		r.window, r.uploads = now, 0
	}
	r.uploads++
	if r.uploads <= most {
		return 0
	}
	return int(time.Minute-now.Sub(r.window))/int(time.Second) + 1
}
