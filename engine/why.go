package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/cachekey"
	"github.com/mayfly-build/mayfly/engine/contenthash"
	"github.com/mayfly-build/mayfly/engine/explain"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/progress"
	"github.com/mayfly-build/mayfly/remotecache"
)

// A why says of the steps of a build why they ran.
//
//	solver ──Traces──▶ why ──explain.Set──▶ state dir (builds/), exported caches
//	op.World ─content─▶ │ ◀──earlier Sets── state dir, imported caches
//	                    └──Reason──▶ log of the step, Result.Steps
//
// It costs nothing until a step runs, and then works beside the build. What
// goes wrong makes an explanation less precise, and is no trouble.
type why struct {
	dir    string // builds/ of the state dir
	tmp    string // where new files are written
	ref    string
	hasher *contenthash.Hasher
	b      *build
	fielder
	given []explain.Field // build arguments

	load    sync.Once
	loaded  chan struct{}  // closed when earlier is there
	work    sync.WaitGroup // goroutines of load and of lines
	earlier []*explain.Set // newest first; after loaded

	mu       sync.Mutex
	lines    map[digest.Digest]*line // of steps that ran, by vertex
	patience time.Duration           // what is left of it
	giveUp   context.CancelFunc      // ends load; nil before it began
	imports  []attachment
	contents map[digest.Digest]hashed // by record

	one       sync.Mutex // held while steps are compared
	ids       map[digest.Digest]identity
	live      *live // nil before the first line
	parts     map[digest.Digest]parts
	manifests map[digest.Digest]*explain.Manifest
	listed    int                              // entries of manifests
	probes    int                              // files read to tell a change of mode from one of bytes
	fetched   map[digest.Digest][]*explain.Set // by attachment
}

// parts are the fields of a vertex, as long as its source stands for pinned.
type parts struct {
	pinned string
	kind   explain.Kind
	fields []explain.Field
}

// A hashed is what a content digest was taken of.
type hashed struct {
	view *fsdiff.View
	sels []contenthash.Selector
}

// An attachment is the records that came with an imported cache.
type attachment struct {
	name   string // of the cache
	blob   remotecache.Blob
	origin layer.Origin
}

// newWhy returns the why of a build whose world is open.
func newWhy(b *build) *why {
	args := map[string]string{}
	names := map[string]bool{}
	w := &why{
		dir: b.state.Path("builds"), tmp: b.state.TmpDir(), ref: b.ref, hasher: b.world.Hasher, b: b,
		loaded: make(chan struct{}), patience: patience,
		lines: map[digest.Digest]*line{}, contents: map[digest.Digest]hashed{}, ids: map[digest.Digest]identity{},
		parts: map[digest.Digest]parts{}, manifests: map[digest.Digest]*explain.Manifest{},
		fetched: map[digest.Digest][]*explain.Set{},
	}
	for name, value := range b.req.Frontend {
		if arg, ok := strings.CutPrefix(name, "build-arg:"); ok {
			args[arg], names[arg] = value, true
			w.given = append(w.given, explain.Hidden(arg, value))
		}
	}
	slices.SortFunc(w.given, func(a, b explain.Field) int { return strings.Compare(a.Name, b.Name) })
	w.fielder = fielder{mask: explain.NewMasker(args), args: names}
	return w
}

// seen keeps what a content digest was taken of.
func (w *why) seen(sum digest.Digest, v *fsdiff.View, sels []contenthash.Selector) {
	record := cachekey.Output(sum, -1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.contents[record]; !ok {
		w.contents[record] = hashed{v, sels}
	}
}

// imported keeps where the records of an imported cache are. They are fetched
// when a step runs.
func (w *why) imported(name string, indexes []*remotecache.Index, origin layer.Origin) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, idx := range indexes {
		if blob, ok := idx.Attachment(explain.MediaType); ok && origin != nil {
			w.imports = append(w.imports, attachment{name, blob, origin})
		}
	}
}

// patience is how long the steps of a build wait in all, when they are done,
// for the lines that say why they ran, so that a line stands in its step's log.
// Later ones are written when the build is over.
const patience = 100 * time.Millisecond

// A line is what is to be written into the log of a step.
type line struct {
	v       *llb.Vertex
	p       *progress.Vertex
	over    chan struct{} // closed when it is written, or is not to be
	written bool          // under mu
	late    bool          // the step is done; under mu
}

// begin is called when a step with inputs begins to run.
func (w *why) begin(ctx context.Context, v *llb.Vertex, p *progress.Vertex) {
	ctx = context.WithoutCancel(ctx) // it may be that of one of several who need the step
	w.load.Do(func() {
		lctx, cancel := context.WithTimeout(ctx, fetchTimeout)
		w.mu.Lock()
		w.giveUp = cancel
		w.mu.Unlock()
		w.work.Go(func() {
			defer close(w.loaded)
			defer cancel()
			w.earlier = w.loadEarlier(lctx)
		})
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, again := w.lines[v.Digest]; again {
		return
	}
	l := &line{v: v, p: p, over: make(chan struct{})}
	w.lines[v.Digest] = l
	w.work.Go(func() {
		defer close(l.over)
		<-w.loaded
		if r := w.early(ctx, v); r != nil {
			w.write(l, r, false)
		}
	})
}

// end is called when a step with inputs has run, before its log is closed.
func (w *why) end(v *llb.Vertex) {
	w.mu.Lock()
	l, left := w.lines[v.Digest], w.patience
	w.mu.Unlock()
	if l == nil {
		return
	}
	began := time.Now()
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-l.over:
	case <-t.C:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	l.late = true
	w.patience = max(0, w.patience-time.Since(began))
}

// write writes a line, once. In a build that has nothing to compare with,
// every step is the first of its kind: that is no news.
func (w *why) write(l *line, r *explain.Reason, over bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.written || l.late && !over || len(w.earlier) == 0 && r.Kind == explain.CauseFirst {
		return
	}
	l.written = true
	fmt.Fprintln(l.p.Log(2), "why:", r.Text)
}

// A live Set is compared while the build goes on. Its steps are those that
// were known when it was made; what is said of one is what was known when it,
// or the first step that is built on it, began to run.
type live struct {
	set     *explain.Set
	at      map[digest.Digest]int
	x       *explain.Explainer
	said    map[digest.Digest]bool
	pending bool // the content of something is yet to be taken
}

// early says why a step runs while it does, by what is known then; nil when
// that says nothing yet.
func (w *why) early(ctx context.Context, v *llb.Vertex) *explain.Reason {
	if len(w.earlier) == 0 {
		return nil
	}
	w.one.Lock()
	defer w.one.Unlock()
	l := w.live
	if l == nil || !l.has(v) {
		l = &live{set: &explain.Set{Args: w.given, Manifests: map[digest.Digest]*explain.Manifest{}}, said: map[digest.Digest]bool{}}
		l.set.Steps, l.at = w.records(w.b.solver.Traces())
		l.x = explain.New(l.set, w.earlier, w.sameBytes)
		w.live = l
	}
	if !l.has(v) {
		return nil
	}
	w.say(ctx, l, v)
	r := &l.set.Steps[l.at[v.Digest]]
	r.State = explain.Ran
	why := l.x.Why(r.ID)
	if why == nil || l.pending && !why.Kind.Differs() {
		return nil
	}
	return why
}

func (l *live) has(v *llb.Vertex) bool {
	_, ok := l.at[v.Digest]
	return ok
}

// say brings what is known of a step and of all it is built on into l. w.one
// is held.
func (w *why) say(ctx context.Context, l *live, v *llb.Vertex) {
	if l.said[v.Digest] {
		return
	}
	l.said[v.Digest] = true
	for _, in := range v.Inputs {
		w.say(ctx, l, in.Vertex)
	}
	t, ok := w.b.solver.Trace(v)
	if !ok {
		return
	}
	r := &l.set.Steps[l.at[v.Digest]]
	id := r.ID
	*r = w.record(t, l.at)
	r.ID = id
	for i, in := range t.Map.Inputs {
		if in.ByContent && r.Inputs[i].Content == "" { // one that runs takes it beside
			r.Inputs[i].Pending, l.pending = true, true
		}
	}
	w.addContents(ctx, l.set, r)
}

// identity is identify, once for a vertex. w.one is held.
func (w *why) identity(v *llb.Vertex) identity {
	id, ok := w.ids[v.Digest]
	if !ok {
		id = identify(v, w.mask)
		w.ids[v.Digest] = id
		if id.dockerfile != nil {
			for _, name := range argNames(id.dockerfile.Data) {
				w.args[name] = true
			}
		}
	}
	return id
}

// fields returns the parts of a step's operation. w.one is held.
func (w *why) fields(t trace) (explain.Kind, []explain.Field) {
	pinned := ""
	if p, ok := t.Op.(interface{ Pinned() string }); ok {
		pinned = p.Pinned()
	}
	known, ok := w.parts[t.Vertex.Digest]
	if !ok || known.pinned != pinned {
		known = parts{pinned: pinned}
		known.kind, known.fields = w.fielder.fields(t.Vertex, pinned)
		w.parts[t.Vertex.Digest] = known
	}
	return known.kind, known.fields
}

// isStep reports whether a vertex is a step that says why it ran: a source is
// fetched since something that uses it runs.
func isStep(v *llb.Vertex) bool { return len(v.Inputs) > 0 }
