package compression

import (
	"bytes"
	stdgzip "compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// text makes n bytes that compress about as well as sources do.
func text(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 4000)
	for i := range words {
		w := make([]byte, 2+r.IntN(9))
		for j := range w {
			w[j] = byte('a' + r.IntN(26))
		}
		words[i] = append(w, ' ')
	}
	var out []byte
	for len(out) < 500_000 { // more than gzip looks back
		out = append(out, words[min(r.IntN(len(words)), r.IntN(len(words)))]...)
	}
	return bytes.Repeat(out, n/len(out)+1)[:n]
}

func compress(t testing.TB, data []byte, c Config, chunk int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, c)
	if err != nil {
		t.Fatal(err)
	}
	for len(data) > 0 {
		n := min(chunk, len(data))
		if _, err := w.Write(data[:n]); err != nil {
			t.Fatal(err)
		}
		data = data[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func configs() []Config {
	return []Config{
		{}, {Level: At(0)}, {Level: At(1)}, {Level: At(6)}, {Level: At(9)}, {Level: At(-1)},
		{Type: Zstd}, {Type: Zstd, Level: At(1)}, {Type: Zstd, Level: At(9)},
		{Type: Uncompressed},
	}
}

func (c Config) name() string {
	if !c.Level.set {
		return c.Type.String()
	}
	return fmt.Sprintf("%s-%d", c.Type, c.Level.n)
}

// blocks returns data of a few blocks or frames of c.
func blocks(c Config) []byte {
	if c.Type == Zstd && !c.Level.set {
		return text(zstdFrame + 7)
	}
	return text(gzipBlock + 7)
}

func TestRoundTrip(t *testing.T) {
	for _, c := range configs() {
		t.Run(c.name(), func(t *testing.T) {
			big := blocks(c)
			for _, n := range []int{0, 1, 3, 4, 1000, aheadBlock, 1 << 20, len(big)} {
				z := compress(t, big[:n], c, 100_000)
				if n > 1000 && c.Type != Uncompressed && c.Level != At(0) && len(z) > n*3/4 {
					t.Errorf("%d bytes compress to %d", n, len(z))
				}
				for how, src := range map[string]io.Reader{"whole": bytes.NewReader(z), "half": iotest.HalfReader(bytes.NewReader(z))} {
					r, err := NewReader(src)
					if err != nil {
						t.Fatal(err)
					}
					if how == "half" {
						r = struct{ io.ReadCloser }{r} // no WriteTo
					}
					var got bytes.Buffer
					if _, err := io.Copy(&got, r); err != nil {
						t.Fatalf("%d bytes, %s: %v", n, how, err)
					}
					if !bytes.Equal(got.Bytes(), big[:n]) {
						t.Fatalf("%d bytes, %s: other bytes come back", n, how)
					}
					if err := r.Close(); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// TestDeterministic holds that the output is a function of the bytes and the
// Config: not of the sizes of writes, the number of cores or reused buffers.
func TestDeterministic(t *testing.T) {
	for _, c := range []Config{{}, {Level: At(1)}, {Level: At(9)}, {Type: Zstd}} {
		t.Run(c.name(), func(t *testing.T) {
			big := blocks(c)
			want := compress(t, big, c, len(big))
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
			for i, chunk := range []int{1 << 20, 512, 70_001} {
				runtime.GOMAXPROCS(1 + i*2)
				if got := compress(t, big, c, chunk); !bytes.Equal(got, want) {
					t.Errorf("writes of %d bytes on %d cores give other bytes", chunk, 1+i*2)
				}
			}
		})
	}
}

// TestOthersRead has the standard tools read what we write.
func TestOthersRead(t *testing.T) {
	big := text(zstdFrame + 9)
	t.Run("compress/gzip", func(t *testing.T) {
		r, err := stdgzip.NewReader(bytes.NewReader(compress(t, big, Config{}, 1<<20)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, big) {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
	})
	for tool, c := range map[string]Config{"gzip": {}, "zstd": {Type: Zstd}} {
		t.Run(tool, func(t *testing.T) {
			if _, err := exec.LookPath(tool); err != nil {
				t.Skip(err)
			}
			cmd := exec.Command(tool, "-dc")
			cmd.Stdin = bytes.NewReader(compress(t, big, c, 1<<20))
			cmd.Stderr = os.Stderr
			if got, err := cmd.Output(); err != nil || !bytes.Equal(got, big) {
				t.Fatalf("read %d bytes, %v", len(got), err)
			}
		})
	}
}

func TestWriterFails(t *testing.T) {
	broken := errors.New("disk full")
	for _, c := range []Config{{}, {Type: Zstd}, {Type: Uncompressed}} {
		t.Run(c.name(), func(t *testing.T) {
			big := text(1 << 20)
			w, err := NewWriter(failAfter{new(int), broken}, c)
			if err != nil {
				t.Fatal(err)
			}
			for range 20 {
				if _, err = w.Write(big); err != nil {
					break
				}
			}
			if closeErr := w.Close(); err == nil {
				err = closeErr
			}
			if !errors.Is(err, broken) {
				t.Fatalf("error is %v, want %v", err, broken)
			}
		})
	}
}

type failAfter struct {
	n   *int
	err error
}

func (f failAfter) Write(p []byte) (int, error) {
	if *f.n += len(p); *f.n > 100_000 {
		return 0, f.err
	}
	return len(p), nil
}

func TestLevels(t *testing.T) {
	for _, l := range []int{-3, 10} {
		if _, err := NewWriter(io.Discard, Config{Level: At(l)}); err == nil {
			t.Errorf("gzip level %d is accepted", l)
		}
	}
	if _, err := NewWriter(io.Discard, Config{Type: 9}); err == nil {
		t.Error("type 9 is accepted")
	}
	data := text(1 << 20)
	if a, b := len(compress(t, data, Config{Type: Zstd, Level: At(1)}, 1<<20)), len(compress(t, data, Config{Type: Zstd, Level: At(19)}, 1<<20)); a <= b {
		t.Errorf("zstd level 1 makes %d bytes, level 19 %d", a, b)
	}
}

func TestNames(t *testing.T) {
	for _, typ := range []Type{Gzip, Zstd, Uncompressed} {
		if got, err := Parse(typ.String()); err != nil || got != typ {
			t.Errorf("parse %q: %v, %v", typ, got, err)
		}
		for _, mt := range []string{typ.MediaType(), typ.DockerMediaType()} {
			if got, err := FromMediaType(mt); err != nil || got != typ {
				t.Errorf("%q: %v, %v", mt, got, err)
			}
			if got, err := OCIMediaType(mt); err != nil || got != typ.MediaType() {
				t.Errorf("%q in OCI: %q, %v", mt, got, err)
			}
			if got, err := ToDockerMediaType(mt); err != nil || got != typ.DockerMediaType() {
				t.Errorf("%q in Docker: %q, %v", mt, got, err)
			}
		}
	}
	if _, err := Parse("estargz"); err == nil || !strings.Contains(err.Error(), "estargz") {
		t.Errorf("parse estargz: %v", err)
	}
	for _, mt := range []string{"", ocispec.MediaTypeImageConfig} {
		if _, err := FromMediaType(mt); err == nil {
			t.Errorf("%q is accepted as a layer", mt)
		}
	}
	//nolint:staticcheck // old images have them
	for mt, want := range map[string]string{
		ocispec.MediaTypeImageLayerNonDistributableGzip: dockerLayerForeignGzip,
		ocispec.MediaTypeImageLayerNonDistributable:     dockerLayerForeign,
		ocispec.MediaTypeImageLayerNonDistributableZstd: "",
	} {
		if got, err := ToDockerMediaType(mt); got != want || (err == nil) != (want != "") {
			t.Errorf("%q in Docker: %q, %v", mt, got, err)
		}
	}
}

func BenchmarkWriter(b *testing.B) {
	data := text(64 << 20)
	for _, c := range []Config{{}, {Type: Zstd}} {
		b.Run(c.name(), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				w, err := NewWriter(io.Discard, c)
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(w, bytes.NewReader(data))
				w.Close()
			}
		})
	}
}

func BenchmarkReader(b *testing.B) {
	data := text(64 << 20)
	for _, c := range []Config{{}, {Type: Zstd}} {
		z := compress(b, data, c, 1<<20)
		b.Run(c.name(), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				r, err := NewReader(bytes.NewReader(z))
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, r)
				r.Close()
			}
		})
	}
}
