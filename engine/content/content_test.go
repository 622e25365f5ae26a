package content

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(filepath.Join(dir, "blobs"), filepath.Join(dir, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func descOf(data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func wantEmptyTmp(t *testing.T, s *Store) {
	t.Helper()
	left, err := os.ReadDir(s.tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("left in tmp: %s", e.Name())
	}
}

func TestWriterCommit(t *testing.T) {
	s := newStore(t)
	data := []byte("some bytes of a layer")
	for _, size := range []int64{0, -1} { // the second finds the blob there
		w, err := s.Writer()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data[:4]); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data[4:]); err != nil {
			t.Fatal(err)
		}
		got, err := w.Commit("", size)
		if err != nil {
			t.Fatal(err)
		}
		if want := descOf(data); got.Digest != want.Digest || got.Size != want.Size {
			t.Fatalf("commit gave %v, want %v", got, want)
		}
		if err := w.Abort(); err != nil {
			t.Fatalf("abort after commit: %v", err)
		}
		if _, err := w.Write(data); err == nil {
			t.Fatal("write after commit succeeded")
		}
	}
	b, err := s.Open(descOf(data))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("read %q, %v", got, err)
	}
	at := make([]byte, 5)
	if _, err := b.ReadAt(at, 5); err != nil || string(at) != "bytes" {
		t.Fatalf("read at 5: %q, %v", at, err)
	}
	wantEmptyTmp(t, s)
}

func TestCommitOfOtherBytesLeavesNothing(t *testing.T) {
	data, other := []byte("right"), []byte("wrong")
	for name, commit := range map[string]func(*Writer) error{
		"digest": func(w *Writer) error { _, err := w.Commit(digest.FromBytes(other), 5); return err },
		"size":   func(w *Writer) error { _, err := w.Commit(digest.FromBytes(data), 6); return err },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			w, err := s.Writer()
			if err != nil {
				t.Fatal(err)
			}
			w.Write(data)
			err = commit(w)
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("error is %v, want ErrCorrupt", err)
			}
			if name == "digest" {
				for _, d := range [][]byte{data, other} {
					if !strings.Contains(err.Error(), digest.FromBytes(d).String()) {
						t.Errorf("error %q does not name %s", err, digest.FromBytes(d))
					}
				}
			}
			if s.Has(descOf(data)) || s.Has(descOf(other)) {
				t.Error("the store holds a blob")
			}
			wantEmptyTmp(t, s)
		})
	}
}

func TestOpen(t *testing.T) {
	data := []byte("hello")
	for _, tc := range []struct {
		name    string
		onDisk  []byte // nil: no file
		desc    ocispec.Descriptor
		want    error
		removed bool
	}{
		{"whole", data, descOf(data), nil, false},
		{"size not known", data, ocispec.Descriptor{Digest: digest.FromBytes(data)}, nil, false},
		{"absent", nil, descOf(data), ErrNotFound, true},
		{"truncated", data[:3], descOf(data), ErrNotFound, true},
		{"too long", append(data[:5:5], 'x'), descOf(data), ErrNotFound, true},
		{"emptied, size not known", []byte{}, ocispec.Descriptor{Digest: digest.FromBytes(data)}, ErrNotFound, true},
		{"no bytes", []byte{}, descOf(nil), nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore(t)
			name, err := s.path(tc.desc.Digest)
			if err != nil {
				t.Fatal(err)
			}
			if tc.onDisk != nil {
				if err := os.WriteFile(name, tc.onDisk, 0o444); err != nil {
					t.Fatal(err)
				}
			}
			if got := s.Has(tc.desc); got != (tc.want == nil) {
				t.Errorf("has: %v", got)
			}
			b, err := s.Open(tc.desc)
			if !errors.Is(err, tc.want) {
				t.Fatalf("error is %v, want %v", err, tc.want)
			}
			if err == nil {
				if b.Size() != int64(len(tc.onDisk)) {
					t.Errorf("size %d, want %d", b.Size(), len(tc.onDisk))
				}
				b.Close()
			}
			if _, err := os.Lstat(name); (err != nil) != tc.removed {
				t.Errorf("after open: lstat says %v", err)
			}
		})
	}
}

func TestDigestsThatAreNone(t *testing.T) {
	s := newStore(t)
	for _, d := range []digest.Digest{"", "sha256:../../../etc/passwd", "sha256:abc", "../x:abc", "md5:" + digest.Digest(strings.Repeat("0", 32))} {
		desc := ocispec.Descriptor{Digest: d}
		if s.Has(desc) {
			t.Errorf("has %q", d)
		}
		if _, err := s.Open(desc); err == nil {
			t.Errorf("open %q succeeded", d)
		}
		if err := s.Remove(d); err == nil {
			t.Errorf("remove %q succeeded", d)
		}
		if err := s.Ingest(t.Context(), desc, strings.NewReader("x")); err == nil {
			t.Errorf("ingest %q succeeded", d)
		}
		if _, err := io.ReadAll(Verify(strings.NewReader("x"), desc)); err == nil {
			t.Errorf("verify %q succeeded", d)
		}
	}
}

func TestIngest(t *testing.T) {
	big := make([]byte, copyBuffer*2+17)
	rand.Read(big)
	desc := descOf(big)
	sha512 := ocispec.Descriptor{Digest: digest.SHA512.FromBytes(big), Size: desc.Size}
	broken := errors.New("connection reset")
	canceled, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	for _, tc := range []struct {
		name string
		ctx  context.Context
		desc ocispec.Descriptor
		r    io.Reader
		want error
	}{
		{"whole", t.Context(), desc, bytes.NewReader(big), nil},
		{"odd reads", t.Context(), desc, iotest.DataErrReader(iotest.HalfReader(bytes.NewReader(big))), nil},
		{"size not known", t.Context(), ocispec.Descriptor{Digest: desc.Digest}, bytes.NewReader(big), nil},
		{"sha512", t.Context(), sha512, bytes.NewReader(big), nil},
		{"short", t.Context(), desc, bytes.NewReader(big[1:]), ErrCorrupt},
		{"long", t.Context(), desc, io.MultiReader(bytes.NewReader(big), strings.NewReader("x")), ErrCorrupt},
		{"flipped", t.Context(), descOf(big[1:]), bytes.NewReader(big[:len(big)-1]), ErrCorrupt},
		{"reader fails", t.Context(), desc, io.MultiReader(bytes.NewReader(big[:9]), iotest.ErrReader(broken)), broken},
		{"canceled", canceled, desc, bytes.NewReader(big), stop},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore(t)
			err := s.Ingest(tc.ctx, tc.desc, tc.r)
			if !errors.Is(err, tc.want) {
				t.Fatalf("error is %v, want %v", err, tc.want)
			}
			if got := s.Has(tc.desc); got != (tc.want == nil) {
				t.Errorf("has: %v", got)
			}
			wantEmptyTmp(t, s)
			if tc.want == nil {
				if err := s.Ingest(tc.ctx, tc.desc, iotest.ErrReader(broken)); err != nil {
					t.Errorf("ingest of a blob that is there: %v", err)
				}
				if got, err := s.ReadAll(tc.desc); err != nil || !bytes.Equal(got, big) {
					t.Errorf("read back %d bytes, %v", len(got), err)
				}
			}
		})
	}
}

func TestReadAllOfChangedBytes(t *testing.T) {
	s := newStore(t)
	desc := descOf([]byte("hello"))
	name, _ := s.path(desc.Digest)
	if err := os.WriteFile(name, []byte("hellO"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadAll(desc); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("error is %v, want ErrCorrupt", err)
	}
	if s.Has(desc) {
		t.Error("the corrupt blob is still there")
	}
}

func TestWalkTouchRemove(t *testing.T) {
	s := newStore(t)
	var descs []ocispec.Descriptor
	for _, data := range []string{"a", "bb", "ccc"} {
		desc := descOf([]byte(data))
		if err := s.Ingest(t.Context(), desc, strings.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		descs = append(descs, desc)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "sha256", "README"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	s.now = func() time.Time { return start.Add(5 * time.Hour) }
	b, err := s.Open(descs[1])
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	seen := make(map[digest.Digest]Info)
	if err := s.Walk(func(i Info) error { seen[i.Digest] = i; return nil }); err != nil {
		t.Fatal(err)
	}
	if len(seen) != len(descs) {
		t.Errorf("walk saw %v", seen)
	}
	for i, desc := range descs {
		if seen[desc.Digest].Size != desc.Size {
			t.Errorf("%s: size %d, want %d", desc.Digest, seen[desc.Digest].Size, desc.Size)
		}
		if used := seen[desc.Digest].LastUsed.After(start.Add(time.Hour)); used != (i == 1) {
			t.Errorf("%s: last used %v", desc.Digest, seen[desc.Digest].LastUsed)
		}
	}
	stop := errors.New("stop")
	if err := s.Walk(func(Info) error { return stop }); err != stop {
		t.Errorf("walk returned %v", err)
	}
	for range 2 {
		if err := s.Remove(descs[0].Digest); err != nil {
			t.Fatal(err)
		}
	}
	if s.Has(descs[0]) {
		t.Error("removed blob is there")
	}
}

func TestManyWritersOfOneBlob(t *testing.T) {
	s := newStore(t)
	data := make([]byte, 1<<20)
	rand.Read(data)
	desc := descOf(data)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if err := s.Ingest(context.Background(), desc, iotest.HalfReader(bytes.NewReader(data))); err != nil {
				t.Error(err)
			}
			if got, err := s.ReadAll(desc); err != nil || !bytes.Equal(got, data) {
				t.Errorf("read back %d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	wantEmptyTmp(t, s)
}

// TestKill kills a process in the middle of writing: the store then has whole
// blobs only, and whatever was left is in tmp.
func TestKill(t *testing.T) {
	if dir := os.Getenv("CONTENT_TEST_DIR"); dir != "" {
		writeForever(dir)
	}
	dir := t.TempDir()
	s, err := Open(filepath.Join(dir, "blobs"), filepath.Join(dir, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "CONTENT_TEST_DIR="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(150+i*37) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
	}
	blobs := 0
	err = s.Walk(func(i Info) error {
		blobs++
		_, err := s.ReadAll(ocispec.Descriptor{Digest: i.Digest, Size: i.Size})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if blobs == 0 {
		t.Fatal("no blob was written: the test is too fast for this machine")
	}
}

func writeForever(dir string) {
	s, err := Open(filepath.Join(dir, "blobs"), filepath.Join(dir, "tmp"))
	for err == nil {
		data := make([]byte, 300<<10)
		rand.Read(data)
		err = s.Ingest(context.Background(), descOf(data), iotest.HalfReader(bytes.NewReader(data)))
	}
	panic(err)
}
