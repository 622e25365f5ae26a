package layertar

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

// memOf makes a Diff of files with the bytes given, directories included.
func memOf(files map[string]string) *fsdiff.Mem {
	m := fsdiff.NewMem()
	for p, data := range files {
		m.Add(fsdiff.Entry{Path: p, Mode: 0o644, Size: int64(len(data)), ModTime: when, Content: fsdiff.Bytes([]byte(data))})
		for d := parentOf(p); d != ""; d = parentOf(d) {
			m.Add(fsdiff.Entry{Path: d, Mode: fs.ModeDir | 0o755, ModTime: when})
		}
	}
	return m
}

// TestWriteContents has sizes around those at which files are treated in
// another way, and more than fits into a segment.
func TestWriteContents(t *testing.T) {
	files := map[string]string{}
	for i, size := range []int{0, 1, 511, 512, 513, 32 << 10, bigFile - 1, bigFile, bigFile + 1, segmentSize, 3*segmentSize + 5} {
		files[fmt.Sprintf("sizes/%02d", i)] = strings.Repeat(string(rune('a'+i)), size)
	}
	for i := range 3000 {
		files[fmt.Sprintf("many/%04d", i)] = strings.Repeat("x", i)
	}
	var buf bytes.Buffer
	stats, err := Write(t.Context(), &buf, memOf(files), nil)
	if err != nil {
		t.Fatal(err)
	}
	if stats.Entries != len(files)+2 || stats.Size != int64(buf.Len()) {
		t.Errorf("stats %+v: want %d entries, %d bytes", stats, len(files)+2, buf.Len())
	}
	last := ""
	for tr := tar.NewReader(&buf); ; {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if hdr.Name <= last {
			t.Errorf("%s comes after %s", hdr.Name, last)
		}
		last = hdr.Name
		if hdr.Typeflag == tar.TypeDir {
			continue
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if string(data) != files[hdr.Name] {
			t.Errorf("%s has %d other bytes", hdr.Name, len(data))
		}
		delete(files, hdr.Name)
	}
	if len(files) > 0 {
		t.Errorf("%d files are missing", len(files))
	}
}

func TestWriteEmpty(t *testing.T) {
	var buf bytes.Buffer
	stats, err := Write(t.Context(), &buf, fsdiff.NewMem(), nil)
	if err != nil || !bytes.Equal(buf.Bytes(), make([]byte, 1024)) || stats != (Stats{Size: 1024}) {
		t.Errorf("wrote %d bytes, %+v, %v", buf.Len(), stats, err)
	}
}

// TestWriteParents has a Diff without the directories of what it changes: they
// come from the base.
func TestWriteParents(t *testing.T) {
	base := fsdiff.NewMem()
	for _, e := range []fsdiff.Entry{
		{Path: "a", Mode: fs.ModeDir | 0o711, UID: 4},
		{Path: "a/b", Mode: fs.ModeDir | 0o700, GID: 5},
		{Path: "a/b/old", Mode: 0o644},
	} {
		base.Add(e)
	}
	upper := fsdiff.NewMem()
	upper.Add(fsdiff.Entry{Path: "a", Mode: fs.ModeDir | 0o711, UID: 4})
	upper.Add(fsdiff.Entry{Path: "a/b", Mode: fs.ModeDir | 0o700, GID: 5})
	upper.Whiteout("a/b/old")
	upper.Whiteout("a/b/never")
	var buf bytes.Buffer
	if _, err := Write(t.Context(), &buf, upper, fsdiff.NewView(nil, base)); err != nil {
		t.Fatal(err)
	}
	if got, want := headersOf(t, &buf), "a/ 711 4:0\na/b/ 700 0:5\na/b/.wh.old 0 0:0"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func headersOf(t *testing.T, r io.Reader) string {
	t.Helper()
	var lines []string
	for tr := tar.NewReader(r); ; {
		hdr, err := tr.Next()
		if err == io.EOF {
			return strings.Join(lines, "\n")
		}
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%s %o %d:%d", hdr.Name, hdr.Mode, hdr.Uid, hdr.Gid))
	}
}

func TestWriteErrors(t *testing.T) {
	dir := t.TempDir()
	grown := filepath.Join(dir, "grown")
	if err := os.WriteFile(grown, []byte("before"), 0o644); err != nil {
		t.Fatal(err)
	}
	changed, err := fsdiff.FileAt(grown)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(grown, []byte("afterwards"), 0o644); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("disk full")
	for _, tc := range []struct {
		name  string
		entry fsdiff.Entry
		want  string
		is    error
	}{
		{name: "content too short", entry: fsdiff.Entry{Size: 6, Content: fsdiff.Bytes([]byte("short"))}, want: "5 bytes"},
		{name: "content too long", entry: fsdiff.Entry{Size: 3, Content: fsdiff.Bytes([]byte("long"))}, want: "more than the 3 bytes"},
		{name: "large content too short", entry: fsdiff.Entry{Size: bigFile + 1, Content: fsdiff.Bytes(make([]byte, bigFile))}, want: fmt.Sprint(bigFile, " bytes")},
		{name: "large content too long", entry: fsdiff.Entry{Size: bigFile, Content: fsdiff.Bytes(make([]byte, bigFile+1))}, want: "more than"},
		{name: "no content", entry: fsdiff.Entry{Size: 3}, want: "no content"},
		{name: "changed on disk", entry: fsdiff.Entry{Size: 6, Content: changed}, is: fsdiff.ErrChanged},
		{name: "content fails", entry: fsdiff.Entry{Size: 6, Content: failing{broken}}, is: broken},
		{name: "large content fails", entry: fsdiff.Entry{Size: bigFile, Content: failing{broken}}, is: broken},
		{name: "odd type", entry: fsdiff.Entry{Mode: fs.ModeIrregular}, want: "type"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := memOf(map[string]string{"d/a": "x", "d/z": strings.Repeat("z", 2*segmentSize)})
			tc.entry.Path = "d/culprit"
			m.Add(tc.entry)
			_, err := Write(t.Context(), io.Discard, m, nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) || tc.is != nil && !errors.Is(err, tc.is) {
				t.Fatalf("error is %v, want one with %q and %v", err, tc.want, tc.is)
			}
			if !strings.Contains(err.Error(), "d/culprit") {
				t.Errorf("error %q does not name the file", err)
			}
		})
	}
	t.Run("writer fails", func(t *testing.T) {
		for _, size := range []int{1, segmentSize, 5 * segmentSize} {
			_, err := Write(t.Context(), failing{broken}, memOf(map[string]string{"a": strings.Repeat("x", size), "b": "y"}), nil)
			if !errors.Is(err, broken) {
				t.Errorf("error is %v", err)
			}
		}
	})
	t.Run("diff fails", func(t *testing.T) {
		if _, err := Write(t.Context(), io.Discard, failing{broken}, nil); !errors.Is(err, broken) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(broken)
		if _, err := Write(ctx, io.Discard, memOf(map[string]string{"a": "x"}), nil); !errors.Is(err, broken) {
			t.Errorf("error is %v", err)
		}
	})
}

// failing fails as a Content, a Diff and a writer.
type failing struct{ err error }

func (f failing) Open() (io.ReadCloser, error)            { return nil, f.err }
func (f failing) Lookup(string) (*fsdiff.Entry, error)    { return nil, f.err }
func (f failing) ReadDir(string) ([]*fsdiff.Entry, error) { return nil, f.err }
func (f failing) Write([]byte) (int, error)               { return 0, f.err }

func TestRewriteErrors(t *testing.T) {
	whole := tarOf(t, file("f", strings.Repeat("x", 5000)))
	broken := errors.New("broken")
	for name, data := range map[string][]byte{"cut": whole[:3000], "not a tar": []byte(strings.Repeat("text ", 300))} {
		if err := Rewrite(t.Context(), bytes.NewReader(data), io.Discard, when); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := Rewrite(t.Context(), bytes.NewReader(whole), failing{broken}, when); !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	if err := Rewrite(ctx, bytes.NewReader(whole), io.Discard, when); !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
}

// TestRewriteTimes: what is not after the epoch stays, to the nanosecond.
func TestRewriteTimes(t *testing.T) {
	epoch := time.Unix(1_550_000_000, 0)
	early := time.Unix(1_500_000_000, 500)
	in := tarOf(t,
		entry{tar.Header{Name: "early", ModTime: early}, "x"},
		entry{tar.Header{Name: "late", ModTime: when, AccessTime: when, ChangeTime: early}, "y"},
	)
	var out bytes.Buffer
	if err := Rewrite(t.Context(), bytes.NewReader(append(in, "behind"...)), &out, epoch); err != nil {
		t.Fatal(err)
	}
	tr := tar.NewReader(&out)
	for _, want := range []struct {
		m, a, c time.Time
		data    string
	}{{early, time.Time{}, time.Time{}, "x"}, {epoch, epoch, early, "y"}} {
		hdr, err := tr.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !hdr.ModTime.Equal(want.m) || !hdr.AccessTime.Equal(want.a) || !hdr.ChangeTime.Equal(want.c) {
			t.Errorf("%s has times %v %v %v", hdr.Name, hdr.ModTime, hdr.AccessTime, hdr.ChangeTime)
		}
		if data, err := io.ReadAll(tr); err != nil || string(data) != want.data {
			t.Errorf("%s has %q, %v", hdr.Name, data, err)
		}
	}
}
