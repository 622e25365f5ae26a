package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/pflag"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/upkeep"
)

const cacheUsage = `Usage:
  mayfly cache ls CACHE            the refs of a cache, with what each keeps
  mayfly cache show CACHE          the steps that a ref keeps
  mayfly cache verify CACHE        read every blob and check it
  mayfly cache prune CACHE         drop what is old, and blobs that nothing names
  mayfly cache copy FROM TO        bring a ref to another ref or another place

CACHE, FROM and TO are what --cache-from and --cache-to take:
type=s3,bucket=…,name=main; type=registry,ref=…; type=local,src=…

Options:
`

// cacheOptions are the options of mayfly cache.
type cacheOptions struct {
	refs            []string
	all, dryRun     bool
	json, noMerge   bool
	keepAge, grace  time.Duration
	keepSize        string
	parallel        int
	command         string
	caches          []string
	keepBytes       int64
	registryOptions buildOptions // for insecureHosts
}

func parseCache(w world, args []string) (cacheOptions, error) {
	var o cacheOptions
	f := pflag.NewFlagSet("mayfly cache", pflag.ContinueOnError)
	f.SetOutput(w.stderr)
	f.StringArrayVar(&o.refs, "ref", nil, "show, verify, prune: `REF` instead of the one that CACHE names; may be given several times")
	f.BoolVar(&o.all, "all", false, "show, verify, prune: every ref of the cache")
	f.BoolVar(&o.dryRun, "dry-run", false, "prune: only say what would go")
	f.DurationVar(&o.keepAge, "keep-duration", mergeMaxAge, "prune: keep what is younger than `AGE`; 0 keeps any age")
	f.StringVar(&o.keepSize, "keep-storage", "", "prune: keep at most `SIZE` of each ref, the newest: 5GB")
	f.DurationVar(&o.grace, "grace", 24*time.Hour, "prune: blobs that no ref names stay for `TIME`: a job may be about to name them")
	f.BoolVar(&o.noMerge, "replace", false, "copy: replace what TO holds instead of merging with it")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.IntVar(&o.parallel, "parallel", 4, "verify, copy: `BLOBS` in flight")
	f.Usage = func() { fmt.Fprint(w.stderr, cacheUsage, f.FlagUsages()) }
	if err := f.Parse(args); err != nil {
		return o, hint.With(usageError{err}, "`mayfly cache --help` lists the options")
	}
	if f.NArg() == 0 {
		f.Usage()
		return o, usagef("mayfly cache: no command is given")
	}
	o.command, o.caches = f.Arg(0), f.Args()[1:]
	want := 1
	switch o.command {
	case "ls", "show", "verify", "prune":
	case "copy":
		want = 2
	default:
		return o, usagef("mayfly cache: unknown command %q: the commands are ls, show, verify, prune and copy", o.command)
	}
	if len(o.caches) != want {
		return o, usagef("mayfly cache %s takes %d caches, %d are given", o.command, want, len(o.caches))
	}
	if o.keepSize != "" {
		n, err := units.RAMInBytes(o.keepSize)
		if err != nil || n < 0 {
			return o, usagef("--keep-storage: %q is not a size, such as 5GB", o.keepSize)
		}
		o.keepBytes = n
	}
	o.registryOptions.cacheFrom = o.caches
	return o, nil
}

// cache looks after caches.
func cache(ctx context.Context, w world, args []string) error {
	o, err := parseCache(w, args)
	if err != nil {
		if isHelp(err) {
			return nil
		}
		return err
	}
	client := registry.New(registry.Config{UserAgent: "mayfly/" + version, Insecure: insecureHosts(o.registryOptions)})
	defer client.CloseIdle()
	opener := newCacheOpener(w, client, o.registryOptions)
	stores := make([]*store, len(o.caches))
	for i, text := range o.caches {
		use := reading
		if i == 1 || o.command == "prune" {
			use = writing
		}
		if stores[i], err = openNamed(opener, text, use); err != nil {
			return err
		}
	}
	if err := deniedTo(o, stores); err != nil {
		return err
	}
	switch o.command {
	case "ls":
		return cacheLs(ctx, w, o, stores[0])
	case "show":
		return cacheShow(ctx, w, o, stores[0])
	case "verify":
		return cacheVerify(ctx, w, o, stores[0])
	case "prune":
		return cachePrune(ctx, w, o, stores[0])
	}
	return cacheCopy(ctx, w, o, stores[0], stores[1])
}

func deniedTo(o cacheOptions, stores []*store) error {
	if last := stores[len(stores)-1]; last.denied != nil && (o.command == "copy" || o.command == "prune" && !o.dryRun) {
		return fmt.Errorf("%s: %w", last.name, last.denied)
	}
	return nil
}

// openNamed opens the cache of an argument. Attributes that say how a build
// exports are accepted and have no say here.
func openNamed(c *cacheOpener, text string, u use) (*store, error) {
	a, err := cacheAttrs("cache", text)
	if err != nil {
		return nil, err
	}
	for from, to := range map[string]string{"src": "dest", "dest": "src"} {
		// A directory is a directory, whatever is done with it.
		if v, ok := a.fields[from]; ok && (to == "dest") == (u == writing) {
			delete(a.fields, from)
			a.fields[to] = v
			break
		}
	}
	a.oneOf("mode", "min", "min", "max")
	a.boolean("ignore-error", true)
	a.duration("timeout", 0)
	compressionAttrs(a)
	mergeAttrs(a)
	mountIDs(a, false)
	a.size("mounts-max-size", 0)
	a.duration("mounts-max-age", 0)
	s, err := c.open(a, a.oneOf("type", "", kinds...), u)
	if err := a.firstError(err); err != nil {
		return nil, err
	}
	return s, nil
}

// keeper returns the backend of a store as one that lists and removes.
func keeper(s *store) (remotecache.Keeper, error) {
	if s.keeper == nil {
		return nil, fmt.Errorf("%s: %w", s.name, errors.ErrUnsupported)
	}
	return keeping{s.backend, s.keeper}, nil
}

// keeping is a Keeper whose indexes go through another backend, which signs
// them and looks at their signatures.
type keeping struct {
	remotecache.Backend
	keeper remotecache.Keeper
}

func (k keeping) List(ctx context.Context) (remotecache.Contents, error) { return k.keeper.List(ctx) }

func (k keeping) RemoveIndex(ctx context.Context, ref string) error {
	return k.keeper.RemoveIndex(ctx, ref)
}

func (k keeping) RemoveBlob(ctx context.Context, dgst digest.Digest) error {
	return k.keeper.RemoveBlob(ctx, dgst)
}

// chosen returns the refs that a command is about.
func chosen(ctx context.Context, o cacheOptions, s *store) ([]string, error) {
	switch {
	case o.all:
		k, err := keeper(s)
		if err != nil {
			return nil, err
		}
		held, err := k.List(ctx)
		var out []string
		for _, r := range held.Refs {
			out = append(out, r.Ref)
		}
		slices.Sort(out)
		return out, err
	case len(o.refs) > 0:
		return o.refs, nil
	}
	return s.refs, nil
}

func cacheLs(ctx context.Context, w world, o cacheOptions, s *store) error {
	k, err := keeper(s)
	if err != nil {
		return err
	}
	held, err := k.List(ctx)
	if err != nil {
		return err
	}
	list := cacheList{Cache: s.name, Refs: []cacheRef{}}
	used := map[digest.Digest]bool{}
	for _, r := range held.Refs {
		e := cacheRef{Ref: r.Ref, Saved: r.Saved}
		idx, err := s.backend.LoadIndex(ctx, r.Ref)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			e.Problem = err.Error()
		} else {
			size := upkeep.SizeOf(idx)
			e.Records, e.Steps, e.Blobs, e.Bytes, e.Newest, e.Oldest = size.Records, size.Results, size.Blobs, size.Bytes, size.Newest, size.Oldest
			for _, b := range idx.Blobs() {
				used[b.Digest] = true
			}
			if m, ok := describeMount(ctx, s.backend, r.Ref); ok {
				e.Mount = strings.TrimPrefix(m.Name.ID, "/") + " " + m.Name.Platform
				e.Newest, e.Oldest = m.Saved, m.Saved
			}
		}
		list.Refs = append(list.Refs, e)
	}
	for _, b := range held.Blobs {
		list.StoredBlobs++
		list.StoredBytes += b.Size
		if !used[b.Digest] {
			list.UnusedBlobs++
			list.UnusedBytes += b.Size
		}
	}
	if o.json {
		return printJSON(w, list)
	}
	return list.print(w, held.Blobs != nil)
}

func cacheShow(ctx context.Context, w world, o cacheOptions, s *store) error {
	refs, err := chosen(ctx, o, s)
	if err != nil {
		return err
	}
	var shown []cacheSteps
	for _, ref := range refs {
		idx, err := s.backend.LoadIndex(ctx, ref)
		if err != nil {
			return fmt.Errorf("%s %s: %w", s.name, ref, err)
		}
		entries, err := upkeep.Entries(idx)
		if err != nil {
			return err
		}
		c := cacheSteps{Ref: ref, Steps: []cacheStep{}}
		for _, e := range entries {
			c.Steps = append(c.Steps, cacheStep{
				Step: e.Step, Layer: e.Layer.String(), Layers: e.Layers, Bytes: e.Bytes, Total: e.Total, Created: e.Created, Keys: e.Keys,
			})
		}
		shown = append(shown, c)
	}
	if o.json {
		return printJSON(w, shown)
	}
	return printSteps(w, shown)
}

func cacheVerify(ctx context.Context, w world, o cacheOptions, s *store) error {
	refs, err := chosen(ctx, o, s)
	if err != nil {
		return err
	}
	var indexes []*remotecache.Index
	for _, ref := range refs {
		idx, err := s.backend.LoadIndex(ctx, ref)
		if err != nil {
			return fmt.Errorf("%s %s: %w", s.name, ref, err)
		}
		indexes = append(indexes, idx)
	}
	r, err := upkeep.Verify(ctx, s.backend, o.parallel, indexes...)
	if err != nil {
		return err
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w.stderr, "%s  %s\n", p.Blob.Digest, p.Err)
	}
	if n := len(r.Problems); n > 0 {
		err := fmt.Errorf("%s: %d of %d blobs cannot be used", s.name, n, n+r.Blobs)
		return hint.With(err, "a build runs their steps again, and its export repairs the cache")
	}
	_, err = fmt.Fprintf(w.stdout, "%d blobs, %s: all as they should be\n", r.Blobs, units.HumanSize(float64(r.Bytes)))
	return err
}

func cachePrune(ctx context.Context, w world, o cacheOptions, s *store) error {
	k, err := keeper(s)
	if err != nil {
		return err
	}
	refs, err := chosen(ctx, o, s)
	if err != nil {
		return err
	}
	if len(refs) == 0 {
		return nil // with --all: the cache is empty
	}
	p, err := upkeep.Prune(ctx, k, refs, upkeep.PruneOptions{
		Now: time.Now(), MaxAge: o.keepAge, MaxBytes: o.keepBytes, Grace: o.grace, DryRun: o.dryRun,
	})
	if err != nil {
		return err
	}
	verb := "removed"
	if o.dryRun {
		verb = "would remove"
	}
	_, err = fmt.Fprintf(w.stdout, "%s %d records, %d refs, %d blobs (%s)\n", verb, p.Records, len(p.Refs), p.Blobs, units.HumanSize(float64(p.Bytes)))
	if p.Kept > 0 {
		fmt.Fprintf(w.stderr, "%d blobs that no ref names stay: they are younger than %s, or of unknown age\n", p.Kept, o.grace)
	}
	return err
}

func cacheCopy(ctx context.Context, w world, o cacheOptions, from, to *store) error {
	opts := upkeep.CopyOptions{Parallel: o.parallel, Watch: func(blob ocispec.Descriptor) func(error) {
		return func(err error) {
			if err == nil {
				fmt.Fprintf(w.stderr, "%s  %s\n", blob.Digest, units.HumanSize(float64(blob.Size)))
			}
		}
	}}
	if !o.noMerge {
		opts.Merge = &remotecache.Limits{Now: time.Now(), MaxAge: mergeMaxAge, MaxRecords: mergeMaxRecords, MaxBytes: mergeMaxSize}
	}
	refs, err := chosen(ctx, o, from)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		target := to.ref
		if o.all {
			target = ref
		}
		out, err := upkeep.Copy(ctx, from.backend, ref, to.backend, target, opts)
		switch {
		case out.State == remotecache.Partial:
			fmt.Fprintf(w.stderr, "warning: %s %s: %v\n", from.name, ref, err)
		case errors.Is(err, remotecache.ErrNotFound) && len(refs) > 1 && !o.all:
			continue // the branch has none of its own: the next one is what it falls back to
		case err != nil:
			return fmt.Errorf("copy %s %s: %w", from.name, ref, err)
		}
		if _, err := fmt.Fprintf(w.stdout, "%s → %s %s: %d blobs sent (%s), %d were there\n", ref, to.name, target, out.Blobs,
			strings.TrimSpace(units.HumanSize(float64(out.Bytes))), out.Existing); err != nil {
			return err
		}
		if o.all {
			continue // cache mounts are refs like others, but named after the ref beside them
		}
		if err := copyMounts(ctx, w, from, ref, to, target, opts); err != nil {
			return err
		}
		if len(o.refs) == 0 {
			return nil
		}
	}
	return nil
}

func printJSON(w world, v any) error {
	enc := json.NewEncoder(w.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
