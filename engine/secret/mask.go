package secret

import (
	"bytes"
	"cmp"
	"io"
	"slices"
	"sync"
)

const (
	minValue = 4 // bytes of a value that is masked: what is shorter is found in any text
	minLine  = 8 // bytes of a line of a value of several
)

// masked stands where a value stood.
var masked = []byte("***")

// Words returns what must not be shown of secret values, the longer first: each
// value without the white space around it and, when it has several lines, each
// of them. Values of less than 4 bytes, and lines of less than 8, are not among
// them: they are found in any text.
func Words(values ...[]byte) [][]byte {
	var words [][]byte
	add := func(word []byte, least int) {
		word = bytes.TrimSpace(word)
		if len(word) >= least && !slices.ContainsFunc(words, func(w []byte) bool { return bytes.Equal(w, word) }) {
			words = append(words, bytes.Clone(word))
		}
	}
	for _, v := range values {
		add(v, minValue)
		for line := range bytes.Lines(v) {
			add(line, minLine)
		}
	}
	slices.SortStableFunc(words, func(a, b []byte) int { return cmp.Compare(len(b), len(a)) }) // one may be part of another
	return words
}

// Mask returns a writer that gives w what is written, with *** in place of the
// values (see Words), also where a value is written in parts. What may be the
// beginning of a value is held back until it is clear whether it is; Close gives
// it to w, and does not close w. The writer may be used by several goroutines.
func Mask(w io.Writer, values ...[]byte) io.WriteCloser {
	return &mask{w: w, words: Words(values...)}
}

type mask struct {
	w     io.Writer
	words [][]byte

	mu   sync.Mutex
	held []byte // the beginning of a word, guarded by mu
}

func (m *mask) Write(p []byte) (int, error) {
	if len(m.words) == 0 {
		return m.w.Write(p)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	data := append(m.held, p...)
	keep := m.beginning(data)
	// What is held back may begin in the middle of a word that is whole.
	out, rest := m.replace(data, len(data)-keep)
	m.held = bytes.Clone(rest)
	if len(out) > 0 {
		if _, err := m.w.Write(out); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// replace masks the words that begin in data[:end], and returns what is behind
// them and end.
func (m *mask) replace(data []byte, end int) (out, rest []byte) {
	for {
		at, word := m.first(data)
		if word == nil || at >= end {
			return append(out, data[:max(end, 0)]...), data[max(end, 0):]
		}
		out = append(append(out, data[:at]...), masked...)
		data, end = data[at+len(word):], end-at-len(word)
	}
}

// first returns the first word in data and where it is; of two at one place the
// longer.
func (m *mask) first(data []byte) (at int, word []byte) {
	for _, w := range m.words {
		if i := bytes.Index(data, w); i >= 0 && (word == nil || i < at) {
			at, word = i, w
		}
	}
	return at, word
}

// beginning returns how many bytes at the end of data may begin a word.
func (m *mask) beginning(data []byte) int {
	most := 0
	for _, w := range m.words {
		for n := min(len(w)-1, len(data)); n > most; n-- {
			if bytes.HasPrefix(w, data[len(data)-n:]) {
				most = n
				break
			}
		}
	}
	return most
}

func (m *mask) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	out, _ := m.replace(m.held, len(m.held))
	m.held = nil
	if len(out) == 0 {
		return nil
	}
	_, err := m.w.Write(out)
	return err
}
