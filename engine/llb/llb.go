// Package llb turns a definition into a checked graph.
//
//	frontend, client ──pb.Definition──▶ llb ──Graph──▶ solver, op
//
// In: the bytes a frontend made. Out: vertices that are known to be decodable,
// to have every input they name, to form no cycle and to ask for nothing this
// engine does not know. The package runs nothing and reads nothing.
package llb

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Graph is a checked definition.
type Graph struct {
	Vertices []*Vertex // inputs before the vertices that use them
	Root     Edge      // what the definition returns
}

// A Vertex is one operation.
type Vertex struct {
	Digest   digest.Digest // of the marshalled pb.Op
	Op       *pb.Op        // Platform is set and normalised
	Name     string        // what progress shows
	Inputs   []Edge
	Metadata *pb.OpMetadata // never nil
	Sources  []*SourceRange // where in a Dockerfile it was written; may be empty
}

// An Edge is one output of a vertex.
type Edge struct {
	Vertex *Vertex
	Index  int // output, from 0
}

// A SourceRange is a place in a source file.
type SourceRange struct {
	Info   *pb.SourceInfo
	Ranges []*pb.Range
}

// Platform returns the vertex's platform as OCI writes it.
func (v *Vertex) Platform() ocispec.Platform {
	p := v.Op.Platform
	return ocispec.Platform{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant,
		OSVersion: p.OSVersion, OSFeatures: p.OSFeatures,
	}
}

// ErrEmpty is returned for a definition without operations: an empty file system.
var ErrEmpty = errors.New("empty definition")

// Decode checks def and returns its graph. Errors name the operation.
func Decode(def *pb.Definition) (*Graph, error) {
	if def == nil || len(def.Def) == 0 {
		return nil, ErrEmpty
	}
	d := decoder{def: def, ops: map[digest.Digest]*pb.Op{}, done: map[digest.Digest]*Vertex{}}
	var last digest.Digest
	for i, dt := range def.Def {
		op := &pb.Op{}
		if err := op.UnmarshalVT(dt); err != nil {
			return nil, fmt.Errorf("decode operation %d of the definition: %w", i, err)
		}
		last = digest.FromBytes(dt)
		d.ops[last] = op
	}
	ret := d.ops[last]
	if ret.Op != nil || len(ret.Inputs) != 1 {
		return nil, fmt.Errorf("operation %s ends the definition but is not a return of one input", last)
	}
	root, err := d.edge(last, ret.Inputs[0])
	if err != nil {
		return nil, err
	}
	return &Graph{Vertices: d.order, Root: root}, nil
}

type decoder struct {
	def   *pb.Definition
	ops   map[digest.Digest]*pb.Op
	done  map[digest.Digest]*Vertex // nil while being decoded
	order []*Vertex
}

func (d *decoder) edge(from digest.Digest, in *pb.Input) (Edge, error) {
	if in == nil || in.Index < 0 {
		return Edge{}, fmt.Errorf("operation %s: input without a valid output index", from)
	}
	v, err := d.vertex(digest.Digest(in.Digest))
	if err != nil {
		return Edge{}, err
	}
	return Edge{Vertex: v, Index: int(in.Index)}, nil
}

func (d *decoder) vertex(dgst digest.Digest) (*Vertex, error) {
	if v, ok := d.done[dgst]; ok {
		if v == nil {
			return nil, fmt.Errorf("operation %s is its own input", dgst)
		}
		return v, nil
	}
	op, ok := d.ops[dgst]
	if !ok {
		return nil, fmt.Errorf("operation %s is used but not in the definition", dgst)
	}
	d.done[dgst] = nil
	v := &Vertex{Digest: dgst, Op: op, Metadata: d.def.Metadata[string(dgst)]}
	if v.Metadata == nil {
		v.Metadata = &pb.OpMetadata{}
	}
	for _, in := range op.Inputs {
		e, err := d.edge(dgst, in)
		if err != nil {
			return nil, err
		}
		v.Inputs = append(v.Inputs, e)
	}
	normalizePlatform(op)
	v.Name = Name(v)
	if err := check(v); err != nil {
		return nil, fmt.Errorf("%s: %w", v.Name, err)
	}
	v.Sources = d.sources(dgst)
	d.done[dgst] = v
	d.order = append(d.order, v)
	return v, nil
}

func (d *decoder) sources(dgst digest.Digest) (out []*SourceRange) {
	if d.def.Source == nil {
		return nil
	}
	locs := d.def.Source.Locations[string(dgst)]
	if locs == nil {
		return nil
	}
	for _, l := range locs.Locations {
		if i := int(l.SourceIndex); i >= 0 && i < len(d.def.Source.Infos) && len(l.Ranges) > 0 {
			out = append(out, &SourceRange{Info: d.def.Source.Infos[i], Ranges: l.Ranges})
		}
	}
	return out
}

func normalizePlatform(op *pb.Op) {
	p := platforms.DefaultSpec()
	if op.Platform != nil {
		p = ocispec.Platform{
			OS: op.Platform.OS, Architecture: op.Platform.Architecture, Variant: op.Platform.Variant,
			OSVersion: op.Platform.OSVersion, OSFeatures: op.Platform.OSFeatures,
		}
	}
	p = platforms.Normalize(p)
	op.Platform = &pb.Platform{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant,
		OSVersion: p.OSVersion, OSFeatures: slices.Clone(p.OSFeatures),
	}
}

// check rejects what a vertex may not say: unknown capabilities, operations
// that are not there, indexes outside the inputs.
func check(v *Vertex) error {
	caps := pb.Caps.CapSet(pb.Caps.All())
	for c := range v.Metadata.Caps {
		if err := caps.Supports(apicaps.CapID(c)); err != nil {
			return err
		}
	}
	n := int64(len(v.Inputs))
	in := func(i int64, what string) error {
		if i < -1 || i >= n {
			return fmt.Errorf("%s is input %d of %d", what, i, n)
		}
		return nil
	}
	switch op := v.Op.Op.(type) {
	case *pb.Op_Source:
		if op.Source == nil || op.Source.Identifier == "" {
			return errors.New("source without an identifier")
		}
	case *pb.Op_Exec:
		return checkExec(op.Exec, in)
	case *pb.Op_File:
		return checkFile(op.File, n)
	case *pb.Op_Merge:
		for _, m := range op.Merge.GetInputs() {
			if err := in(m.GetInput(), "merge input"); err != nil {
				return err
			}
		}
	case *pb.Op_Diff:
		if op.Diff == nil || op.Diff.Lower == nil || op.Diff.Upper == nil {
			return errors.New("diff without a lower and an upper")
		}
		return errors.Join(in(op.Diff.Lower.Input, "lower"), in(op.Diff.Upper.Input, "upper"))
	case nil:
		return errors.New("operation of an unknown kind")
	}
	return nil
}

func checkExec(op *pb.ExecOp, in func(int64, string) error) error {
	if op == nil || op.Meta == nil || len(op.Meta.Args) == 0 {
		return errors.New("exec without arguments")
	}
	root := false
	outputs := map[int64]bool{}
	for _, m := range op.Mounts {
		if m == nil || m.Dest == "" {
			return errors.New("mount without a destination")
		}
		if err := in(m.Input, "mount "+m.Dest); err != nil {
			return err
		}
		if m.Dest == pb.RootMount {
			root = true
		}
		if m.MountType == pb.MountType_BIND && m.Output >= 0 { // others say 0 and mean none
			if outputs[m.Output] {
				return fmt.Errorf("two mounts write output %d", m.Output)
			}
			outputs[m.Output] = true
		}
	}
	if !root {
		return errors.New("exec without a root mount")
	}
	return nil
}

func checkFile(op *pb.FileOp, n int64) error {
	if op == nil || len(op.Actions) == 0 {
		return errors.New("file operation without actions")
	}
	for i, a := range op.Actions {
		limit := n + int64(i)
		if a == nil || a.Action == nil {
			return fmt.Errorf("file action %d is of an unknown kind", i)
		}
		if a.Input < -1 || a.Input >= limit || a.SecondaryInput < -1 || a.SecondaryInput >= limit {
			return fmt.Errorf("file action %d uses an input that is not before it", i)
		}
	}
	return nil
}

// Name returns what progress shows for v.
func Name(v *Vertex) string {
	if n := v.Metadata.GetDescription()["llb.customname"]; n != "" {
		return n
	}
	switch op := v.Op.Op.(type) {
	case *pb.Op_Source:
		return op.Source.GetIdentifier()
	case *pb.Op_Exec:
		return strings.Join(op.Exec.GetMeta().GetArgs(), " ")
	case *pb.Op_File:
		return fileName(op.File)
	case *pb.Op_Merge:
		return "merge (" + inputNames(v, ", ") + ")"
	case *pb.Op_Diff:
		return "diff (" + inputNames(v, ") -> (") + ")"
	case *pb.Op_Build:
		return "build"
	}
	return "unknown operation " + v.Digest.String()
}

func inputNames(v *Vertex, sep string) string {
	names := make([]string, len(v.Inputs))
	for i, in := range v.Inputs {
		names[i] = in.Vertex.Name
	}
	return strings.Join(names, sep)
}

func fileName(op *pb.FileOp) string {
	var names []string
	for _, a := range op.GetActions() {
		switch a := a.GetAction().(type) {
		case *pb.FileAction_Mkdir:
			names = append(names, "mkdir "+a.Mkdir.Path)
		case *pb.FileAction_Mkfile:
			names = append(names, "mkfile "+a.Mkfile.Path)
		case *pb.FileAction_Symlink:
			names = append(names, "symlink "+a.Symlink.Newpath+" -> "+a.Symlink.Oldpath)
		case *pb.FileAction_Rm:
			names = append(names, "rm "+a.Rm.Path)
		case *pb.FileAction_Copy:
			names = append(names, "copy "+a.Copy.Src+" "+a.Copy.Dest)
		}
	}
	return strings.Join(names, ", ")
}
