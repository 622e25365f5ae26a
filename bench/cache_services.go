package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// startCaches starts a service that keeps caches, whose answers come after
// delay. Its files are on the file system of the measurements.
func startCaches(ctx context.Context, b *bench, kind string, delay time.Duration) (*services.Cache, error) {
	dir := filepath.Join(b.dir, "caches")
	if err := errors.Join(b.discard(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return nil, err
	}
	cfg := services.CacheConfig{Dir: dir}
	if delay > 0 {
		cfg.Via = services.Delayed(delay)
	}
	return services.StartCache(ctx, kind, cfg)
}
