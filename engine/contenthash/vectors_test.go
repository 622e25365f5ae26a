package contenthash_test

import (
	"encoding/json"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/engine/contenthash"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"
)

// TestVectors holds Sum against BuildKit: for the tree as entries in memory,
// and, where the user may make it, for the same tree on disk.
func TestVectors(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parts := map[string]string{}
			for _, f := range ar.Files {
				parts[f.Name] = string(f.Data)
			}
			spec := parseTree(t, parts["tree"])
			t.Run("mem", func(t *testing.T) {
				layer := fsdiff.NewView(nil, spec.mem(false))
				sent := fsdiff.NewView(nil, fsdiff.AsContext(spec.mem(true)))
				checkVectors(t, parts["selectors"], parts["sums"], layer, sent)
			})
			t.Run("disk", func(t *testing.T) {
				if os.Getuid() != 0 {
					t.Skip("devices and owners need root")
				}
				root := t.TempDir()
				spec.write(t, root)
				if err := os.Chmod(root, 0o755); err != nil {
					t.Fatal(err)
				}
				sent, err := fsdiff.Host(t.Context(), root, fsdiff.HostOptions{})
				if err != nil {
					t.Fatal(err)
				}
				checkVectors(t, parts["selectors"], parts["sums"],
					fsdiff.NewView(nil, fsdiff.Dir(root)), fsdiff.NewView(nil, sent))
			})
		})
	}
}

func checkVectors(t *testing.T, selectors, sums string, layer, sent *fsdiff.View) {
	t.Helper()
	h := contenthash.New(nil)
	want := strings.Split(strings.TrimSpace(sums), "\n")
	for line := range strings.Lines(selectors) {
		var sels []contenthash.Selector
		if err := json.Unmarshal([]byte(line), &sels); err != nil {
			t.Fatal(err)
		}
		for _, v := range []*fsdiff.View{layer, sent} {
			if len(want) == 0 {
				t.Fatal("fewer sums than selectors")
			}
			kind, sum, _ := strings.Cut(want[0], " ")
			want = want[1:]
			got, err := h.Sum(t.Context(), v, sels)
			if text, fails := strings.CutPrefix(sum, "error"); fails {
				if err == nil || !strings.HasSuffix(err.Error(), strings.TrimSpace(text)) {
					t.Errorf("%s %s: %v, %v; want the error %s", kind, strings.TrimSpace(line), got, err, text)
				}
			} else if err != nil || string(got) != sum {
				t.Errorf("%s %s:\ngot  %v, %v\nwant %s", kind, strings.TrimSpace(line), got, err, sum)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("%d sums without selectors", len(want))
	}
}

// A treeSpec is the "tree" of a vector file: lines of a kind, a path and
// arguments, each of which may be quoted as in Go.
type treeSpec [][]string

func parseTree(t *testing.T, text string) treeSpec {
	t.Helper()
	var spec treeSpec
	for line := range strings.Lines(text) {
		var words []string
		for line = strings.TrimSpace(line); line != ""; line = strings.TrimLeft(line, " ") {
			if q, err := strconv.QuotedPrefix(line); err == nil {
				w, err := strconv.Unquote(q)
				if err != nil {
					t.Fatal(err)
				}
				words, line = append(words, w), line[len(q):]
				continue
			}
			w, rest, _ := strings.Cut(line, " ")
			words, line = append(words, w), rest
		}
		if len(words) > 0 {
			spec = append(spec, words)
		}
	}
	return spec
}

func number(s string, base int) uint32 {
	n, err := strconv.ParseUint(s, base, 32)
	if err != nil {
		panic(err)
	}
	return uint32(n)
}

func mode(s string) fs.FileMode {
	n := number(s, 8)
	m := fs.FileMode(n & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if n&bit != 0 {
			m |= flag
		}
	}
	return m
}

func content(words []string) []byte {
	if words[0] == "big" {
		return []byte(strings.Repeat("0123456789", int(number(words[3], 10))/10))
	}
	return []byte(words[3])
}

// mem returns the tree as a Diff, as a client would send it if sent is set.
func (s treeSpec) mem(sent bool) *fsdiff.Mem {
	all := map[string]*fsdiff.Entry{}
	for _, w := range s {
		e := &fsdiff.Entry{Path: w[1]}
		switch w[0] {
		case "dir":
			e.Mode = fs.ModeDir | mode(w[2])
		case "file", "big":
			b := content(w)
			e.Mode, e.Size, e.Content = mode(w[2]), int64(len(b)), fsdiff.Bytes(b)
		case "symlink":
			e.Mode, e.Linkname = fs.ModeSymlink|0o777, w[2]
		case "link":
			linked := *all[w[2]]
			linked.Path = w[1]
			e = &linked
		case "xattr":
			e = all[w[1]]
			if e.Xattrs == nil {
				e.Xattrs = map[string][]byte{}
			}
			e.Xattrs[w[2]] = []byte(w[3])
		case "owner":
			e = all[w[1]]
			if !sent {
				e.UID, e.GID = number(w[2], 10), number(w[3], 10)
			}
		case "fifo":
			e.Mode = fs.ModeNamedPipe | mode(w[2])
		case "char":
			e.Mode = fs.ModeDevice | fs.ModeCharDevice | mode(w[2])
			e.Devmajor, e.Devminor = number(w[3], 10), number(w[4], 10)
		case "block":
			e.Mode = fs.ModeDevice | mode(w[2])
			e.Devmajor, e.Devminor = number(w[3], 10), number(w[4], 10)
		case "sock":
			e.Mode = fs.ModeSocket | mode(w[2])
		default:
			panic(w[0])
		}
		all[w[1]] = e
	}
	m := fsdiff.NewMem()
	for _, e := range all {
		m.AddShared(e)
	}
	return m
}

func (s treeSpec) write(t *testing.T, root string) {
	t.Helper()
	for _, w := range s {
		p := filepath.Join(root, w[1])
		var err error
		switch w[0] {
		case "dir":
			err = os.Mkdir(p, 0o755)
		case "file", "big":
			err = os.WriteFile(p, content(w), 0o644)
		case "symlink":
			err = os.Symlink(w[2], p)
		case "link":
			err = os.Link(filepath.Join(root, w[2]), p)
		case "xattr":
			err = unix.Lsetxattr(p, w[2], []byte(w[3]), 0)
		case "owner":
			err = os.Lchown(p, int(number(w[2], 10)), int(number(w[3], 10)))
		case "fifo":
			err = unix.Mkfifo(p, 0o600)
		case "char":
			err = unix.Mknod(p, unix.S_IFCHR, int(unix.Mkdev(number(w[3], 10), number(w[4], 10))))
		case "block":
			err = unix.Mknod(p, unix.S_IFBLK, int(unix.Mkdev(number(w[3], 10), number(w[4], 10))))
		case "sock":
			var l net.Listener
			if l, err = net.Listen("unix", p); err == nil {
				l.(*net.UnixListener).SetUnlinkOnClose(false)
				err = l.Close()
			}
		}
		if err == nil && w[0] != "symlink" && w[0] != "link" && w[0] != "xattr" && w[0] != "owner" {
			err = os.Chmod(p, mode(w[2]))
		}
		if err != nil {
			t.Skipf("%v: %v", w, err)
		}
	}
}
