// Package op holds what each kind of vertex does.
//
//	solver ──Op.Run──▶ op ──▶ source/*   fetch and pin
//	                     ├──▶ fileop     edit
//	                     ├──▶ executor   run, over snapshot's mounts
//	                     └──▶ layer      every result is a *layer.State
//
// An operation turns states into states. It decides nothing: which of them
// run, and when, is the solver's.
package op

import (
	"context"
	"fmt"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/engine/cachekey"
	"github.com/mayfly-build/mayfly/engine/cachemount"
	"github.com/mayfly-build/mayfly/engine/contenthash"
	"github.com/mayfly-build/mayfly/engine/executor"
	"github.com/mayfly-build/mayfly/engine/fileop"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/secret"
	"github.com/mayfly-build/mayfly/engine/snapshot"
	"github.com/mayfly-build/mayfly/engine/solver"
	"github.com/mayfly-build/mayfly/engine/source/git"
	"github.com/mayfly-build/mayfly/engine/source/http"
	"github.com/mayfly-build/mayfly/engine/source/image"
)

// World is what operations work with.
type World struct {
	Layers   *layer.Store
	Hasher   *contenthash.Hasher
	Snapshot snapshot.Snapshotter
	Executor executor.Executor
	Mounts   *cachemount.Store

	Images *image.Source
	Git    *git.Source
	HTTP   *http.Source
	Locals map[string]string // host directory of each local source

	Secrets secret.Store
	Agents  secret.Agents

	// StepEnv returns variables, as NAME=VALUE, for the process of a vertex
	// beside those that define it. They are no part of its key: a result must
	// not depend on them. nil means none.
	StepEnv func(vertex digest.Digest) []string

	Tmp          func() (string, error) // makes a directory in the state dir
	CgroupParent string
	Session      string // tells this build's local files from others'
	Allow        Entitlements

	// Seen is told of every content digest that was taken, and of what; nil
	// means that nobody is. It is called from several goroutines at once.
	Seen func(sum digest.Digest, v *fsdiff.View, sels []contenthash.Selector)
}

// Entitlements are the rights beyond a sandboxed step's that a build was given.
type Entitlements struct {
	HostNetwork bool
	Insecure    bool
}

// Op returns the operation of a vertex.
func (w *World) Op(v *llb.Vertex) (solver.Op[*layer.State], error) {
	switch op := v.Op.Op.(type) {
	case *pb.Op_Source:
		return w.source(v, op.Source)
	case *pb.Op_Exec:
		return w.exec(v, op.Exec)
	case *pb.Op_File:
		return &file{w: w, v: v, op: op.File}, nil
	case *pb.Op_Merge:
		return &merge{w: w, v: v, op: op.Merge}, nil
	case *pb.Op_Diff:
		return &diff{w: w, v: v, op: op.Diff}, nil
	}
	return nil, fmt.Errorf("operations of the kind %T are not supported", v.Op.Op)
}

func (w *World) content(ctx context.Context, in cachekey.Input, s *layer.State) (digest.Digest, error) {
	view, err := s.View(ctx)
	if err != nil {
		return "", err
	}
	sum, err := w.Hasher.Sum(ctx, view, in.Content)
	if err == nil && w.Seen != nil {
		w.Seen(sum, view, in.Content)
	}
	return sum, err
}

func now() time.Time { return time.Now().UTC() }

// A file edits file systems.
type file struct {
	w  *World
	v  *llb.Vertex
	op *pb.FileOp
}

func (f *file) Map(context.Context) (cachekey.Map, error) {
	return cachekey.File(f.op, len(f.v.Inputs))
}

func (f *file) Content(ctx context.Context, i int, in *layer.State) (digest.Digest, error) {
	m, err := f.Map(ctx)
	if err != nil {
		return "", err
	}
	return f.w.content(ctx, m.Inputs[i], in)
}

func (f *file) Run(ctx context.Context, inputs []*layer.State) ([]*layer.State, error) {
	views, err := viewsOf(ctx, inputs)
	if err != nil {
		return nil, err
	}
	outs, err := fileop.Apply(ctx, f.op, views, fileop.Options{TempDir: f.w.Tmp})
	if err != nil {
		return nil, err
	}
	states := make([]*layer.State, len(outs))
	for i, out := range outs {
		var base *layer.State
		if out.Input >= 0 {
			base = inputs[out.Input]
		}
		info := layer.Info{Description: f.v.Name, Created: now()}
		for _, d := range out.Lower {
			base = f.w.Layers.FromDiff(base, d, info)
		}
		states[i] = f.w.Layers.FromDiff(base, out.Diff, info)
	}
	return states, nil
}

// A merge stacks the layers of its inputs.
type merge struct {
	w  *World
	v  *llb.Vertex
	op *pb.MergeOp
}

func (m *merge) Map(context.Context) (cachekey.Map, error) {
	return cachekey.Merge(m.op, len(m.v.Inputs))
}

func (m *merge) Content(context.Context, int, *layer.State) (digest.Digest, error) {
	return "", fmt.Errorf("merge has no input that counts by content")
}

func (m *merge) Run(_ context.Context, inputs []*layer.State) ([]*layer.State, error) {
	var out *layer.State
	for i, in := range inputs {
		if i == 0 {
			out = in
			continue
		}
		for _, l := range chain(in) {
			out = m.w.Layers.Rebase(out, l)
		}
	}
	return []*layer.State{out}, nil
}

// A diff takes the layers that one input has on top of another.
type diff struct {
	w  *World
	v  *llb.Vertex
	op *pb.DiffOp
}

func (d *diff) Map(context.Context) (cachekey.Map, error) {
	return cachekey.Diff(d.op, len(d.v.Inputs))
}

func (d *diff) Content(context.Context, int, *layer.State) (digest.Digest, error) {
	return "", fmt.Errorf("diff has no input that counts by content")
}

func (d *diff) Run(_ context.Context, inputs []*layer.State) ([]*layer.State, error) {
	pick := func(i int64) []*layer.State {
		if i < 0 {
			return nil
		}
		return chain(inputs[i])
	}
	lower, upper := pick(d.op.Lower.Input), pick(d.op.Upper.Input)
	if len(upper) < len(lower) || (len(lower) > 0 && upper[len(lower)-1] != lower[len(lower)-1]) {
		return nil, fmt.Errorf("diff: the upper side is not built on the lower one; only such diffs are supported")
	}
	var out *layer.State
	for _, l := range upper[len(lower):] {
		out = d.w.Layers.Rebase(out, l)
	}
	return []*layer.State{out}, nil
}

func chain(s *layer.State) []*layer.State {
	if s == nil {
		return nil
	}
	return s.Chain()
}

func viewsOf(ctx context.Context, states []*layer.State) ([]*fsdiff.View, error) {
	views := make([]*fsdiff.View, len(states))
	g, ctx := errgroup.WithContext(ctx)
	for i, s := range states {
		g.Go(func() (err error) {
			views[i], err = s.View(ctx)
			return err
		})
	}
	return views, g.Wait()
}
