package memo

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func give(v int, err error) func(context.Context) (int, error) {
	return func(context.Context) (int, error) { return v, err }
}

func TestMadeOnce(t *testing.T) {
	var m Memo[int]
	if _, ok := m.Peek(); ok {
		t.Error("there before it was made")
	}
	for i := range 3 {
		if v, err := m.Get(t.Context(), give(7+i, nil)); v != 7 || err != nil {
			t.Errorf("Get %d: %d, %v", i, v, err)
		}
	}
	if v, ok := m.Peek(); v != 7 || !ok {
		t.Errorf("Peek: %d, %v", v, ok)
	}
	m.Retry()
	if v, ok := m.Peek(); v != 7 || !ok {
		t.Errorf("Retry dropped a value: %d, %v", v, ok)
	}
	m.Forget()
	if v, err := m.Get(t.Context(), give(8, nil)); v != 8 || err != nil {
		t.Errorf("after Forget: %d, %v", v, err)
	}
}

func TestErrorIsKept(t *testing.T) {
	var m Memo[int]
	broken := errors.New("broken")
	for range 2 {
		if _, err := m.Get(t.Context(), give(0, broken)); err != broken {
			t.Errorf("the error is %v", err)
		}
	}
	if _, err := m.Get(t.Context(), give(7, nil)); err != broken {
		t.Errorf("made again after an error: %v", err)
	}
	if _, ok := m.Peek(); ok {
		t.Error("Peek gives a value that could not be made")
	}
	m.Retry()
	if v, err := m.Get(t.Context(), give(7, nil)); v != 7 || err != nil {
		t.Errorf("after Retry: %d, %v", v, err)
	}
}

func TestManyAskAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Memo[int]
		var made atomic.Int64
		open := make(chan struct{})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				v, err := m.Get(t.Context(), func(context.Context) (int, error) {
					<-open
					return int(made.Add(1)), nil
				})
				if v != 1 || err != nil {
					t.Errorf("Get: %d, %v", v, err)
				}
			})
		}
		synctest.Wait() // one makes, all others wait
		close(open)
		wg.Wait()
		if n := made.Load(); n != 1 {
			t.Errorf("made %d times", n)
		}
	})
}

func TestCancelledAttemptIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Memo[int]
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := m.Get(ctx, func(ctx context.Context) (int, error) {
				<-ctx.Done()
				return 0, ctx.Err()
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the cancelled attempt: %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if v, err := m.Get(t.Context(), give(7, nil)); v != 7 || err != nil {
				t.Errorf("who waited: %d, %v", v, err)
			}
		})
		synctest.Wait()
		cancel()
		wg.Wait()
	})
}

func TestWaiterLeavesWhenCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Memo[int]
		open := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			v, err := m.Get(t.Context(), func(context.Context) (int, error) { <-open; return 7, nil })
			if v != 7 || err != nil {
				t.Errorf("who makes: %d, %v", v, err)
			}
		})
		synctest.Wait()
		why := errors.New("the job was stopped")
		ctx, cancel := context.WithCancelCause(t.Context())
		wg.Go(func() {
			if _, err := m.Get(ctx, give(8, nil)); err != why {
				t.Errorf("who waited: %v", err)
			}
		})
		synctest.Wait()
		cancel(why)
		synctest.Wait()
		close(open)
		wg.Wait()
	})
}
