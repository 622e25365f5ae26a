package treestore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/remotecache"
)

var testName = Name{ID: "/go-build", Platform: "linux/amd64"}

// A dirT is a directory under test, with a place for packs beside it.
type dirT struct {
	*testing.T
	path, tmp string
}

func newDir(t *testing.T) *dirT {
	t.Helper()
	d := &dirT{t, filepath.Join(t.TempDir(), "d"), t.TempDir()}
	must(t, os.Mkdir(d.path, 0o755))
	return d
}

// newDirIn returns a directory below base; in memory, for many files, when
// that is "" and there is such a file system.
func newDirIn(t *testing.T, base string) *dirT {
	t.Helper()
	const shm = "/dev/shm"
	if base == "" {
		if unix.Access(shm, unix.W_OK) != nil {
			return newDir(t)
		}
		base = shm
	}
	path, err := os.MkdirTemp(base, "treestore-test-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(path)) })
	return &dirT{t, path, t.TempDir()}
}

// write writes files, each name and content.
func (d *dirT) write(files ...string) {
	d.Helper()
	for i := 0; i < len(files); i += 2 {
		p := filepath.Join(d.path, files[i])
		must(d.T, os.MkdirAll(filepath.Dir(p), 0o755))
		must(d.T, os.WriteFile(p, []byte(files[i+1]), 0o644))
	}
}

func (d *dirT) read(name string) string {
	d.Helper()
	data, err := os.ReadFile(filepath.Join(d.path, name))
	must(d.T, err)
	return string(data)
}

func (d *dirT) names() []string {
	d.Helper()
	list, err := os.ReadDir(d.path)
	must(d.T, err)
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

// age makes a file as if it had been written a while ago: the change time,
// which nobody can set, aside.
func (d *dirT) age(name string, by time.Duration) {
	d.Helper()
	at := time.Now().Add(-by)
	must(d.T, os.Chtimes(filepath.Join(d.path, name), at, at))
}

func (d *dirT) save(b remotecache.Backend, opts SaveOptions) (*Known, Stats, error) {
	opts.Tmp = d.tmp
	return Save(d.Context(), b, "main", testName, d.path, opts)
}

func (d *dirT) mustSave(b remotecache.Backend, opts SaveOptions) (*Known, Stats) {
	d.Helper()
	k, s, err := d.save(b, opts)
	must(d.T, err)
	if left := (&dirT{d.T, d.tmp, ""}).names(); len(left) > 0 {
		d.Errorf("left in the temporary directory: %q", left)
	}
	return k, s
}

func (d *dirT) load(b remotecache.Backend, opts LoadOptions) (*Known, Stats, error) {
	return Load(d.Context(), b, "main", testName, d.path, opts)
}

func (d *dirT) mustLoad(b remotecache.Backend) (*Known, Stats) {
	d.Helper()
	k, s, err := d.load(b, LoadOptions{})
	must(d.T, err)
	return k, s
}

// same wants another directory to be the same one.
func (d *dirT) same(other *dirT) {
	d.Helper()
	a, b := d.describe(), other.describe()
	for p := range a {
		if a[p] != b[p] {
			d.Errorf("%q is\n%s\nand was\n%s", p, b[p], a[p])
		}
	}
	for p := range b {
		if _, ok := a[p]; !ok {
			d.Errorf("%q was not there", p)
		}
	}
}

// describe says all of every object, found without the code under test.
func (d *dirT) describe() map[string]string {
	d.Helper()
	out := map[string]string{}
	inodes := map[uint64]string{}
	err := filepath.Walk(d.path, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(d.path, path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		text := fmt.Sprintf("%o %d:%d %d.%09d dev %d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, st.Rdev)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d bytes %x", len(data), sumBytes(data))
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " -> " + to
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if inodes[st.Ino] == "" {
				inodes[st.Ino] = rel
			}
			text += " links to " + inodes[st.Ino]
		}
		buf := make([]byte, 4096)
		if n, err := unix.Llistxattr(path, buf); err == nil {
			names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
			slices.Sort(names)
			for _, name := range names {
				v := make([]byte, 4096)
				if n, err := unix.Lgetxattr(path, name, v); err == nil {
					text += fmt.Sprintf(" %s=%q", name, v[:n])
				}
			}
		}
		out[rel] = text
		return nil
	})
	must(d.T, err)
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A spy counts what goes to a backend, and fails where it is told to.
type spy struct {
	remotecache.Backend
	mu     sync.Mutex
	blobs  []ocispec.Descriptor // put
	bytes  int64                // of them
	put    func(ocispec.Descriptor) error
	saving func()
	saves  int // of an Index
}

func (s *spy) Put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.put != nil {
		if err := s.put(blob); err != nil {
			return err
		}
	}
	s.blobs, s.bytes = append(s.blobs, blob), s.bytes+blob.Size
	return s.Backend.Put(ctx, blob, src)
}

func (s *spy) SaveIndex(ctx context.Context, ref string, idx *remotecache.Index) error {
	s.saves++
	if s.saving != nil {
		s.saving()
	}
	return s.Backend.SaveIndex(ctx, ref, idx)
}

// stored returns what a backend has for testName.
func stored(t *testing.T, b remotecache.Backend) (*tree, *remotecache.Index) {
	t.Helper()
	tr, idx, err := readTree(t.Context(), b, Ref("main", testName), nil)
	must(t, err)
	return tr, idx
}

func (b *lying) Open(ctx context.Context, blob ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	r, err := b.Backend.Open(ctx, blob, off)
	if err != nil || blob.MediaType != b.kind {
		return r, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	return io.NopCloser(bytes.NewReader(b.damage(data))), err
}
