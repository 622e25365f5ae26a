// Package data makes the files of the benchmarks' workloads.
//
//	bench (contexts), bench/gen (RUN steps) ──Tree──▶ data ──▶ files
//
// Equal arguments give equal files on every machine: names, sizes, modes and
// bytes. Times are whatever the clock says.
package data

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// A Mix says what is in the files.
type Mix string

// The mixes: words that gzip to about a third; bytes that do not compress;
// every second file, or every second MiB of a larger one, of either; zeros.
const (
	Text   Mix = "text"
	Random Mix = "random"
	Half   Mix = "half"
	Zero   Mix = "zero"
)

// A Tree is a set of files, 100 to a directory, two directories deep.
type Tree struct {
	Seed  uint64
	Files int
	Size  int64 // bytes of all files together; about, when Exp is set
	Mix   Mix   // "" means Text
	Exp   bool  // sizes are exponentially distributed, as in source trees; otherwise all are equal
}

const (
	perDir = 100     // files in a directory
	chunk  = 1 << 20 // bytes made and written at once
)

// Write makes the files below dir.
func (t Tree) Write(dir string) error {
	switch t.Mix {
	case "", Text, Random, Half, Zero:
	default:
		return fmt.Errorf("make files: mix %q is none of text, random, half, zero", t.Mix)
	}
	if t.Files < 1 || t.Size < 0 {
		return fmt.Errorf("make files: %d files of %d bytes", t.Files, t.Size)
	}
	s := newSource(t.Seed)
	average := float64(t.Size) / float64(t.Files)
	for i := range t.Files {
		n := int64(average)
		if t.Exp {
			n = int64(-math.Log(1-s.r.Float64()) * average)
		}
		d := filepath.Join(dir, fmt.Sprintf("d%02d", i/perDir%20), fmt.Sprintf("e%04d", i/perDir))
		if i%perDir == 0 {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		if err := t.writeFile(s, filepath.Join(d, fmt.Sprintf("f%06d.js", i)), i, n); err != nil {
			return err
		}
	}
	return nil
}

func (t Tree) writeFile(s *source, path string, i int, n int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	for off := int64(0); off < n; off += chunk {
		part := int(min(n-off, chunk))
		if _, err := f.Write(s.bytes(t.kind(i, off, n), part)); err != nil {
			f.Close()
			return err
		}
	}
	return f.Close()
}

// kind says what file i has at off.
func (t Tree) kind(i int, off, size int64) Mix {
	switch {
	case t.Mix == "":
		return Text
	case t.Mix != Half:
		return t.Mix
	case size <= chunk && i%2 == 1, size > chunk && off/chunk%2 == 1:
		return Random
	}
	return Text
}

// A source makes bytes.
type source struct {
	r     *rand.Rand
	words []string
	buf   []byte
}

func newSource(seed uint64) *source {
	s := &source{r: rand.New(rand.NewPCG(seed, 42))}
	for range 4096 {
		w := make([]byte, 3+s.r.IntN(8))
		for i := range w {
			w[i] = byte('a' + s.r.IntN(26))
		}
		s.words = append(s.words, string(w))
	}
	return s
}

// bytes returns n bytes that are valid until the next call.
func (s *source) bytes(kind Mix, n int) []byte {
	b := s.buf[:0]
	switch kind {
	case Zero:
		b = append(b, make([]byte, n)...)
	case Random:
		for len(b) < n {
			v := s.r.Uint64()
			for shift := 0; shift < 64; shift += 8 {
				b = append(b, byte(v>>shift))
			}
		}
	default:
		for column := 0; len(b) < n; {
			// The product of two uniform numbers favours the first words,
			// which gives text the redundancy of text.
			v := s.r.Uint64()
			w := s.words[(v&0xffff)*(v>>16&0xffff)>>16*uint64(len(s.words))>>16]
			b = append(b, w...)
			sep := byte(' ')
			if column += len(w) + 1; column > 72 {
				sep, column = '\n', 0
			}
			b = append(b, sep)
		}
	}
	s.buf = b
	return b[:n]
}
