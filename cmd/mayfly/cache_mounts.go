package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/docker/go-units"

	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/treestore"
	"github.com/mayfly-build/mayfly/remotecache/upkeep"
)

// mountRefPrefix begins the refs of cache mounts.
const mountRefPrefix = "mount-"

// describeMount returns what a ref is of, when it is that of a cache mount.
func describeMount(ctx context.Context, b remotecache.Backend, ref string) (treestore.Info, bool) {
	if !strings.HasPrefix(ref, mountRefPrefix) {
		return treestore.Info{}, false
	}
	info, err := treestore.Describe(ctx, b, ref)
	return info, err == nil
}

// mountsOf returns the cache mounts that are stored beside a ref.
func mountsOf(ctx context.Context, s *store, ref string) (out []treestore.Name, err error) {
	if s.keeper == nil {
		return nil, nil
	}
	held, err := s.keeper.List(ctx)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, nil
	}
	for _, r := range held.Refs {
		if info, ok := describeMount(ctx, s.backend, r.Ref); ok && treestore.Ref(ref, info.Name) == r.Ref {
			out = append(out, info.Name)
		}
	}
	return out, err
}

// copyMounts brings the cache mounts beside a ref along with it.
func copyMounts(ctx context.Context, w world, from *store, ref string, to *store, target string, opts upkeep.CopyOptions) error {
	names, err := mountsOf(ctx, from, ref)
	if err != nil {
		return err
	}
	opts.Merge = nil // a directory is what one job left, as a whole
	for _, name := range names {
		out, err := upkeep.Copy(ctx, from.backend, treestore.Ref(ref, name), to.backend, treestore.Ref(target, name), opts)
		if out.State == remotecache.Partial {
			fmt.Fprintf(w.stderr, "warning: cache mount %s: %v\n", name.ID, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("copy cache mount %s: %w", name.ID, err)
		}
		if _, err := fmt.Fprintf(w.stdout, "cache mount %s: %d blobs sent (%s), %d were there\n", strings.TrimPrefix(name.ID, "/"),
			out.Blobs, units.HumanSize(float64(out.Bytes)), out.Existing); err != nil {
			return err
		}
	}
	return nil
}
