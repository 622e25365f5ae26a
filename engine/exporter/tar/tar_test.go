package tar_test

import (
	archive "archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/exporter/tar"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

func TestEqualsBuildKit(t *testing.T) {
	view := imageView(t, "testdata/image.tar")
	epoch := time.Unix(1700000000, 0)
	for name, opt := range map[string]tar.Options{"rootfs": {}, "rootfs-epoch": {Epoch: &epoch}} {
		t.Run(name, func(t *testing.T) {
			want, err := os.ReadFile("testdata/" + name + ".tar")
			if err != nil {
				t.Fatal(err)
			}
			got := export(t, view, opt)
			if bytes.Equal(got, want) {
				return
			}
			g, w := list(t, got), list(t, want)
			for i := range min(len(g), len(w)) {
				if g[i] != w[i] {
					t.Fatalf("entry %d is\n%s\nBuildKit's is\n%s", i, g[i], w[i])
				}
			}
			t.Errorf("%d entries and %d bytes, BuildKit has %d and %d", len(g), len(got), len(w), len(want))
		})
	}
}

func export(t testing.TB, view *fsdiff.View, opt tar.Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tar.Export(t.Context(), &b, view, opt); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// list describes the entries of a tar, a line each.
func list(t *testing.T, data []byte) (lines []string) {
	t.Helper()
	for tr := archive.NewReader(bytes.NewReader(data)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%c %q -> %q %o %d:%d %d bytes %s %d,%d %v %s", h.Typeflag, h.Name, h.Linkname,
			h.Mode, h.Uid, h.Gid, h.Size, h.ModTime.UTC().Format(time.RFC3339Nano), h.Devmajor, h.Devminor, h.PAXRecords, digest.FromBytes(body)))
	}
}

// imageView reads the layers of an OCI archive, which have no whiteouts.
func imageView(t *testing.T, name string) (view *fsdiff.View) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string][]byte{}
	for tr := archive.NewReader(f); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
	var index ocispec.Index
	var m ocispec.Manifest
	blob := func(d digest.Digest) []byte { return files["blobs/sha256/"+d.Encoded()] }
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(blob(index.Manifests[0].Digest), &m); err != nil {
		t.Fatal(err)
	}
	for i, l := range m.Layers {
		view = fsdiff.NewView(view, layer(t, blob(l.Digest), uint64(i+1)<<32))
	}
	return view
}

func layer(t *testing.T, data []byte, inodes uint64) fsdiff.Diff {
	t.Helper()
	mem := fsdiff.NewMem()
	byName := map[string]*fsdiff.Entry{}
	for tr := archive.NewReader(bytes.NewReader(data)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		p := strings.Trim(h.Name, "/")
		if h.Typeflag == archive.TypeLink {
			first := byName[h.Linkname]
			if first.Inode == 0 {
				inodes++
				first.Inode = inodes
			}
			link := *first
			link.Path = p
			byName[p] = &link
			continue
		}
		e := &fsdiff.Entry{
			Path: p, Mode: h.FileInfo().Mode(), UID: uint32(h.Uid), GID: uint32(h.Gid), Size: h.Size, ModTime: h.ModTime,
			Devmajor: uint32(h.Devmajor), Devminor: uint32(h.Devminor), Linkname: h.Linkname, Content: fsdiff.Bytes(body),
		}
		for k, v := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				e.Xattrs = map[string][]byte{name: []byte(v)}
			}
		}
		byName[p] = e
	}
	for _, e := range byName {
		mem.Add(*e)
	}
	return mem
}

func TestNilViewIsAnEmptyTar(t *testing.T) {
	if got := export(t, nil, tar.Options{}); !bytes.Equal(got, make([]byte, 1024)) {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

// What an image cannot say: BuildKit reads it from a file system.
func TestHeaders(t *testing.T) {
	mem := fsdiff.NewMem()
	when := time.Unix(100, 5e8)
	add := func(p string, mode fs.FileMode, change func(*fsdiff.Entry)) {
		e := fsdiff.Entry{Path: p, Mode: mode, ModTime: when}
		if change != nil {
			change(&e)
		}
		mem.Add(e)
	}
	add("", fs.ModeDir|0o700, nil)
	add("blk", fs.ModeDevice|0o640, func(e *fsdiff.Entry) { e.Devmajor, e.Devminor = 7, 1 })
	add("dir", fs.ModeDir|fs.ModeSticky|0o777, func(e *fsdiff.Entry) {
		e.Xattrs = map[string][]byte{"user.b": []byte("2"), "user.a": {0, 1}, "trusted.x": nil}
	})
	add("fifo1", fs.ModeNamedPipe|0o600, func(e *fsdiff.Entry) { e.Inode = 9 })
	add("fifo2", fs.ModeNamedPipe|0o600, func(e *fsdiff.Entry) { e.Inode = 9 })
	add("file", 0o600, func(e *fsdiff.Entry) { e.ModTime = time.Unix(100, 4e8) })
	add("link", fs.ModeSymlink|0o777, func(e *fsdiff.Entry) { e.Linkname = strings.Repeat("x/", 150) })
	add("socket", fs.ModeSocket|0o755, func(e *fsdiff.Entry) { e.Size = 5 })
	want := []string{
		`4 "blk" -> "" 640 0:0 0 bytes 1970-01-01T00:01:41Z 7,1 map[] `,
		`5 "dir/" -> "" 1777 0:0 0 bytes 1970-01-01T00:01:41Z 0,0 map[SCHILY.xattr.trusted.x: SCHILY.xattr.user.a:` + "\x00\x01" + ` SCHILY.xattr.user.b:2] `,
		`6 "fifo1" -> "" 600 0:0 0 bytes 1970-01-01T00:01:41Z 0,0 map[] `,
		`1 "fifo2" -> "fifo1" 600 0:0 0 bytes 1970-01-01T00:01:41Z 0,0 map[] `,
		`0 "file" -> "" 600 0:0 0 bytes 1970-01-01T00:01:40Z 0,0 map[] `,
		`2 "link" -> "` + strings.Repeat("x/", 150) + `" 777 0:0 0 bytes 1970-01-01T00:01:41Z 0,0 map[linkpath:` + strings.Repeat("x/", 150) + `] `,
		`0 "socket" -> "" 755 0:0 0 bytes 1970-01-01T00:01:41Z 0,0 map[] `,
	}
	got := list(t, export(t, fsdiff.NewView(nil, mem), tar.Options{}))
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d: %q", len(got), len(want), got)
	}
	for i := range want {
		if w := want[i] + digest.FromBytes(nil).String(); got[i] != w {
			t.Errorf("entry is\n%s\nwant\n%s", got[i], w)
		}
	}
}

// BenchmarkExport writes a tree of small files of this machine.
func BenchmarkExport(b *testing.B) {
	dir := b.TempDir()
	var size int64
	for i := range 5000 {
		name := path.Join(dir, fmt.Sprintf("d%d/f%d", i/100, i))
		if i%100 == 0 {
			if err := os.Mkdir(path.Dir(name), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		data := bytes.Repeat([]byte{byte(i)}, 100+i*3)
		size += int64(len(data))
		if err := os.WriteFile(name, data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(size)
	for b.Loop() {
		if err := tar.Export(b.Context(), io.Discard, fsdiff.NewView(nil, fsdiff.Dir(dir)), tar.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestErrors(t *testing.T) {
	lost := errors.New("lost")
	view := func(e fsdiff.Entry) *fsdiff.View {
		mem := fsdiff.NewMem()
		mem.Add(fsdiff.Entry{Mode: fs.ModeDir | 0o755})
		e.Path, e.Mode = "dir-file", 0o644
		mem.Add(e)
		return fsdiff.NewView(nil, mem)
	}
	for name, v := range map[string]*fsdiff.View{
		"short":          view(fsdiff.Entry{Size: 3, Content: fsdiff.Bytes([]byte("ab"))}),
		"long":           view(fsdiff.Entry{Size: 1, Content: fsdiff.Bytes([]byte("ab"))}),
		"without bytes":  view(fsdiff.Entry{Size: 3}),
		"cannot be read": view(fsdiff.Entry{Size: 3, Content: broken{lost}}),
	} {
		if err := tar.Export(t.Context(), io.Discard, v, tar.Options{}); err == nil || !strings.Contains(err.Error(), "dir-file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := view(fsdiff.Entry{Size: 2, Content: fsdiff.Bytes([]byte("ab"))})
	if err := tar.Export(t.Context(), full{lost}, good, tar.Options{}); !errors.Is(err, lost) {
		t.Errorf("full disk: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(lost)
	if err := tar.Export(ctx, io.Discard, good, tar.Options{}); !errors.Is(err, lost) {
		t.Errorf("cancelled: %v", err)
	}
}

type broken struct{ err error }

func (b broken) Open() (io.ReadCloser, error) { return nil, b.err }

type full struct{ err error }

func (f full) Write([]byte) (int, error) { return 0, f.err }

// TestBigFile: a file that is streamed, between two that are not.
func TestBigFile(t *testing.T) {
	dir := t.TempDir()
	big := bytes.Repeat([]byte("0123456789abcde\n"), 1<<20)
	for name, data := range map[string][]byte{"a": []byte("small"), "b": big, "c": []byte("small too")} {
		if err := os.WriteFile(path.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(path.Join(dir, "b"), path.Join(dir, "d")); err != nil {
		t.Fatal(err)
	}
	lines := list(t, export(t, fsdiff.NewView(nil, fsdiff.Dir(dir)), tar.Options{}))
	if len(lines) != 4 || !strings.HasSuffix(lines[1], digest.FromBytes(big).String()) || !strings.HasPrefix(lines[3], `1 "d" -> "b" `) {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
}
