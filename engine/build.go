package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"

	"github.com/mayfly-build/mayfly/engine/buildcache"
	"github.com/mayfly-build/mayfly/engine/cachemount"
	"github.com/mayfly-build/mayfly/engine/content"
	"github.com/mayfly-build/mayfly/engine/contenthash"
	"github.com/mayfly-build/mayfly/engine/frontend/dockerfile"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/op"
	"github.com/mayfly-build/mayfly/engine/provenance"
	"github.com/mayfly-build/mayfly/engine/snapshot"
	"github.com/mayfly-build/mayfly/engine/snapshot/native"
	"github.com/mayfly-build/mayfly/engine/snapshot/overlay"
	"github.com/mayfly-build/mayfly/engine/solver"
	"github.com/mayfly-build/mayfly/engine/source/git"
	"github.com/mayfly-build/mayfly/engine/source/http"
	"github.com/mayfly-build/mayfly/engine/source/image"
	"github.com/mayfly-build/mayfly/engine/statedir"
)

// A build is one Request being carried out.
type build struct {
	req   Request
	ref   string
	began time.Time

	state  *statedir.Dir
	layers *layer.Store
	hashes *contenthash.Cache
	world  *op.World
	solver *solver.Solver[*layer.State]
	local  *buildcache.Local
	remote []*buildcache.Remote

	exports []*cacheExport
	obs     *observer
	why     *why
	eager   atomic.Pointer[eager] // nil until it is known what the image is

	beside   sync.WaitGroup // imports under way
	mu       sync.Mutex
	imports  []*importing
	images   []provenance.Image // that the frontend looked up
	finished time.Time          // when the targets were made

	corruptMounts []cachemount.Use // that a cache has, and that could not be restored
}

// Build carries a request out. When it returns, nothing it started is left:
// no goroutine, container, mount or temporary file. The error is the build's
// or the push's; what a cache did wrong is in the Result. Where a cache is to
// fail the build there are both: a Result, of what was built and pushed, and an
// error.
func Build(ctx context.Context, req Request) (_ *Result, err error) {
	b := &build{req: req, ref: randomHex(12), began: time.Now(), obs: newObserver(req.Progress)}
	if err := b.open(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close(ctx, err)) }()
	return b.run(ctx)
}

func randomHex(n int) string {
	dt := make([]byte, n)
	rand.Read(dt)
	return hex.EncodeToString(dt)
}

// open makes what the build works with.
func (b *build) open(ctx context.Context) (err error) {
	if b.state, err = statedir.Open(b.req.StateDir); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = b.state.Close()
		}
	}()
	store, err := content.Open(b.state.Path("blobs"), b.state.TmpDir())
	if err != nil {
		return err
	}
	b.layers, err = layer.New(layer.Config{
		Dir: b.state.Path("layers"), Content: store, Tmp: b.state.Tmp, Parallel: runtime.NumCPU(),
		Origin: func(repo string) layer.Origin { return image.NewOrigin(b.req.Registry, repo, true) },
	})
	if err != nil {
		return err
	}
	snap, err := b.snapshotter()
	if err != nil {
		return err
	}
	exec, err := b.req.NewExecutor(b.state.TmpDir())
	if err != nil {
		return err
	}
	for _, ex := range b.req.Exports {
		b.exports = append(b.exports, b.newCacheExport(ex))
	}
	b.hashes = contenthash.OpenCache(b.state.Path("hashes"))
	b.local, err = buildcache.NewLocal(b.state.Path("keys"), b.layers, b.warn)
	if err != nil {
		return err
	}
	b.world = &op.World{
		Layers: b.layers, Hasher: contenthash.New(b.hashes), Snapshot: snap, Executor: exec,
		Mounts:  cachemount.New(cachemount.Config{Dir: b.state.Path("mounts"), Tmp: b.state.Tmp, Restore: b.restoreMount}),
		Images:  image.New(b.req.Registry),
		Git:     git.New(git.Config{Dir: b.state.Path("git"), Secret: b.req.Secrets.Get, SSHAgent: b.req.Agents.Forward, Env: b.req.Env}),
		HTTP:    http.New(http.Config{Tmp: b.state.Tmp, Secret: b.req.Secrets.Get}),
		Locals:  b.req.Locals,
		Secrets: b.req.Secrets, Agents: b.req.Agents, Allow: b.req.Allow, StepEnv: b.req.StepEnv,
		Tmp: b.state.Tmp, Session: b.ref,
	}
	b.why = newWhy(b)
	b.world.Seen, b.obs.why = b.why.seen, b.why
	caches := []solver.Cache[*layer.State]{b.local}
	for _, im := range b.req.Imports {
		r := b.importCache(ctx, im)
		b.remote = append(b.remote, r)
		caches = append(caches, r)
	}
	b.solver = solver.New(solver.Config[*layer.State]{
		Op: b.world.Op, Caches: caches, Observer: b.obs, Save: b.local.Save, Parallel: b.req.Parallel,
		Made: func(v *llb.Vertex, states []*layer.State) {
			if e := b.eager.Load(); e != nil {
				e.made(v, states)
			}
		},
		Lost:   func(err error) bool { return errors.Is(err, layer.ErrLost) },
		Usable: func(s *layer.State) bool { return s.Usable() },
	})
	return nil
}

func (b *build) snapshotter() (snapshot.Snapshotter, error) {
	cfg := snapshot.Config{Dir: b.state.TmpDir()}
	switch b.req.Snapshotter {
	case "overlay":
		return overlay.New(cfg)
	case "native":
		return native.New(cfg)
	case "", "auto":
		if err := overlay.Probe(b.state.TmpDir()); err != nil {
			b.warn(fmt.Errorf("overlay mounts do not work here: %w; copying root file systems instead", err))
			return native.New(cfg)
		}
		return overlay.New(cfg)
	}
	return nil, fmt.Errorf("snapshotter %q is none of auto, overlay, native", b.req.Snapshotter)
}

// flushTimeout bounds what is still filed for later builds after one that
// failed or was cancelled.
const flushTimeout = 20 * time.Second

func (b *build) close(ctx context.Context, failed error) error {
	b.solver.Wait()
	b.beside.Wait()
	if c, ok := b.world.Executor.(io.Closer); ok {
		defer func() { _ = c.Close() }()
	}
	if failed != nil {
		b.why.finish(ctx, nil)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
	}
	if err := b.local.Flush(ctx); err != nil {
		b.warn(fmt.Errorf("keep results for later builds: %w", err))
	}
	if err := b.hashes.Save(); err != nil {
		b.warn(fmt.Errorf("keep file digests for later builds: %w", err))
	}
	return b.state.Close()
}

func (b *build) warn(err error) { b.obs.warn(err) }

// maxTries bounds how often an export starts over because a blob is lost:
// each time at least one blob is known to be lost that was not before.
const maxTries = 1000

// run builds, then exports, then caches.
func (b *build) run(ctx context.Context) (*Result, error) {
	res := &Result{Ref: b.ref}
	fe := &dockerfile.Client{Backend: b, Progress: b.req.Progress, Opts: b.req.Frontend, Session: b.ref}
	out, err := fe.Build(ctx)
	if err != nil {
		return nil, err
	}
	p, err := productOf(out)
	if err != nil {
		return nil, err
	}
	if err := b.canExport(p); err != nil {
		return nil, err
	}
	ectx, cancel := context.WithCancel(ctx)
	e := b.startEager(ectx, p)
	defer func() { cancel(); e.wait() }()
	b.eager.Store(e)
	var failed error
	for tries := 1; ; tries++ {
		res.Caches, res.Images = nil, nil
		err := b.export(ctx, p, res)
		if errors.Is(err, layer.ErrLost) && ctx.Err() == nil && tries < maxTries {
			// The layer forgot the blob: the next try makes it of its files,
			// or runs the step again.
			b.warn(fmt.Errorf("%w; making it again", err))
			b.solver.ForgetLost(err)
			continue
		}
		if c, ok := errors.AsType[*cacheError](err); ok {
			failed = c
		} else if err != nil {
			return nil, err
		}
		break
	}
	b.beside.Wait()
	res.Caches = append(b.importOutcomes(), res.Caches...)
	res.Steps, res.Warnings = b.obs.result()
	b.solver.Wait()
	b.why.finish(ctx, res)
	stats := b.req.Registry.Stats()
	res.BytesIn, res.BytesOut = stats.BytesIn, stats.BytesOut
	res.Seconds = time.Since(b.began).Seconds()
	return res, failed
}

// Solve returns the result of an edge.
func (b *build) Solve(ctx context.Context, e llb.Edge) (*layer.State, error) {
	return b.solver.Solve(ctx, e)
}

// Metadata says what a source names, without fetching it.
func (b *build) Metadata(ctx context.Context, src *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	resp, err := b.world.Metadata(ctx, src, opt)
	if err == nil {
		b.noteImage(src, opt, resp)
	}
	return resp, err
}
