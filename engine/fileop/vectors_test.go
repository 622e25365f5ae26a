package fileop_test

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-build/mayfly/engine/fileop"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/moby/buildkit/solver/pb"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/protobuf/encoding/protojson"
)

// now is the time of the test's operations; the times of inputs are before it.
var now = time.Unix(2_000_000_000, 123)

// TestVectors holds Apply against the layers that buildkitd made.
func TestVectors(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		ar, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var inputs []*fsdiff.View
		want := map[string]string{}
		for _, f := range ar.Files {
			switch {
			case f.Name == "base" || f.Name == "src":
				inputs = append(inputs, parseTree(t, string(f.Data)))
			case strings.HasPrefix(f.Name, "want "):
				want[f.Name[len("want "):]] = string(f.Data)
			}
		}
		for _, f := range ar.Files {
			name, isOp := strings.CutPrefix(f.Name, "op ")
			if !isOp {
				continue
			}
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar")+"/"+name, func(t *testing.T) {
				op := &pb.FileOp{}
				if err := protojson.Unmarshal(f.Data, op); err != nil {
					t.Fatal(err)
				}
				w, ok := want[name]
				if !ok {
					t.Fatal("no want")
				}
				checkVector(t, op, inputs, w)
			})
		}
	}
}

func checkVector(t *testing.T, op *pb.FileOp, inputs []*fsdiff.View, want string) {
	t.Helper()
	outs, err := fileop.Apply(t.Context(), op, inputs, fileop.Options{
		Now: now, TempDir: func() (string, error) { return t.TempDir(), nil },
	})
	if text, fails := strings.CutPrefix(want, "error "); fails {
		if err == nil {
			t.Fatalf("no error; buildkitd says %s", text)
		}
		for _, p := range regexp.MustCompile(`/[a-z0-9/*]+`).FindAllString(text, -1) {
			if !strings.Contains(err.Error(), p) {
				t.Errorf("error does not name %s as buildkitd's does:\n%v\n%s", p, err, text)
			}
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(outs) != 1 {
		t.Fatalf("%d outputs", len(outs))
	}
	var base *fsdiff.View
	if i := outs[0].Input; i >= 0 {
		base = inputs[i]
	}
	if base == nil {
		base = fsdiff.NewView(nil, fsdiff.NewMem())
	}
	var got strings.Builder
	for i, d := range append(outs[0].Lower, outs[0].Diff) {
		if i > 0 {
			fmt.Fprintf(&got, "layer %d\n", i)
		}
		got.WriteString(listLayer(t, base, d))
		base = fsdiff.NewView(base, d)
	}
	got.WriteString(listXattrs(t, base))
	if got.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
	}
}

func parseTree(t *testing.T, text string) *fsdiff.View {
	t.Helper()
	all := map[string]*fsdiff.Entry{}
	i := int64(-1)
	for line := range strings.Lines(text) {
		w := words(t, line)
		if len(w) == 0 {
			continue
		}
		i++
		num := func(k, base int) uint32 {
			n, err := strconv.ParseUint(w[k], base, 32)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			return uint32(n)
		}
		mode := func() fs.FileMode {
			n := num(2, 8)
			m := fs.FileMode(n & 0o777)
			for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
				if n&bit != 0 {
					m |= flag
				}
			}
			return m
		}
		e := &fsdiff.Entry{Path: w[1], ModTime: time.Unix(1_000_000_000+i, 0)}
		switch w[0] {
		case "dir":
			e.Mode = fs.ModeDir | mode()
		case "file":
			e.Mode, e.Size = mode(), int64(len(w[3]))
			if e.Size > 0 {
				e.Content = fsdiff.Bytes([]byte(w[3]))
			}
		case "host":
			c, err := fsdiff.FileAt(filepath.Join("testdata", w[3]))
			if err != nil {
				t.Fatal(err)
			}
			e.Mode, e.Size, e.Content = mode(), c.ID().Size, c
		case "symlink":
			e.Mode, e.Linkname = fs.ModeSymlink|0o777, w[2]
		case "link":
			to := all[w[2]]
			if to.Inode == 0 {
				to.Inode = uint64(i) + 1
			}
			linked := *to
			linked.Path = w[1]
			e = &linked
		case "fifo":
			e.Mode = fs.ModeNamedPipe | mode()
		case "char":
			e.Mode = fs.ModeDevice | fs.ModeCharDevice | mode()
			e.Devmajor, e.Devminor = num(3, 10), num(4, 10)
		case "block":
			e.Mode = fs.ModeDevice | mode()
			e.Devmajor, e.Devminor = num(3, 10), num(4, 10)
		case "owner":
			all[w[1]].UID, all[w[1]].GID = num(2, 10), num(3, 10)
			continue
		case "xattr":
			if all[w[1]].Xattrs == nil {
				all[w[1]].Xattrs = map[string][]byte{}
			}
			all[w[1]].Xattrs[w[2]] = []byte(w[3])
			continue
		default:
			t.Fatalf("tree line %q", line)
		}
		all[e.Path] = e
	}
	m := fsdiff.NewMem()
	for _, e := range all {
		m.AddShared(e)
	}
	m.Add(fsdiff.Entry{Mode: fs.ModeDir | 0o755, ModTime: now})
	return fsdiff.NewView(nil, m)
}

func words(t *testing.T, line string) []string {
	t.Helper()
	var all []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimLeft(line, " ") {
		if q, err := strconv.QuotedPrefix(line); err == nil {
			w, err := strconv.Unquote(q)
			if err != nil {
				t.Fatal(err)
			}
			all, line = append(all, w), line[len(q):]
			continue
		}
		w, rest, _ := strings.Cut(line, " ")
		all, line = append(all, w), rest
	}
	return all
}

// A layerLister writes down the tar that BuildKit makes of an upper directory:
// what differs from the base, with the directories above it.
type layerLister struct {
	t     *testing.T
	base  *fsdiff.View
	view  *fsdiff.View
	diff  fsdiff.Diff
	out   strings.Builder
	dirs  map[string]bool
	links map[uint64]string
}

func listLayer(t *testing.T, base *fsdiff.View, diff fsdiff.Diff) string {
	t.Helper()
	l := &layerLister{t: t, base: base, view: fsdiff.NewView(base, diff), diff: diff, dirs: map[string]bool{}, links: map[uint64]string{}}
	l.walk("")
	return l.out.String()
}

func listXattrs(t *testing.T, v *fsdiff.View) string {
	t.Helper()
	var attrs []string
	err := v.Walk("", func(e *fsdiff.Entry) error {
		for k, v := range e.Xattrs {
			if k == "security.capability" {
				continue // is in the layer already
			}
			attrs = append(attrs, fmt.Sprintf("xattr %s %s %q\n", quote(e.Path), k, v))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(attrs)
	return strings.Join(attrs, "")
}

func (l *layerLister) walk(dir string) {
	list, err := l.diff.ReadDir(dir)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, e := range list {
		if e.Opaque {
			l.t.Errorf("%s is opaque", e.Path)
		}
		below, err := l.base.Lookup(e.Path)
		if e.Whiteout {
			if err != nil {
				l.t.Errorf("whiteout of %s, which the base does not have: %v", e.Path, err)
			}
			l.parents(e.Path)
			fmt.Fprintf(&l.out, "whiteout %s\n", quote(e.Path))
			continue
		}
		same := false
		if err == nil {
			if same, err = fsdiff.Same(below, e); err != nil {
				l.t.Fatal(err)
			}
		}
		if !same {
			l.emit(e)
		}
		if e.IsDir() {
			l.walk(e.Path)
		}
	}
}

func (l *layerLister) parents(p string) {
	up := path.Dir(p)
	if up == "." || l.dirs[up] {
		return
	}
	l.dirs[up] = true
	e, err := l.view.Lookup(up)
	if err != nil {
		l.t.Fatal(err)
	}
	l.emit(e)
}

func (l *layerLister) emit(e *fsdiff.Entry) {
	l.parents(e.Path)
	if e.IsDir() {
		l.dirs[e.Path] = true
	}
	if e.Inode != 0 {
		if to, ok := l.links[e.Inode]; ok {
			fmt.Fprintf(&l.out, "link %s %s\n", quote(e.Path), quote(to))
			return
		}
		l.links[e.Inode] = e.Path
	}
	kind, tail := "file", ""
	switch {
	case e.IsDir():
		kind = "dir"
	case e.IsSymlink():
		kind, tail = "symlink", " "+quote(e.Linkname)
	case e.Mode&fs.ModeCharDevice != 0:
		kind, tail = "char", fmt.Sprintf(" %d %d", e.Devmajor, e.Devminor)
	case e.Mode&fs.ModeDevice != 0:
		kind, tail = "block", fmt.Sprintf(" %d %d", e.Devmajor, e.Devminor)
	case e.Mode&fs.ModeNamedPipe != 0:
		kind = "fifo"
	default:
		b := readAll(l.t, e)
		if int64(len(b)) != e.Size {
			l.t.Errorf("%s has %d bytes, its entry says %d", e.Path, len(b), e.Size)
		}
		tail = " " + strconv.Quote(string(b))
	}
	mode := uint32(e.Mode.Perm())
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if e.Mode&flag != 0 {
			mode |= bit
		}
	}
	when := strconv.FormatInt(e.ModTime.Unix(), 10)
	if e.ModTime.Equal(now) {
		when = "now"
	}
	fmt.Fprintf(&l.out, "%s %s %04o %d:%d %s%s", kind, quote(e.Path), mode, e.UID, e.GID, when, tail)
	if c := e.Xattrs["security.capability"]; len(c) > 0 {
		fmt.Fprintf(&l.out, " security.capability=%q", c)
	}
	l.out.WriteString("\n")
}

func readAll(t *testing.T, e *fsdiff.Entry) []byte {
	t.Helper()
	if e.Content == nil {
		return nil
	}
	r, err := e.Content.Open()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

func quote(s string) string {
	q := strconv.Quote(s)
	if s == "" || strings.Contains(s, " ") || q != `"`+s+`"` {
		return q
	}
	return s
}
