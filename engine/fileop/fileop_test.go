package fileop_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/mayfly-build/mayfly/engine/fileop"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/moby/buildkit/solver/pb"
)

func mkdirAction(p string, in, out int64) *pb.FileAction {
	return &pb.FileAction{Input: in, SecondaryInput: -1, Output: out, Action: &pb.FileAction_Mkdir{
		Mkdir: &pb.FileActionMkDir{Path: p, Mode: 0o755, Timestamp: -1},
	}}
}

func copyAction(src, dest string) *pb.FileAction {
	return &pb.FileAction{Input: -1, SecondaryInput: 0, Output: 0, Action: &pb.FileAction_Copy{
		Copy: &pb.FileActionCopy{
			Src: src, Dest: dest, Mode: -1, Timestamp: -1, CreateDestPath: true, DirCopyContents: true, FollowSymlink: true,
		},
	}}
}

func TestApplyRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		actions []*pb.FileAction
		want    string
	}{
		"no output":        {[]*pb.FileAction{mkdirAction("/a", -1, -1)}, "no action has an output"},
		"output twice":     {[]*pb.FileAction{mkdirAction("/a", -1, 0), mkdirAction("/a", -1, 0)}, "given twice"},
		"output missing":   {[]*pb.FileAction{mkdirAction("/a", -1, 1)}, "output 0 is missing"},
		"input":            {[]*pb.FileAction{mkdirAction("/a", 7, 0)}, "input 7"},
		"input negative":   {[]*pb.FileAction{mkdirAction("/a", -2, 0)}, "input -2"},
		"loop":             {[]*pb.FileAction{mkdirAction("/a", 1, 0), mkdirAction("/a", 0, -1)}, "its own result"},
		"itself":           {[]*pb.FileAction{mkdirAction("/a", 0, 0)}, "its own result"},
		"nothing to do":    {[]*pb.FileAction{{Input: -1, SecondaryInput: -1}}, "not known"},
		"owner of nothing": {[]*pb.FileAction{ownedBy(9)}, "owner input 9"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := fileop.Apply(t.Context(), &pb.FileOp{Actions: c.actions}, nil, fileop.Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
		})
	}
}

func ownedBy(input int64) *pb.FileAction {
	a := mkdirAction("/a", -1, 0)
	a.GetMkdir().Owner = &pb.ChownOpt{User: &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: "x", Input: input}}}}
	return a
}

func TestApplySeveralOutputs(t *testing.T) {
	outs, err := fileop.Apply(t.Context(), &pb.FileOp{Actions: []*pb.FileAction{
		mkdirAction("/one", -1, 1), mkdirAction("/two", 0, 0), mkdirAction("/unused/without/parent", 0, -1),
	}}, nil, fileop.Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if len(outs) != 2 || outs[0].Input != -1 || len(outs[0].Lower) != 1 || len(outs[1].Lower) != 0 {
		t.Fatalf("outputs are %+v", outs)
	}
	for p, want := range map[string][2]error{"one": {fs.ErrNotExist, nil}, "two": {nil, fs.ErrNotExist}} {
		for i, o := range outs {
			if _, err := o.Diff.Lookup(p); !errors.Is(err, want[i]) {
				t.Errorf("output %d: Lookup(%q) = %v, want %v", i, p, err, want[i])
			}
		}
	}
}

func TestActionErrorNamesTheAction(t *testing.T) {
	_, err := fileop.Apply(t.Context(), &pb.FileOp{Actions: []*pb.FileAction{
		mkdirAction("/one", -1, -1), mkdirAction("/no/parent", 0, -1), mkdirAction("/two", 1, 0),
	}}, nil, fileop.Options{})
	var ae *fileop.ActionError
	if !errors.As(err, &ae) || ae.Index != 1 || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %#v", err)
	}
}

func TestErrorsName(t *testing.T) {
	v := parseTree(t, "file f 0644 \"x\"\ndir d 0755\n")
	for _, c := range []struct{ src, want string }{
		{"/nope", `copy: "/nope": not found`},
		{"/d/nope", `copy: "/d/nope": not found`},
	} {
		_, err := fileop.Apply(t.Context(), &pb.FileOp{Actions: []*pb.FileAction{copyAction(c.src, "/x")}}, []*fsdiff.View{v}, fileop.Options{})
		if err == nil || err.Error() != c.want || !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("error is %v, want %s", err, c.want)
		}
	}
}

func TestInputsStayAsTheyAre(t *testing.T) {
	v := parseTree(t, "dir d 0700\nfile d/f 0600 \"x\"\nxattr d user.a 1\nowner d/f 5 6\n")
	before := listLayer(t, fsdiff.NewView(nil, fsdiff.NewMem()), v.Diffs()[0])
	chmod := copyAction("/d", "/d")
	chmod.Input = 0
	chmod.GetCopy().Mode = 0o777
	chmod.GetCopy().Owner = &pb.ChownOpt{User: &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: 9}}}
	if _, err := fileop.Apply(t.Context(), &pb.FileOp{Actions: []*pb.FileAction{chmod}}, []*fsdiff.View{v}, fileop.Options{}); err != nil {
		t.Fatal(err)
	}
	if after := listLayer(t, fsdiff.NewView(nil, fsdiff.NewMem()), v.Diffs()[0]); after != before {
		t.Errorf("input was\n%s\nand is\n%s", before, after)
	}
}

func TestApplyStopsWhenCancelled(t *testing.T) {
	m := fsdiff.NewMem()
	for i := range 2000 {
		m.Add(fsdiff.Entry{Path: fmt.Sprint(i)})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := fileop.Apply(ctx, &pb.FileOp{Actions: []*pb.FileAction{copyAction("/", "/x")}}, []*fsdiff.View{fsdiff.NewView(nil, m)}, fileop.Options{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

func TestUnpackNeedsAPlace(t *testing.T) {
	c, err := fsdiff.FileAt("testdata/archives/plain.tar")
	if err != nil {
		t.Fatal(err)
	}
	m := fsdiff.NewMem()
	m.Add(fsdiff.Entry{Path: "a.tar", Mode: 0o644, Size: c.ID().Size, Content: c})
	add := copyAction("/a.tar", "/")
	add.GetCopy().AttemptUnpackDockerCompatibility = true
	op, in := &pb.FileOp{Actions: []*pb.FileAction{add}}, []*fsdiff.View{fsdiff.NewView(nil, m)}
	if _, err := fileop.Apply(t.Context(), op, in, fileop.Options{}); err == nil || !strings.Contains(err.Error(), `unpack "/a.tar"`) {
		t.Errorf("error is %v", err)
	}
	full := errors.New("disk full")
	_, err = fileop.Apply(t.Context(), op, in, fileop.Options{TempDir: func() (string, error) { return "", full }})
	if !errors.Is(err, full) {
		t.Errorf("error is %v", err)
	}
}

// FuzzUnpack feeds archives to ADD: whatever they say, nothing of the result
// lies outside the destination.
func FuzzUnpack(f *testing.F) {
	for _, name := range []string{"plain.tar", "odd.tar", "over.tar", "lib.tar", "loop.tar", "noparent.tar", "text.gz", "cut.tar.gz", "bad.xz"} {
		b, err := os.ReadFile("testdata/archives/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "../../up", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/../../keep"},
		{Name: "l/f", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: ".", Typeflag: tar.TypeSymlink, Linkname: "/"},
		{Name: "h", Typeflag: tar.TypeLink, Linkname: "../keep/f"},
	} {
		if err := w.WriteHeader(h); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	base := fsdiff.NewMem()
	base.Add(fsdiff.Entry{Path: "keep", Mode: fs.ModeDir | 0o755})
	base.Add(fsdiff.Entry{Path: "keep/f", Mode: 0o644})
	base.Add(fsdiff.Entry{Path: "dest", Mode: fs.ModeDir | 0o755})
	base.Add(fsdiff.Entry{Path: "dest/out", Mode: fs.ModeSymlink | 0o777, Linkname: "/keep"})
	f.Fuzz(func(t *testing.T, data []byte) {
		src := fsdiff.NewMem()
		src.Add(fsdiff.Entry{Path: "a", Mode: 0o644, Size: int64(len(data)), Content: fsdiff.Bytes(data)})
		add := copyAction("/a", "/dest")
		add.Input, add.SecondaryInput = 0, 1
		add.GetCopy().AttemptUnpackDockerCompatibility = true
		outs, err := fileop.Apply(t.Context(), &pb.FileOp{Actions: []*pb.FileAction{add}},
			[]*fsdiff.View{fsdiff.NewView(nil, base), fsdiff.NewView(nil, src)},
			fileop.Options{TempDir: func() (string, error) { return t.TempDir(), nil }})
		if err != nil {
			return
		}
		list, err := outs[0].Diff.ReadDir("")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if e.Path != "dest" {
				t.Errorf("the archive changed /%s", e.Path)
			}
		}
	})
}

func BenchmarkCopy50k(b *testing.B) {
	m := fsdiff.NewMem()
	for d := range 500 {
		dir := fmt.Sprintf("d%03d", d)
		m.Add(fsdiff.Entry{Path: dir, Mode: fs.ModeDir | 0o755})
		for f := range 100 {
			m.Add(fsdiff.Entry{Path: fmt.Sprintf("%s/f%03d", dir, f), Mode: 0o644, Size: 1, Content: fsdiff.Bytes([]byte("x"))})
		}
	}
	v := fsdiff.NewView(nil, m)
	for name, a := range map[string]*pb.FileAction{"new": copyAction("/", "/app"), "patterns": copyAction("/", "/app"), "over": copyAction("/", "/")} {
		if name == "patterns" {
			a.GetCopy().ExcludePatterns = []string{"**/*.log", "node_modules", ".git"}
		}
		if name == "over" {
			a.Input = 0
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := fileop.Apply(b.Context(), &pb.FileOp{Actions: []*pb.FileAction{a}}, []*fsdiff.View{v}, fileop.Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
