// Package memo makes a value once, by the first who asks.
package memo

import (
	"context"
	"sync"
)

// A Memo is a value that is made once, by the first who asks, while others
// wait. A cancelled attempt is forgotten: the next who asks tries again.
type Memo[T any] struct {
	mu   sync.Mutex
	busy chan struct{} // closed when the attempt under way ends
	done bool
	v    T
	err  error
}

// Get returns the value, made by make when nobody has made it yet. An error is
// kept too, unless ctx was cancelled.
func (m *Memo[T]) Get(ctx context.Context, make func(context.Context) (T, error)) (T, error) {
	var zero T
	for {
		m.mu.Lock()
		if m.done {
			defer m.mu.Unlock()
			return m.v, m.err
		}
		if m.busy == nil {
			m.busy = newBusy()
			m.mu.Unlock()
			break
		}
		busy := m.busy
		m.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return zero, context.Cause(ctx)
		}
	}
	v, err := make(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.busy)
	m.busy = nil
	if err != nil && ctx.Err() != nil {
		return zero, err
	}
	m.done, m.v, m.err = true, v, err
	return v, err
}

// Peek returns the value if it has been made without an error.
func (m *Memo[T]) Peek() (T, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.v, m.done && m.err == nil
}

// Retry drops an error that was kept: the next who asks has the value made. A
// value that was made stays.
func (m *Memo[T]) Retry() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.done && m.err != nil {
		var zero T
		m.done, m.v, m.err = false, zero, nil
	}
}

// Forget drops the value: the next who asks has it made anew.
func (m *Memo[T]) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	var zero T
	m.done, m.v, m.err = false, zero, nil
}

func newBusy() chan struct{} { return make(chan struct{}) }
