package compression

import (
	"bytes"
	stdgzip "compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
)

func TestReaderOfManyMembers(t *testing.T) {
	for _, c := range []Config{{}, {Type: Zstd}} {
		t.Run(c.name(), func(t *testing.T) {
			z := append(compress(t, []byte("one "), c, 9), compress(t, []byte("two"), c, 9)...)
			if c.Type == Zstd { // skippable frames, one of them first
				skip := []byte{0x52, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'}
				z = append(append(skip, z...), skip...)
			}
			r, err := NewReader(bytes.NewReader(z))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || string(got) != "one two" {
				t.Fatalf("read %q, %v", got, err)
			}
		})
	}
}

// TestReaderOfMixedMembers has members of ours before and after one that is
// not, an empty one of ours many times, and one with an extra field of others.
func TestReaderOfMixedMembers(t *testing.T) {
	data := text(3*gzipBlock + 5)
	ours := compress(t, data, Config{}, len(data))
	var foreign bytes.Buffer
	w := stdgzip.NewWriter(&foreign)
	w.Extra = []byte{'B', 'C', 2, 0, 7, 0}
	w.Write([]byte("foreign"))
	w.Close()
	empty := bytes.Repeat(compress(t, nil, Config{}, 1), 100)
	for name, tc := range map[string]struct {
		z    []byte
		want string
	}{
		"ours, foreign, ours": {slices.Concat(ours, foreign.Bytes(), ours), string(data) + "foreign" + string(data)},
		"foreign, ours":       {slices.Concat(foreign.Bytes(), ours), "foreign" + string(data)},
		"empty ones":          {slices.Concat(empty, ours, empty), string(data)},
	} {
		r, err := NewReader(bytes.NewReader(tc.z))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != tc.want {
			t.Errorf("%s: read %d bytes, %v", name, len(got), err)
		}
		r.Close()
	}
}

// TestReaderOfBrokenMembers has members whose header or trailer is wrong.
func TestReaderOfBrokenMembers(t *testing.T) {
	data := text(gzipBlock + 100)
	z := compress(t, data, Config{}, len(data))
	first := memberSize(z)
	if first == 0 || memberSize(z[first:]) != len(z)-first {
		t.Fatalf("members of %d and %d bytes, together %d", first, memberSize(z[first:]), len(z))
	}
	for name, spoil := range map[string]func(z []byte){
		"checksum":           func(z []byte) { z[first-5]++ },
		"size":               func(z []byte) { z[first-4]-- },
		"size of the last":   func(z []byte) { z[len(z)-4]++ },
		"huge size":          func(z []byte) { z[first-1] = 0xff },
		"length too long":    func(z []byte) { z[memberHeader-4]++ },
		"length too short":   func(z []byte) { z[memberHeader-4]-- },
		"length beyond end":  func(z []byte) { z[first+memberHeader-4]++ },
		"deflate":            func(z []byte) { z[memberHeader+10] ^= 0xff },
		"header of the last": func(z []byte) { z[first] = 0 },
	} {
		bad := bytes.Clone(z)
		spoil(bad)
		r, err := NewReader(bytes.NewReader(bad))
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			r.Close()
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzReader holds that what is decompressed without an error is what the
// standard library makes of it.
func FuzzReader(f *testing.F) {
	for _, c := range []Config{{}, {Level: At(0)}, {Type: Zstd}} {
		f.Add(compress(f, text(3000), c, 100))
		f.Add(append(compress(f, []byte("one"), c, 9), compress(f, []byte("two"), c, 9)...))
	}
	f.Fuzz(func(t *testing.T, z []byte) {
		r, err := NewReader(bytes.NewReader(z))
		if err != nil {
			return
		}
		defer r.Close()
		got, err := io.ReadAll(io.LimitReader(r, 64<<20))
		if err != nil || Detect(z) != Gzip {
			return
		}
		std, err := stdgzip.NewReader(bytes.NewReader(z))
		if err != nil {
			t.Fatalf("compress/gzip: %v", err)
		}
		want, err := io.ReadAll(io.LimitReader(std, 64<<20))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, compress/gzip has %d and says %v", len(got), len(want), err)
		}
	})
}

func TestReaderOfBrokenStreams(t *testing.T) {
	big := text(1 << 20)
	broken := errors.New("connection reset")
	for _, c := range []Config{{}, {Type: Zstd}} {
		z := compress(t, big, c, len(big))
		for _, tc := range []struct {
			name string
			r    io.Reader
			want error
		}{
			{"cut off", bytes.NewReader(z[:len(z)/2]), io.ErrUnexpectedEOF},
			{"last byte missing", bytes.NewReader(z[:len(z)-1]), io.ErrUnexpectedEOF},
			{"only magic", bytes.NewReader(z[:4]), io.ErrUnexpectedEOF},
			{"source fails", io.MultiReader(bytes.NewReader(z[:len(z)/2]), iotest.ErrReader(broken)), broken},
			{"bytes changed", bytes.NewReader(append(append(bytes.Clone(z[:len(z)/2]), 1, 2, 3, 4, 5, 6, 7), z[len(z)/2:]...)), nil},
		} {
			t.Run(c.name()+"/"+tc.name, func(t *testing.T) {
				r, err := NewReader(tc.r)
				if err == nil {
					defer r.Close()
					_, err = io.Copy(io.Discard, r)
				}
				if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
					t.Fatalf("error is %v, want %v", err, tc.want)
				}
				if !strings.Contains(err.Error(), c.Type.String()) {
					t.Errorf("error %q does not say that it is about %s", err, c.Type)
				}
			})
		}
	}
	if _, err := NewReader(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("error is %v, want %v", err, broken)
	}
}

func TestReaderClosedEarly(t *testing.T) {
	for _, c := range []Config{{}, {Type: Zstd}} {
		z := compress(t, text(3<<20), c, 1<<20)
		r, err := NewReader(bytes.NewReader(z))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.Read(make([]byte, 100)); err == nil {
			t.Error("read after close succeeded")
		}
	}
}

// TestHugeWindow holds that a stream cannot make us allocate without bound.
func TestHugeWindow(t *testing.T) {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(512<<20))
	if err != nil {
		t.Fatal(err)
	}
	io.CopyN(w, rand.NewChaCha8([32]byte{}), 3<<20)
	w.Close()
	r, err := NewReader(&out)
	if err == nil {
		defer r.Close()
		_, err = io.Copy(io.Discard, r)
	}
	if !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Fatalf("error is %v, want %v", err, zstd.ErrWindowSizeExceeded)
	}
}
