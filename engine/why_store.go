package engine

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/explain"
	"github.com/mayfly-build/mayfly/remotecache"
)

const (
	// keptBuilds is how many builds the state dir remembers, and maxRecords
	// what the records of one may take there, in bytes.
	keptBuilds = 50
	maxRecords = 16 << 20

	// comparedBuilds is how many of them a build reads: the newest that have
	// steps of its own.
	comparedBuilds = 4

	// fetchTimeout is how long the records of an imported cache may take, and
	// fetchGrace how long of it a build waits that has nothing else to do.
	fetchTimeout = 10 * time.Second
	fetchGrace   = 2 * time.Second

	recordsSuffix = ".json.zst"
)

// RecordsFile returns the path of what a state dir knows of a build's steps:
// explain.Decode reads it.
func RecordsFile(stateDir, ref string) string {
	return filepath.Join(stateDir, "builds", ref+recordsSuffix)
}

// LastBuilds returns the refs of the builds that a state dir has records of,
// newest first.
func LastBuilds(stateDir string) ([]string, error) {
	return lastBuilds(filepath.Join(stateDir, "builds"))
}

func lastBuilds(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	type file struct {
		ref string
		at  time.Time
	}
	var files []file
	for _, e := range list {
		ref, ok := strings.CutSuffix(e.Name(), recordsSuffix)
		info, err := e.Info()
		if !ok || err != nil { // another build may have removed it
			continue
		}
		files = append(files, file{ref, info.ModTime()})
	}
	slices.SortStableFunc(files, func(a, b file) int { return b.at.Compare(a.at) })
	refs := make([]string, len(files))
	for i, f := range files {
		refs[i] = f.ref
	}
	return refs, nil
}

// loadEarlier returns the records of earlier builds, newest first: those of the
// state dir and those that came with imported caches.
func (w *why) loadEarlier(ctx context.Context) []*explain.Set {
	w.mu.Lock()
	imports := slices.Clone(w.imports)
	w.mu.Unlock()
	fetched := make([][]*explain.Set, len(imports))
	var work sync.WaitGroup
	for i, a := range imports {
		work.Go(func() { fetched[i] = fetchRecords(ctx, a.blob, a.origin.Open) })
	}
	sets := w.local()
	work.Wait()
	for _, s := range fetched {
		sets = append(sets, s...)
	}
	slices.SortStableFunc(sets, func(a, b *explain.Set) int { return b.Created.Compare(a.Created) })
	w.one.Lock()
	defer w.one.Unlock()
	for i, a := range imports {
		w.fetched[a.blob.Digest] = fetched[i]
	}
	return sets
}

// fetchRecords returns what an attachment holds; none when it cannot be had.
func fetchRecords(ctx context.Context, blob remotecache.Blob, open func(context.Context, ocispec.Descriptor, int64) (io.ReadCloser, error)) []*explain.Set {
	const limit = 4 * maxAttachment // bytes
	if blob.Size > limit {
		return nil
	}
	r, err := open(ctx, blob.Descriptor(), 0)
	if err != nil {
		return nil
	}
	defer r.Close()
	dt, err := io.ReadAll(io.LimitReader(r, limit))
	if err != nil || digest.FromBytes(dt) != blob.Digest {
		return nil
	}
	sets, err := explain.Decode(dt)
	if err != nil {
		return nil
	}
	return sets
}

// local returns the newest records of the state dir that have a step of this
// build.
func (w *why) local() (sets []*explain.Set) {
	refs, err := lastBuilds(w.dir)
	if err != nil {
		return nil
	}
	w.one.Lock()
	steps, _ := w.records(w.b.solver.Traces())
	w.one.Unlock()
	for _, ref := range refs {
		if len(sets) == comparedBuilds {
			break
		}
		path := filepath.Join(w.dir, ref+recordsSuffix)
		if !hasAny(path, steps) {
			continue
		}
		dt, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if s, err := explain.Decode(dt); err == nil {
			sets = append(sets, s...)
		}
	}
	return sets
}

func hasAny(path string, steps []explain.Record) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head, err := explain.ReadHead(f)
	return err == nil && slices.ContainsFunc(steps, func(r explain.Record) bool {
		return !r.Kind.IsSource() && head.Has(r.ID, r.Seat)
	})
}

// collect returns the records of the build as far as it has come, and where
// that of each vertex is. w.one is held.
func (w *why) collect(ctx context.Context) (set *explain.Set, at map[digest.Digest]int) {
	set = &explain.Set{Build: w.ref, Created: time.Now(), Args: w.given, Manifests: map[digest.Digest]*explain.Manifest{}}
	traces := w.b.solver.Traces()
	set.Steps, at = w.records(traces)
	keys := keyHashes{}
	for _, t := range traces {
		if i, ok := at[t.Vertex.Digest]; ok && t.Key != nil {
			set.Steps[i].Key = keys.of(t.Key)
		}
	}
	for i := range set.Steps {
		w.addContents(ctx, set, &set.Steps[i])
	}
	return set, at
}

// wait waits for the records of earlier builds, not for long. It reports
// whether a step ran that they were needed for.
func (w *why) wait(ctx context.Context) bool {
	w.mu.Lock()
	giveUp := w.giveUp
	w.mu.Unlock()
	if giveUp == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, fetchGrace)
	defer cancel()
	select {
	case <-w.loaded:
	case <-ctx.Done():
		giveUp()
		<-w.loaded
	}
	return true
}

// finish says why each step ran, in res unless that is nil and in the steps'
// logs, and files the records of the build. All results have been filed
// before. Of a build that was stopped it only ends what begin started.
func (w *why) finish(ctx context.Context, res *Result) {
	ran := w.wait(ctx)
	w.work.Wait()
	if !ran || ctx.Err() != nil {
		return
	}
	w.one.Lock()
	defer w.one.Unlock()
	set, at := w.collect(ctx)
	x := explain.New(set, w.earlier, w.sameBytes)
	byVertex := map[digest.Digest]*explain.Reason{}
	for d, i := range at {
		if r := &set.Steps[i]; !r.Kind.IsSource() {
			r.Why = x.Why(r.ID)
			byVertex[d] = r.Why
		}
	}
	w.mu.Lock()
	lines := make([]*line, 0, len(w.lines))
	for _, l := range w.lines {
		lines = append(lines, l)
	}
	w.mu.Unlock()
	slices.SortFunc(lines, func(a, b *line) int { return cmp.Compare(at[a.v.Digest], at[b.v.Digest]) })
	for _, l := range lines {
		if r := byVertex[l.v.Digest]; r != nil {
			w.write(l, r, true)
		}
	}
	if res != nil {
		for i := range res.Steps {
			s := &res.Steps[i]
			if r := byVertex[s.Digest]; r != nil && !s.Cached {
				s.Why, s.Reason = r.Text, r
			}
		}
	}
	w.save(set)
}

// save files a build's records and forgets those of old builds.
func (w *why) save(set *explain.Set) {
	dt, err := explain.Encode([]*explain.Set{set}, maxRecords)
	if err != nil {
		return
	}
	f, err := os.CreateTemp(w.tmp, "records-")
	if err != nil {
		return
	}
	_, err = f.Write(dt)
	if err = errors.Join(err, f.Close()); err == nil {
		if err = os.MkdirAll(w.dir, 0o755); err == nil {
			err = os.Rename(f.Name(), filepath.Join(w.dir, w.ref+recordsSuffix))
		}
	}
	if err != nil {
		os.Remove(f.Name())
		return
	}
	refs, err := lastBuilds(w.dir)
	if err != nil || len(refs) <= keptBuilds {
		return
	}
	for _, ref := range refs[keptBuilds:] {
		os.Remove(filepath.Join(w.dir, ref+recordsSuffix))
	}
}
