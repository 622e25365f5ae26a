package layertar

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

const (
	golden     = "testdata/buildkit.txtar"
	goldenHead = `Layers of testdata/buildkit/Dockerfile as BuildKit v0.33.1 has them, written by
testdata/buildkit/make.sh. N.upper is the upper directory of layer N, one entry
a line; N.tar has the digest of its tar and that of the tar with
rewrite-timestamp=true and SOURCE_DATE_EPOCH=1500000000. The first layer has no
contents, which are too large, and is not checked.
`
	maxInline = 4 << 10 // bytes of content kept in the golden file
)

var buildkitDir = flag.String("buildkit", "", "write the golden file from `dir`, which testdata/buildkit/make.sh made")

// line is an entry in the golden file.
type line struct {
	Path     string
	Mode     string            `json:",omitempty"` // octal, of fs.FileMode
	UID, GID uint32            `json:",omitempty"`
	Size     int64             `json:",omitempty"`
	Time     string            `json:",omitempty"` // seconds.nanoseconds
	Link     string            `json:",omitempty"`
	Dev      []uint32          `json:",omitempty"`
	Xattrs   map[string][]byte `json:",omitempty"`
	Whiteout bool              `json:",omitempty"`
	Opaque   bool              `json:",omitempty"`
	Inode    uint64            `json:",omitempty"`
	Data     string            `json:",omitempty"`
}

func (l line) entry() (fsdiff.Entry, error) {
	e := fsdiff.Entry{Path: l.Path, Whiteout: l.Whiteout, Opaque: l.Opaque, UID: l.UID, GID: l.GID, Size: l.Size, Linkname: l.Link, Xattrs: l.Xattrs, Inode: l.Inode}
	if l.Whiteout {
		return e, nil
	}
	mode, err := strconv.ParseUint(l.Mode, 8, 32)
	if err != nil {
		return e, err
	}
	e.Mode = fs.FileMode(mode)
	sec, nsec, _ := strings.Cut(l.Time, ".")
	s, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return e, err
	}
	n, err := strconv.ParseInt(nsec, 10, 64)
	if err != nil {
		return e, err
	}
	e.ModTime = time.Unix(s, n)
	if len(l.Dev) == 2 {
		e.Devmajor, e.Devminor = l.Dev[0], l.Dev[1]
	}
	if int64(len(l.Data)) == l.Size {
		e.Content = fsdiff.Bytes([]byte(l.Data))
	}
	return e, nil
}

func lineOf(t *testing.T, e *fsdiff.Entry) line {
	t.Helper()
	l := line{Path: e.Path, Whiteout: e.Whiteout, Opaque: e.Opaque}
	if e.Whiteout {
		return l
	}
	l.Mode = strconv.FormatUint(uint64(e.Mode), 8)
	l.UID, l.GID, l.Size, l.Link, l.Xattrs, l.Inode = e.UID, e.GID, e.Size, e.Linkname, e.Xattrs, e.Inode
	l.Time = fmt.Sprintf("%d.%09d", e.ModTime.Unix(), e.ModTime.Nanosecond())
	if e.Mode&fs.ModeDevice != 0 {
		l.Dev = []uint32{e.Devmajor, e.Devminor}
	}
	if e.Size > 0 && e.Size <= maxInline {
		l.Data = contentOf(t, e)
	}
	return l
}

func contentOf(t *testing.T, e *fsdiff.Entry) string {
	t.Helper()
	if e.Content == nil {
		return ""
	}
	r, err := e.Content.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// goldenLayer is a layer in the golden file.
type goldenLayer struct {
	upper          *fsdiff.Mem
	tar, rewritten digest.Digest
}

func readGolden(t *testing.T) []goldenLayer {
	t.Helper()
	a, err := txtar.ParseFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	var layers []goldenLayer
	for i := 0; i+1 < len(a.Files); i += 2 {
		g := goldenLayer{upper: fsdiff.NewMem()}
		for text := range bytes.Lines(a.Files[i].Data) {
			var l line
			if err := json.Unmarshal(text, &l); err != nil {
				t.Fatal(err)
			}
			e, err := l.entry()
			if err != nil {
				t.Fatal(err)
			}
			g.upper.Add(e)
		}
		if _, err := fmt.Sscan(string(a.Files[i+1].Data), &g.tar, &g.rewritten); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, g)
	}
	return layers
}

// TestBuildKit holds that tars are byte for byte BuildKit's: of entries in
// memory, of a directory that was made of them, and with times rewritten.
func TestBuildKit(t *testing.T) {
	if *buildkitDir != "" {
		writeGolden(t)
	}
	var base, unpacked *fsdiff.View
	for i, layer := range readGolden(t) {
		if i > 0 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				var buf bytes.Buffer
				stats, err := Write(t.Context(), &buf, layer.upper, base)
				if err != nil {
					t.Fatal(err)
				}
				if got := digest.FromBytes(buf.Bytes()); got != layer.tar {
					t.Errorf("tar has digest %s, want %s", got, layer.tar)
				}
				if stats.Size != int64(buf.Len()) {
					t.Errorf("size %d, want %d", stats.Size, buf.Len())
				}
				var rewritten bytes.Buffer
				if err := Rewrite(t.Context(), bytes.NewReader(buf.Bytes()), &rewritten, time.Unix(1500000000, 0)); err != nil {
					t.Fatal(err)
				}
				if got := digest.FromBytes(rewritten.Bytes()); got != layer.rewritten {
					t.Errorf("rewritten tar has digest %s, want %s", got, layer.rewritten)
				}
				if os.Geteuid() != 0 {
					return // the rest makes devices and owners
				}
				dir := t.TempDir()
				if err := Materialize(t.Context(), layer.upper, dir); err != nil {
					t.Fatal(err)
				}
				if got := tarDigest(t, fsdiff.Dir(dir), base); got != layer.tar {
					t.Errorf("tar of the directory has digest %s, want %s", got, layer.tar)
				}
			})
		}
		view := fsdiff.NewView(base, layer.upper)
		if os.Geteuid() == 0 {
			unpacked = fsdiff.NewView(unpacked, unpackOf(t, layer.upper, base, unpacked, i == 0))
			sameViews(t, i, unpacked, view)
		}
		base = view
	}
}

func tarDigest(t *testing.T, d fsdiff.Diff, base *fsdiff.View) digest.Digest {
	t.Helper()
	h := digest.SHA256.Digester()
	if _, err := Write(t.Context(), h.Hash(), d, base); err != nil {
		t.Fatal(err)
	}
	return h.Digest()
}

// unpackOf writes a tar of d and unpacks it on top of below.
func unpackOf(t *testing.T, d fsdiff.Diff, base, below *fsdiff.View, noContents bool) fsdiff.Diff {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if noContents {
		if err := Materialize(t.Context(), withoutContents{d}, dir); err != nil {
			t.Fatal(err)
		}
		return fsdiff.Dir(dir)
	}
	var buf bytes.Buffer
	if _, err := Write(t.Context(), &buf, d, base); err != nil {
		t.Fatal(err)
	}
	if _, err := Unpack(t.Context(), &buf, dir, parentIs(below)); err != nil {
		t.Fatal(err)
	}
	return fsdiff.Dir(dir)
}

// withoutContents is a Diff of empty files.
type withoutContents struct{ fsdiff.Diff }

func (w withoutContents) ReadDir(p string) ([]*fsdiff.Entry, error) {
	list, err := w.Diff.ReadDir(p)
	list = slices.Clone(list)
	for i, e := range list {
		clear := *e
		clear.Size, clear.Content = 0, nil
		list[i] = &clear
	}
	return list, err
}

// sameViews compares what a tar carries over: not sockets, attributes of users,
// times of directories and of what was before 1970, fractions of a second.
func sameViews(t *testing.T, layer int, got, want *fsdiff.View) {
	t.Helper()
	g, w := describe(t, got), describe(t, want)
	for p, line := range w {
		if g[p] != line {
			t.Errorf("layer %d, %s:\n got %s\nwant %s", layer, p, g[p], line)
		}
	}
	for p := range g {
		if w[p] == "" {
			t.Errorf("layer %d: %s is there", layer, p)
		}
	}
}

func describe(t *testing.T, v *fsdiff.View) map[string]string {
	t.Helper()
	lines := map[string]string{}
	err := v.Walk("", func(e *fsdiff.Entry) error {
		if e.Path == "" || e.Mode&fs.ModeSocket != 0 {
			return nil
		}
		s := fmt.Sprintf("%v %d:%d %s %d,%d %x", e.Mode, e.UID, e.GID, e.Linkname, e.Devmajor, e.Devminor, e.Xattrs[capability])
		if !e.IsDir() {
			s += fmt.Sprint(" ", max(e.ModTime.Unix(), 0))
		}
		if e.Size <= maxInline {
			s += " " + contentOf(t, e)
		}
		lines[e.Path] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	delete(lines, "bin/busybox") // their contents are not in the golden file
	delete(lines, "bin/mk")
	return lines
}

// writeGolden finds for each layer of the image the upper directory of which
// our tar is BuildKit's, and writes the golden file.
func writeGolden(t *testing.T) {
	snapshots, err := filepath.Glob(filepath.Join(*buildkitDir, "root/runc-overlayfs/snapshots/snapshots/*/fs"))
	if err != nil {
		t.Fatal(err)
	}
	number := func(dir string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		return n
	}
	slices.SortFunc(snapshots, func(a, b string) int { return cmp.Compare(number(a), number(b)) })
	rewritten := imageLayers(t, filepath.Join(*buildkitDir, "rewritten"))
	a := &txtar.Archive{Comment: []byte(goldenHead)}
	var base *fsdiff.View
	for i, layer := range imageLayers(t, filepath.Join(*buildkitDir, "image")) {
		match := slices.IndexFunc(snapshots, func(dir string) bool { return tarDigest(t, fsdiff.Dir(dir), base) == layer })
		if match < 0 {
			t.Fatalf("layer %d: no upper directory gives %s", i, layer)
		}
		base = fsdiff.NewView(base, fsdiff.Dir(snapshots[match]))
		var upper bytes.Buffer
		dumpDiff(t, &upper, fsdiff.Dir(snapshots[match]), "")
		a.Files = append(a.Files,
			txtar.File{Name: fmt.Sprintf("%d.upper", i), Data: upper.Bytes()},
			txtar.File{Name: fmt.Sprintf("%d.tar", i), Data: fmt.Appendf(nil, "%s\n%s\n", layer, rewritten[i])})
		snapshots = snapshots[match+1:]
	}
	if err := os.WriteFile(golden, txtar.Format(a), 0o644); err != nil {
		t.Fatal(err)
	}
}

func dumpDiff(t *testing.T, w io.Writer, d fsdiff.Diff, dir string) {
	t.Helper()
	list, err := d.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		data, err := json.Marshal(lineOf(t, e))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(w, "%s\n", data)
		if e.IsDir() {
			dumpDiff(t, w, d, e.Path)
		}
	}
}

// imageLayers returns the digests of the layers of an OCI layout with one
// image; they are not compressed.
func imageLayers(t *testing.T, dir string) []digest.Digest {
	t.Helper()
	var index ocispec.Index
	readJSON(t, filepath.Join(dir, "index.json"), &index)
	if len(index.Manifests) != 1 {
		t.Fatalf("%s has %d manifests", dir, len(index.Manifests))
	}
	name := filepath.Join(dir, "blobs", "sha256", index.Manifests[0].Digest.Encoded())
	if index.Manifests[0].MediaType == ocispec.MediaTypeImageIndex { // with an attestation
		index = ocispec.Index{}
		readJSON(t, name, &index)
		name = filepath.Join(dir, "blobs", "sha256", index.Manifests[0].Digest.Encoded())
	}
	var manifest ocispec.Manifest
	readJSON(t, name, &manifest)
	var layers []digest.Digest
	for _, l := range manifest.Layers {
		layers = append(layers, l.Digest)
	}
	return layers
}

func readJSON(t *testing.T, name string, v any) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		t.Fatal(errors.Join(fmt.Errorf("read %s", name), err))
	}
}
