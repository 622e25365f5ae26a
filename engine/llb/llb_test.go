package llb

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// definition marshals operations; each may refer to those before by the
// digests that dig returns.
type definition struct {
	t   testing.TB
	def *pb.Definition
}

func define(t testing.TB) *definition {
	return &definition{t: t, def: &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}}
}

// add marshals op and returns an input that is its first output.
func (d *definition) add(op *pb.Op) *pb.Input {
	d.t.Helper()
	dt, err := op.MarshalVT()
	if err != nil {
		d.t.Fatal(err)
	}
	d.def.Def = append(d.def.Def, dt)
	return &pb.Input{Digest: string(digest.FromBytes(dt))}
}

func (d *definition) ret(in *pb.Input) *pb.Definition {
	d.add(&pb.Op{Inputs: []*pb.Input{in}})
	return d.def
}

func source(id string) *pb.Op {
	return &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: id}}}
}

func exec(in *pb.Input, mounts ...*pb.Mount) *pb.Op {
	return &pb.Op{Inputs: []*pb.Input{in}, Op: &pb.Op_Exec{Exec: &pb.ExecOp{
		Meta: &pb.Meta{Args: []string{"echo", "hi"}}, Mounts: mounts,
	}}}
}

func file(in []*pb.Input, actions ...*pb.FileAction) *pb.Op {
	return &pb.Op{Inputs: in, Op: &pb.Op_File{File: &pb.FileOp{Actions: actions}}}
}

func mkdir(input, second int64) *pb.FileAction {
	return &pb.FileAction{Input: input, SecondaryInput: second, Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/d"}}}
}

func TestDecodeErrors(t *testing.T) {
	root := &pb.Mount{Dest: "/"}
	onBase := func(op func(base *pb.Input) *pb.Op) func(*definition) *pb.Definition {
		return func(d *definition) *pb.Definition { return d.ret(d.add(op(d.add(source("docker-image://base"))))) }
	}
	for _, c := range []struct {
		name string
		make func(*definition) *pb.Definition
		want string
	}{
		{"nil", func(*definition) *pb.Definition { return nil }, ErrEmpty.Error()},
		{"no operations", func(d *definition) *pb.Definition { return d.def }, ErrEmpty.Error()},
		{"bytes that are no operation", func(d *definition) *pb.Definition {
			d.def.Def = [][]byte{[]byte("\xff\xff")}
			return d.def
		}, "decode operation 0"},
		{"no return", func(d *definition) *pb.Definition {
			d.add(source("docker-image://base"))
			return d.def
		}, "not a return"},
		{"return of two", func(d *definition) *pb.Definition {
			in := d.add(source("docker-image://base"))
			d.add(&pb.Op{Inputs: []*pb.Input{in, in}})
			return d.def
		}, "not a return"},
		{"dangling return", func(d *definition) *pb.Definition {
			return d.ret(&pb.Input{Digest: string(digest.FromString("nothing"))})
		}, "is used but not in the definition"},
		{"dangling input", func(d *definition) *pb.Definition {
			return d.ret(d.add(exec(&pb.Input{Digest: "sha256:none"}, root)))
		}, "is used but not in the definition"},
		{"negative output", func(d *definition) *pb.Definition {
			in := d.add(source("docker-image://base"))
			in.Index = -1
			return d.ret(in)
		}, "without a valid output index"},
		{"negative output of an input", onBase(func(b *pb.Input) *pb.Op {
			return exec(&pb.Input{Digest: b.Digest, Index: -7}, root)
		}), "without a valid output index"},
		{"unknown operation", onBase(func(b *pb.Input) *pb.Op { return &pb.Op{Inputs: []*pb.Input{b}} }), "unknown kind"},
		{"unknown capability", func(d *definition) *pb.Definition {
			in := d.add(source("docker-image://base"))
			d.def.Metadata[in.Digest] = &pb.OpMetadata{Caps: map[string]bool{"source.teleport": true}}
			return d.ret(in)
		}, "source.teleport"},
		{"source without identifier", func(d *definition) *pb.Definition { return d.ret(d.add(source(""))) }, "without an identifier"},

		{"exec without meta", onBase(func(b *pb.Input) *pb.Op {
			return &pb.Op{Inputs: []*pb.Input{b}, Op: &pb.Op_Exec{Exec: &pb.ExecOp{Mounts: []*pb.Mount{root}}}}
		}), "exec without arguments"},
		{"exec without arguments", onBase(func(b *pb.Input) *pb.Op {
			return &pb.Op{Inputs: []*pb.Input{b}, Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{}, Mounts: []*pb.Mount{root}}}}
		}), "exec without arguments"},
		{"exec without mounts", onBase(func(b *pb.Input) *pb.Op { return exec(b) }), "without a root mount"},
		{"exec without a root", onBase(func(b *pb.Input) *pb.Op { return exec(b, &pb.Mount{Dest: "/m"}) }), "without a root mount"},
		{"mount without destination", onBase(func(b *pb.Input) *pb.Op { return exec(b, &pb.Mount{}) }), "without a destination"},
		{"mount of an input too many", onBase(func(b *pb.Input) *pb.Op { return exec(b, &pb.Mount{Dest: "/", Input: 1}) }), "mount / is input 1 of 1"},
		{"mount of a negative input", onBase(func(b *pb.Input) *pb.Op { return exec(b, &pb.Mount{Dest: "/", Input: -2}) }), "mount / is input -2 of 1"},
		{"two mounts of one output", onBase(func(b *pb.Input) *pb.Op { return exec(b, root, &pb.Mount{Dest: "/m"}) }), "two mounts write output 0"},

		{"no file actions", onBase(func(b *pb.Input) *pb.Op { return file([]*pb.Input{b}) }), "without actions"},
		{"unknown file action", onBase(func(b *pb.Input) *pb.Op { return file([]*pb.Input{b}, &pb.FileAction{}) }), "file action 0 is of an unknown kind"},
		{"file action uses itself", onBase(func(b *pb.Input) *pb.Op { return file([]*pb.Input{b}, mkdir(1, -1)) }), "file action 0 uses an input that is not before it"},
		{"file action uses a later one", onBase(func(b *pb.Input) *pb.Op {
			return file([]*pb.Input{b}, mkdir(0, -1), mkdir(0, 2))
		}), "file action 1 uses an input that is not before it"},
		{"file action uses a negative input", onBase(func(b *pb.Input) *pb.Op { return file([]*pb.Input{b}, mkdir(-2, -1)) }), "file action 0 uses"},

		{"merge of an input too many", onBase(func(b *pb.Input) *pb.Op {
			return &pb.Op{Inputs: []*pb.Input{b}, Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 0}, {Input: 1}}}}}
		}), "merge input is input 1 of 1"},
		{"diff without upper", onBase(func(b *pb.Input) *pb.Op {
			return &pb.Op{Inputs: []*pb.Input{b}, Op: &pb.Op_Diff{Diff: &pb.DiffOp{Lower: &pb.LowerDiffInput{}}}}
		}), "without a lower and an upper"},
		{"diff of an input too many", onBase(func(b *pb.Input) *pb.Op {
			return &pb.Op{Inputs: []*pb.Input{b}, Op: &pb.Op_Diff{Diff: &pb.DiffOp{
				Lower: &pb.LowerDiffInput{Input: -1}, Upper: &pb.UpperDiffInput{Input: 3}}}}
		}), "upper is input 3 of 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := Decode(c.make(define(t)))
			if err == nil || !strings.Contains(err.Error(), c.want) || g != nil {
				t.Errorf("error %v, graph %v; want an error with %q", err, g, c.want)
			}
		})
	}
	if _, err := Decode(&pb.Definition{}); !errors.Is(err, ErrEmpty) {
		t.Errorf("error %v is not ErrEmpty", err)
	}
}

// TestDecodeSelfInput asks for a vertex whose input is itself: digests make
// that impossible for bytes, so the decoder is filled by hand.
func TestDecodeSelfInput(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	uses := func(d digest.Digest) *pb.Op { return exec(&pb.Input{Digest: string(d)}, &pb.Mount{Dest: "/"}) }
	for name, ops := range map[string]map[digest.Digest]*pb.Op{
		"itself": {a: uses(a)}, "through another": {a: uses(b), b: uses(a)},
	} {
		d := decoder{def: &pb.Definition{}, ops: ops, done: map[digest.Digest]*Vertex{}}
		if _, err := d.vertex(a); err == nil || !strings.Contains(err.Error(), "is its own input") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestDecodeGraph(t *testing.T) {
	d := define(t)
	base := d.add(source("docker-image://base"))
	run := d.add(exec(base, &pb.Mount{Dest: "/"}, &pb.Mount{Dest: "/c", Input: -1, MountType: pb.MountType_CACHE}))
	made := d.add(file([]*pb.Input{base, run}, mkdir(0, -1), mkdir(2, 1)))
	d.def.Metadata[made.Digest] = &pb.OpMetadata{IgnoreCache: true}
	d.add(source("docker-image://unused"))
	made.Index = 1
	g, err := Decode(d.ret(made))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range g.Vertices {
		names = append(names, v.Name)
		if v.Metadata == nil {
			t.Errorf("%s has no metadata", v.Name)
		}
		if p := v.Platform(); p.OS == "" || p.Architecture == "" {
			t.Errorf("%s is for platform %+v, want this machine's", v.Name, p)
		}
	}
	if want := []string{"docker-image://base", "echo hi", "mkdir /d, mkdir /d"}; !slices.Equal(names, want) {
		t.Errorf("vertices %q, want %q, inputs first and each once", names, want)
	}
	root := g.Root.Vertex
	if g.Root.Index != 1 || root != g.Vertices[2] || !root.Metadata.IgnoreCache || string(root.Digest) != made.Digest {
		t.Errorf("root is output %d of %s", g.Root.Index, root.Name)
	}
	if in := root.Inputs; len(in) != 2 || in[0].Vertex != g.Vertices[0] || in[1].Vertex != g.Vertices[1] || in[1].Vertex.Inputs[0].Vertex != in[0].Vertex {
		t.Errorf("inputs of the root: %v", in)
	}
}

func TestPlatformIsNormalised(t *testing.T) {
	d := define(t)
	op := source("docker-image://base")
	op.Platform = &pb.Platform{OS: "Linux", Architecture: "aarch64"}
	g, err := Decode(d.ret(d.add(op)))
	if err != nil {
		t.Fatal(err)
	}
	if p := g.Root.Vertex.Platform(); p.OS != "linux" || p.Architecture != "arm64" || p.Variant != "" {
		t.Errorf("platform %+v, want linux/arm64", p)
	}
}

func TestNames(t *testing.T) {
	in := func(name string) Edge { return Edge{Vertex: &Vertex{Name: name}} }
	action := func(a pb.IsFileAction) *pb.FileAction { return &pb.FileAction{Action: a} }
	for _, c := range []struct {
		v    *Vertex
		want string
	}{
		{&Vertex{Op: source("git://host/app.git#main")}, "git://host/app.git#main"},
		{&Vertex{Op: exec(nil, nil)}, "echo hi"},
		{&Vertex{Op: exec(nil, nil), Metadata: &pb.OpMetadata{Description: map[string]string{"llb.customname": "[1/2] RUN"}}}, "[1/2] RUN"},
		{&Vertex{Op: file(nil,
			action(&pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: "/f"}}),
			action(&pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: "/g"}}),
			action(&pb.FileAction_Symlink{Symlink: &pb.FileActionSymlink{Oldpath: "f", Newpath: "/l"}}),
			action(&pb.FileAction_Copy{Copy: &pb.FileActionCopy{Src: "/a", Dest: "/b"}}),
		)}, "mkfile /f, rm /g, symlink /l -> f, copy /a /b"},
		{&Vertex{Op: &pb.Op{Op: &pb.Op_Merge{}}, Inputs: []Edge{in("a"), in("b")}}, "merge (a, b)"},
		{&Vertex{Op: &pb.Op{Op: &pb.Op_Diff{}}, Inputs: []Edge{in("a"), in("b")}}, "diff (a) -> (b)"},
		{&Vertex{Op: &pb.Op{}, Digest: "sha256:1"}, "unknown operation sha256:1"},
	} {
		if got := Name(c.v); got != c.want {
			t.Errorf("name %q, want %q", got, c.want)
		}
	}
}

func TestSourceRanges(t *testing.T) {
	d := define(t)
	base := d.add(source("docker-image://base"))
	line := func(n int32) []*pb.Range {
		return []*pb.Range{{Start: &pb.Position{Line: n}, End: &pb.Position{Line: n}}}
	}
	info := &pb.SourceInfo{Filename: "Dockerfile"}
	d.def.Source = &pb.Source{Infos: []*pb.SourceInfo{info}, Locations: map[string]*pb.Locations{
		base.Digest: {Locations: []*pb.Location{
			{SourceIndex: 0, Ranges: line(3)},
			{SourceIndex: 1, Ranges: line(4)},
			{SourceIndex: -1, Ranges: line(5)},
			{SourceIndex: 0},
		}},
	}}
	run := d.add(exec(base, &pb.Mount{Dest: "/"}))
	g, err := Decode(d.ret(run))
	if err != nil {
		t.Fatal(err)
	}
	got := g.Vertices[0].Sources
	if len(got) != 1 || got[0].Info != info || got[0].Ranges[0].Start.Line != 3 {
		t.Errorf("source ranges %v, want line 3 of the Dockerfile alone", got)
	}
	if s := g.Root.Vertex.Sources; len(s) != 0 {
		t.Errorf("%s has ranges %v, want none", g.Root.Vertex.Name, s)
	}
}

// FuzzDecode: whatever comes in, Decode returns a graph whose indexes can be
// used without a look, or an error.
func FuzzDecode(f *testing.F) {
	d := define(f)
	base := d.add(source("docker-image://base"))
	run := d.add(exec(base, &pb.Mount{Dest: "/"}))
	made := d.add(file([]*pb.Input{base, run}, mkdir(0, -1), mkdir(2, 1)))
	merged := d.add(&pb.Op{Inputs: []*pb.Input{made, run}, Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 0}, {Input: 1}}}}})
	dt, err := d.ret(merged).MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(dt)
	f.Add([]byte{})
	for _, op := range d.def.Def {
		f.Add(op)
	}
	f.Fuzz(func(t *testing.T, dt []byte) {
		def := &pb.Definition{}
		if def.UnmarshalVT(dt) != nil {
			def = closed(dt)
		}
		g, err := Decode(def)
		if err != nil {
			if g != nil {
				t.Errorf("a graph with error %v", err)
			}
			// An operation alone, with what it needs: its own checks are reached.
			if g, err = Decode(closed(dt)); err != nil {
				return
			}
		}
		before := map[*Vertex]bool{}
		for _, v := range g.Vertices {
			for _, in := range v.Inputs {
				if !before[in.Vertex] || in.Index < 0 {
					t.Errorf("%s: input %v is not before it", v.Name, in)
				}
			}
			before[v] = true
			checkIndexes(t, v)
		}
		if !before[g.Root.Vertex] {
			t.Error("the root is no vertex of the graph")
		}
	})
}

// closed is the definition of the operation dt with every input a source.
func closed(dt []byte) *pb.Definition {
	op := &pb.Op{}
	if op.UnmarshalVT(dt) != nil {
		return nil
	}
	base, _ := source("docker-image://base").MarshalVT() // cannot fail: made here
	for i := range op.Inputs {
		op.Inputs[i] = &pb.Input{Digest: string(digest.FromBytes(base))}
	}
	dt, _ = op.MarshalVT() // was just decoded
	ret, _ := (&pb.Op{Inputs: []*pb.Input{{Digest: string(digest.FromBytes(dt))}}}).MarshalVT()
	return &pb.Definition{Def: [][]byte{base, dt, ret}}
}

func checkIndexes(t *testing.T, v *Vertex) {
	n := int64(len(v.Inputs))
	for _, m := range v.Op.GetExec().GetMounts() {
		if m.Input < -1 || m.Input >= n {
			t.Errorf("mount of input %d of %d", m.Input, n)
		}
	}
	for i, a := range v.Op.GetFile().GetActions() {
		if limit := n + int64(i); max(a.Input, a.SecondaryInput) >= limit || min(a.Input, a.SecondaryInput) < -1 {
			t.Errorf("action %d uses %d and %d of %d", i, a.Input, a.SecondaryInput, limit)
		}
	}
}
