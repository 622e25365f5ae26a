package retry

import (
	"context"
	"sync"
	"time"
)

// A Recent remembers the last fault after which something was tried again, for
// clients whose SDK forgets it when its wait is ended. The zero value is ready
// for use; all methods may be called at once.
type Recent struct {
	mu  sync.Mutex
	err error
	at  time.Time
}

// recently is how long a fault says something of what came after it: no pause
// is longer.
const recently = time.Minute

// Note remembers a fault.
func (r *Recent) Note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err, r.at = err, time.Now()
}

// Interrupted returns the cause of ctx's end, with the fault if there was one
// within a minute.
func (r *Recent) Interrupted(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) > recently {
		return Interrupted(ctx, nil)
	}
	return Interrupted(ctx, r.err)
}
