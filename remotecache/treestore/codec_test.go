package treestore

import (
	"bufio"
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/remotecache"
)

const (
	dirMode  = unix.S_IFDIR | 0o755
	fileMode = unix.S_IFREG | 0o644
)

// sampleTree has every kind of node, and chunks with gaps between them.
func sampleTree() *tree {
	at := time.Unix(1_700_000_000, 5)
	dir, reg := node{mode: dirMode, used: at.Unix()}, node{mode: fileMode, used: at.Unix() - 100, mtime: stamp{1_600_000_000, 999_999_999}}
	with := func(n node, parent int, name string, f func(*node)) node {
		n.parent, n.name = parent, name
		if f != nil {
			f(&n)
		}
		return n
	}
	return &tree{
		name: testName, saved: at, maxAge: 36 * time.Hour,
		packs: []pack{
			{digest.FromString("one"), 1000, 5000},
			{digest.FromString("two"), 77, 300},
		},
		chunks: []chunk{
			{sum: sum{1}, pack: 0, off: 0, size: 1000},
			{sum: sum{2}, pack: 0, off: 4000, size: 1000},
			{sum: sum{3}, pack: 1, off: 100, size: 200},
		},
		nodes: []node{
			dir,
			with(dir, 0, "a", func(n *node) { n.xattrs = []xattr{{"user.x", []byte{0, 255}}} }),
			with(reg, 1, "F\xff\n", func(n *node) {
				n.size, n.pieces, n.uid, n.gid = 5000, []piece{{2, 200}, {hole, 3800}, {0, 1000}}, 1000, math.MaxUint32
			}),
			with(node{link: 2}, 1, "again", nil),
			with(node{mode: unix.S_IFLNK | 0o777, target: "../../x", used: -1}, 1, "link", nil),
			with(reg, 0, "b", func(n *node) { n.size, n.pieces = 2000, []piece{{1, 1000}, {1, 1000}} }),
			with(node{mode: unix.S_IFCHR, dev: [2]uint32{5, 1}, used: math.MinInt32}, 0, "dev", nil),
			with(reg, 0, "empty", func(n *node) { n.mtime = stamp{-1 << 40, 0} }),
			with(node{mode: unix.S_IFIFO | 0o600}, 0, "pipe", nil),
		},
	}
}

func TestManifest(t *testing.T) {
	in := sampleTree()
	data, err := in.encode()
	must(t, err)
	out, err := decode(data)
	must(t, err)
	if !in.saved.Equal(out.saved) {
		t.Errorf("saved at %v", out.saved)
	}
	out.saved = in.saved
	if !reflect.DeepEqual(in, out) {
		t.Errorf("decoded\n%+v\nencoded\n%+v", out, in)
	}
	// A manifest that an earlier version wrote is read: another format needs
	// another media type.
	golden := filepath.Join("testdata", "manifest.v1")
	old, err := os.ReadFile(golden)
	must(t, err)
	was, err := decode(old)
	must(t, err)
	was.saved = in.saved
	if !reflect.DeepEqual(in, was) {
		t.Errorf("%s is\n%+v\nwant\n%+v", golden, was, in)
	}
}

func compress(t testing.TB, raw []byte) []byte {
	data, err := (&encoder{buf: raw}).compressed()
	must(t, err)
	return data
}

// FuzzDecode: whatever is decoded stays below a directory, and is encoded to
// the same. The bytes are those before compression.
func FuzzDecode(f *testing.F) {
	data, err := sampleTree().encode()
	must(f, err)
	d, err := newDecoder(data, "")
	must(f, err)
	raw := make([]byte, 4096)
	n, err := d.r.Read(raw)
	must(f, err)
	f.Add(raw[:n])
	f.Fuzz(func(t *testing.T, raw []byte) {
		d := &decoder{r: bufio.NewReader(bytes.NewReader(raw)), close: func() {}}
		d.magic(manifestMagic)
		tr, err := d.sound()
		if err != nil {
			if !errors.Is(err, remotecache.ErrCorrupt) {
				t.Fatalf("%v is not ErrCorrupt", err)
			}
			return
		}
		for i, p := range tr.paths() {
			if i > 0 && !filepath.IsLocal(p) {
				t.Errorf("path %q", p)
			}
		}
		data, err := tr.encode()
		must(t, err)
		again, err := decode(data)
		must(t, err)
		if !reflect.DeepEqual(tr, again) {
			t.Errorf("decoded\n%+v\nand then\n%+v", tr, again)
		}
	})
}

func FuzzDecodeRaw(f *testing.F) {
	data, err := sampleTree().encode()
	must(f, err)
	f.Add(data)
	f.Add(compress(f, bytes.Repeat([]byte{0}, 1<<20)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := decode(data); err != nil && !errors.Is(err, remotecache.ErrCorrupt) {
			t.Fatalf("%v is not ErrCorrupt", err)
		}
	})
}

// TestHostileManifest: what would be written outside of the directory, or
// could not be written, is refused before anything is.
func TestHostileManifest(t *testing.T) {
	outside := t.TempDir()
	file := node{mode: fileMode}
	for name, spoil := range map[string]func(*tree){
		"parent directory":        func(tr *tree) { tr.nodes[1].name = ".." },
		"dot":                     func(tr *tree) { tr.nodes[1].name = "." },
		"no name":                 func(tr *tree) { tr.nodes[1].name = "" },
		"absolute":                func(tr *tree) { tr.nodes[1].name = outside },
		"path as a name":          func(tr *tree) { tr.nodes[1].name = "a/../../x" },
		"zero byte":               func(tr *tree) { tr.nodes[1].name = "a\x00" },
		"below a symbolic link":   func(tr *tree) { tr.nodes[4].target = outside; tr.nodes[5].parent = 4 },
		"below a file":            func(tr *tree) { tr.nodes[5].parent = 2 },
		"below itself":            func(tr *tree) { tr.nodes[5].parent = 5 },
		"below what comes later":  func(tr *tree) { tr.nodes[2].parent = 6 },
		"twice the same name":     func(tr *tree) { tr.nodes[5].name = "a" },
		"names out of order":      func(tr *tree) { tr.nodes[5].name = "0" },
		"root is a link":          func(tr *tree) { tr.nodes[0] = node{mode: unix.S_IFLNK, target: outside} },
		"root is a file":          func(tr *tree) { tr.nodes = []node{file} },
		"root has a name":         func(tr *tree) { tr.nodes[0].name = "x" },
		"nothing":                 func(tr *tree) { tr.nodes = nil },
		"link to a directory":     func(tr *tree) { tr.nodes[3].link = 1 },
		"link to the root":        func(tr *tree) { tr.nodes[5].link = 1 },
		"link to a link":          func(tr *tree) { tr.nodes[5] = node{name: "b", link: 3} },
		"link to what comes":      func(tr *tree) { tr.nodes[3].link = 5 },
		"empty target":            func(tr *tree) { tr.nodes[4].target = "" },
		"socket":                  func(tr *tree) { tr.nodes[8].mode = unix.S_IFSOCK },
		"no type":                 func(tr *tree) { tr.nodes[8].mode = 0o644 },
		"mode bits":               func(tr *tree) { tr.nodes[8].mode |= 1 << 20 },
		"overlay's attribute":     func(tr *tree) { tr.nodes[1].xattrs[0].name = "trusted.overlay.redirect" },
		"overlay's in a userns":   func(tr *tree) { tr.nodes[1].xattrs[0].name = "user.overlay.opaque" },
		"label":                   func(tr *tree) { tr.nodes[1].xattrs[0].name = "security.selinux" },
		"attributes of a link":    func(tr *tree) { tr.nodes[4].xattrs = tr.nodes[1].xattrs },
		"content is missing":      func(tr *tree) { tr.nodes[7].size = 1 },
		"content is too long":     func(tr *tree) { tr.nodes[5].size = 1999 },
		"chunk that is not there": func(tr *tree) { tr.nodes[5].pieces[0].chunk = 3 },
		"negative chunk":          func(tr *tree) { tr.nodes[5].pieces[0].chunk = -5 },
		"chunk outside its pack":  func(tr *tree) { tr.chunks[2].off = 101 },
		"chunks overlap":          func(tr *tree) { tr.chunks[1].off = 999 },
		"chunk is too large":      func(tr *tree) { tr.packs[0].raw, tr.chunks[1].size = 1<<29, maxChunk+1 },
		"no chunk":                func(tr *tree) { tr.chunks[2].size = 0 },
		"pack that is not there":  func(tr *tree) { tr.chunks[2].pack = 2 },
		"pack without bytes":      func(tr *tree) { tr.packs[1].size = 0 },
		"endless pack":            func(tr *tree) { tr.packs[1].raw = 1 << 40 },
		"another name":            func(tr *tree) { tr.name.ID = "/other" },
	} {
		t.Run(name, func(t *testing.T) {
			tr := sampleTree()
			tr.maxAge = 0
			spoil(tr)
			data, err := tr.encode()
			must(t, err)
			if _, err := decode(data); err == nil && name != "another name" {
				t.Error("it is decoded")
			}
			got := newDir(t)
			if _, _, err := got.load(manifestOnly(t, data), LoadOptions{}); !errors.Is(err, remotecache.ErrCorrupt) {
				t.Errorf("load: %v", err)
			}
			if names := got.names(); len(names) > 0 {
				t.Errorf("it wrote %q", names)
			}
		})
	}
	for name, data := range map[string][]byte{
		"empty":          {},
		"no zstd":        []byte("hello"),
		"other magic":    compress(t, []byte("mayfly tree 2\n")),
		"cut off":        compress(t, []byte(manifestMagic+"\x03/id")),
		"false count":    compress(t, append([]byte(manifestMagic), 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f)),
		"bytes behind":   func() []byte { d, _ := sampleTree().encode(); return append(d, compress(t, []byte("x"))...) }(),
		"gigabytes of 0": compress(t, append([]byte(manifestMagic), make([]byte, 300<<20)...)),
	} {
		if _, err := decode(data); !errors.Is(err, remotecache.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, err := os.ReadDir(outside); err != nil || len(list) > 0 {
		t.Errorf("outside of the directory there is %v, %v", list, err)
	}
}

// manifestOnly returns a backend with a manifest and without its packs.
func manifestOnly(t *testing.T, data []byte) remotecache.Backend {
	m := remotecache.NewMemory()
	desc := ocispec.Descriptor{MediaType: MediaTypeManifest, Digest: digest.FromBytes(data), Size: int64(len(data))}
	must(t, m.Put(t.Context(), desc, bytes.NewReader(data)))
	must(t, m.SaveIndex(t.Context(), Ref("main", testName), indexOf(testName, time.Unix(1, 0), nil, desc)))
	return m
}
