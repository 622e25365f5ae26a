package gha_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/mayfly-build/mayfly/remotecache/gha"
)

var _ gha.Limiter = (*rate.Limiter)(nil)

func TestPerMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 20
		l := gha.PerMinute(n)
		begin := time.Now()
		var mu sync.Mutex
		var passed []time.Duration
		var g sync.WaitGroup
		for i := range 3*n + 1 {
			g.Go(func() {
				time.Sleep(time.Duration(i) * time.Second / 4)
				if err := l.Wait(t.Context()); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				passed = append(passed, time.Since(begin))
			})
		}
		g.Wait()
		if passed[n-1] > 5*time.Second {
			t.Errorf("the first %d passed after %s, want at once", n, passed[n-1])
		}
		for i := n; i < len(passed); i++ {
			if d := passed[i] - passed[i-n]; d < time.Minute {
				t.Errorf("%d passed within %s", n+1, d)
			}
		}
		if last := passed[len(passed)-1]; last > 3*time.Minute+5*time.Second {
			t.Errorf("the last passed after %s", last)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if l = gha.PerMinute(1); l.Wait(ctx) != nil {
			t.Error("the first has to wait")
		}
		if err := l.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want that of the context", err)
		}
	})
}
