// Package fileop carries out the file actions of LLB: mkdir, mkfile, symlink,
// rm and copy.
//
//	op/file ──pb.FileOp, Views of the inputs──▶ fileop ──Diffs──▶ layer
//
// It is a function of values: nothing is mounted and no file of the inputs is
// read but /etc/passwd, /etc/group and archives to unpack. A copied file is an
// entry that shares the source's Content, so that a COPY costs what its tree
// has entries, not bytes. What comes out is what BuildKit's upper directory
// would hold after the same system calls, quirks included: layers made of it
// have to come out alike.
package fileop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/moby/buildkit/solver/pb"
)

// Options are what actions need besides their inputs.
type Options struct {
	// TempDir makes a directory for the files of unpacked archives. It has to
	// live as long as the Diffs; the caller removes it. nil means that there
	// is none, and unpacking fails.
	TempDir func() (string, error)

	// Now is the time of what is made without a time of its own; zero means
	// the time of the call.
	Now time.Time
}

// An Output is the result of an action.
type Output struct {
	Input int // index of the input that it is on top of; -1 is the empty root
	Diff  fsdiff.Diff

	// Lower is what comes between the input and Diff, the lowest first. It is
	// empty unless another action or an output wants a state on the way as
	// well: BuildKit commits that one, so that it is a layer of its own.
	Lower []fsdiff.Diff
}

// An ActionError says which action of an operation failed.
type ActionError struct {
	Index int // in FileOp.Actions
	Err   error
}

func (e *ActionError) Error() string { return e.Err.Error() }

// Unwrap returns the error of the action.
func (e *ActionError) Unwrap() error { return e.Err }

// Apply carries out the actions of op that its outputs need and returns the
// outputs in order of their index. inputs are the operation's; nil is the
// empty root. Actions that build on one another give one Diff. The error of an
// action is an *ActionError.
func Apply(ctx context.Context, op *pb.FileOp, inputs []*fsdiff.View, opt Options) ([]Output, error) {
	if opt.Now.IsZero() {
		opt.Now = time.Now()
	}
	r := &run{ctx: ctx, op: op, opt: opt, inputs: inputs, done: make([]*result, len(op.Actions)), uses: map[int]int{}}
	outs, err := r.plan()
	if err != nil {
		return nil, fmt.Errorf("file operation: %w", err)
	}
	results := make([]Output, len(outs))
	for i, index := range outs {
		res, err := r.result(index)
		if err != nil {
			return nil, err
		}
		diff, err := res.freeze()
		if err != nil {
			return nil, err
		}
		results[i] = Output{Input: res.input, Diff: diff, Lower: res.lower}
	}
	return results, nil
}

// A run is one call of Apply. States are numbered as in LLB: inputs first,
// then the results of the actions; -1 is the empty root.
type run struct {
	ctx    context.Context
	op     *pb.FileOp
	opt    Options
	inputs []*fsdiff.View
	uses   map[int]int // how often a state is an input or an output
	done   []*result
	busy   []bool
}

// A result is the state after an action.
type result struct {
	input  int // the operation's input that it started from
	lower  []fsdiff.Diff
	tree   *tree
	frozen *fsdiff.Mem // what the tree changed, once that is asked for
}

func (r *result) freeze() (*fsdiff.Mem, error) {
	if r.frozen == nil {
		var err error
		if r.frozen, err = r.tree.diff(); err != nil {
			return nil, fmt.Errorf("file operation: %w", err)
		}
	}
	return r.frozen, nil
}

// plan checks the indexes and returns the state of each output.
func (r *run) plan() ([]int, error) {
	states := int64(len(r.inputs) + len(r.op.Actions))
	outs := map[int64]int{}
	for i, a := range r.op.Actions {
		for _, in := range []int64{int64(a.Input), int64(a.SecondaryInput)} {
			if in < -1 || in >= states {
				return nil, fmt.Errorf("action %d has input %d of %d", i, in, states)
			}
			r.uses[int(in)]++
		}
		for _, in := range ownerInputs(ownerOf(a)) {
			if in < 0 || in >= states {
				return nil, fmt.Errorf("action %d has owner input %d of %d", i, in, states)
			}
		}
		if a.Output == -1 {
			continue
		}
		if _, dup := outs[int64(a.Output)]; dup {
			return nil, fmt.Errorf("output %d is given twice", a.Output)
		}
		state := len(r.inputs) + i
		outs[int64(a.Output)] = state
		r.uses[state]++
	}
	if len(outs) == 0 {
		return nil, errors.New("no action has an output")
	}
	list := make([]int, len(outs))
	for i := range list {
		state, ok := outs[int64(i)]
		if !ok {
			return nil, fmt.Errorf("output %d is missing", i)
		}
		list[i] = state
	}
	r.busy = make([]bool, len(r.op.Actions))
	return list, nil
}

// result returns the state after an action, which it carries out if it has
// not been.
func (r *run) result(state int) (*result, error) {
	i := state - len(r.inputs)
	if r.done[i] != nil {
		return r.done[i], nil
	}
	if r.busy[i] {
		return nil, &ActionError{i, fmt.Errorf("action %d needs its own result", i)}
	}
	r.busy[i] = true
	res, err := r.carryOut(r.op.Actions[i])
	if err != nil {
		var inner *ActionError
		if errors.As(err, &inner) { // of an action that this one needs
			return nil, err
		}
		return nil, &ActionError{i, err}
	}
	r.done[i] = res
	return res, nil
}

func (r *run) carryOut(a *pb.FileAction) (*result, error) {
	res, err := r.writable(int(a.Input))
	if err != nil {
		return nil, err
	}
	who, err := r.owner(ownerOf(a))
	if err != nil {
		return nil, err
	}
	switch a := a.Action.(type) {
	case *pb.FileAction_Mkdir:
		return res, mkdir(res.tree, a.Mkdir, who)
	case *pb.FileAction_Mkfile:
		return res, mkfile(res.tree, a.Mkfile, who)
	case *pb.FileAction_Symlink:
		return res, symlink(res.tree, a.Symlink, who)
	case *pb.FileAction_Rm:
		return res, remove(res.tree, a.Rm)
	case *pb.FileAction_Copy:
		// Set below: the source is another state.
	default:
		return nil, fmt.Errorf("file action %T is not known", a)
	}
	src, err := r.view(int(a.SecondaryInput))
	if err != nil {
		return nil, err
	}
	c := &copying{ctx: r.ctx, src: src, dst: res.tree, who: who, tempDir: r.opt.TempDir}
	return res, c.run(a.GetCopy())
}

// writable returns a result that the caller may change: the state itself when
// nobody else wants it, otherwise a new layer on top of it.
func (r *run) writable(state int) (*result, error) {
	if state < len(r.inputs) {
		return &result{input: state, tree: newTree(r.input(state), r.opt.Now)}, nil
	}
	res, err := r.result(state)
	if err != nil || r.uses[state] == 1 {
		return res, err
	}
	diff, err := res.freeze()
	if err != nil {
		return nil, err
	}
	return &result{
		input: res.input,
		lower: append(slices.Clone(res.lower), diff),
		tree:  newTree(fsdiff.NewView(res.tree.base, diff), r.opt.Now),
	}, nil
}

// view returns a state for reading.
func (r *run) view(state int) (*fsdiff.View, error) {
	if state < len(r.inputs) {
		return r.input(state), nil
	}
	res, err := r.result(state)
	if err != nil {
		return nil, err
	}
	diff, err := res.freeze()
	if err != nil {
		return nil, err
	}
	return fsdiff.NewView(res.tree.base, diff), nil
}

// glance returns a state for reading until the next action, which may change
// the same tree.
func (r *run) glance(state int) (*fsdiff.View, error) {
	if state < len(r.inputs) {
		return r.input(state), nil
	}
	res, err := r.result(state)
	if err != nil {
		return nil, err
	}
	diff, err := res.tree.diff()
	if err != nil {
		return nil, err
	}
	return fsdiff.NewView(res.tree.base, diff), nil
}

// input returns an input of the operation; the empty root is of now.
func (r *run) input(state int) *fsdiff.View {
	if state >= 0 && r.inputs[state] != nil {
		return r.inputs[state]
	}
	m := fsdiff.NewMem()
	m.Add(fsdiff.Entry{Mode: fs.ModeDir | 0o755, ModTime: r.opt.Now})
	return fsdiff.NewView(nil, m)
}

// timestamp is a time as LLB has it: nanoseconds, -1 for none.
func timestamp(ns int64) *time.Time {
	if ns == -1 {
		return nil
	}
	t := time.Unix(ns/1e9, ns%1e9)
	return &t
}
