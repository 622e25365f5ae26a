package report

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// maxLine bounds what is kept of a line that has not ended, in bytes. None
	// of a longer one is shown: a secret whose end is cut off is not found.
	maxLine   = 64 << 10
	shownLine = 4 << 10 // bytes
	logBytes  = 4 << 20 // default of Config.LogBytes

	headShare = 4 // one of so many parts of a log that is cut is its beginning
)

// A line is a line of a log.
type line struct {
	at   time.Time
	text string
}

// A stepLog is the output of a step. What stands between head and tail was
// left out.
type stepLog struct {
	head, tail []line
	size       int // bytes of both
	lines      int // in all
	left       int // of them, left out

	open   []byte // of the line that has not ended
	openAt time.Time
	over   int // bytes that open has not
}

// write takes output; it may end within a line. It returns the bytes that the
// log has grown by.
func (l *stepLog) write(data []byte, at time.Time) (grown int) {
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		part := data
		if end >= 0 {
			part = data[:end]
		}
		if len(l.open) == 0 {
			l.openAt = at
		}
		room := min(len(part), maxLine-len(l.open))
		l.open = append(l.open, part[:room]...)
		l.over += len(part) - room
		if end < 0 {
			break
		}
		grown += l.end()
		data = data[end+1:]
	}
	return grown
}

// end ends the open line.
func (l *stepLog) end() (grown int) {
	text := string(l.open)
	if l.over > 0 {
		text = fmt.Sprintf("(a line of %d KiB is left out)", (len(l.open)+l.over)>>10)
	}
	l.tail = append(l.tail, line{l.openAt, text})
	l.open, l.over = l.open[:0], 0
	l.lines++
	l.size += cost(text)
	return cost(text)
}

// close ends a line that nothing follows any more.
func (l *stepLog) close() {
	if len(l.open) > 0 {
		l.end()
	}
}

// cost is what a line takes of what a log may have.
func cost(text string) int { return len(text) + 1 }

// cut leaves out lines in the middle until the log has no more than limit
// bytes, and returns by how many it has shrunk.
func (l *stepLog) cut(limit int) (shrunk int) {
	if l.size <= limit {
		return 0
	}
	before, all := l.size, slices.Concat(l.head, l.tail)
	from, size := 0, 0
	for from < len(all) && size+cost(all[from].text) <= limit/headShare {
		size += cost(all[from].text)
		from++
	}
	if l.left > 0 && from > len(l.head) {
		// What was left out stays between head and tail.
		for from > len(l.head) {
			from--
			size -= cost(all[from].text)
		}
	}
	to := len(all)
	for to > from && size+cost(all[to-1].text) <= limit {
		to--
		size += cost(all[to].text)
	}
	l.left += to - from
	l.head, l.tail = slices.Clone(all[:from]), slices.Clone(all[to:])
	l.size = size
	return before - size
}

// fit cuts the longest of logs until all of them have no more than limit
// bytes. Those that are kept stay whole, unless they alone have more.
func fit(logs []*stepLog, limit int, keep *stepLog) {
	if keep != nil {
		keep.cut(limit)
		limit -= keep.size
	}
	others := slices.DeleteFunc(slices.Clone(logs), func(l *stepLog) bool { return l == keep })
	slices.SortFunc(others, func(a, b *stepLog) int { return a.size - b.size })
	for i, l := range others {
		// What the shorter ones do not need, the longer ones may have.
		l.cut(limit / (len(others) - i))
		limit -= l.size
	}
}

// chunks returns the lines, made fit to be seen, and how many there are with
// those that were left out.
func (l *stepLog) chunks(redact func(string) string, began time.Time) (out []logChunk, lines int) {
	for _, part := range []struct {
		lines   []line
		missing int
	}{{l.head, 0}, {l.tail, l.left}} {
		shown := present(part.lines, redact)
		lines += part.missing
		if len(shown) == 0 && part.missing == 0 {
			continue
		}
		out = append(out, newChunk(shown, part.missing, lines+1, began))
		lines += len(shown)
	}
	return out, lines
}

func newChunk(lines []line, missing, from int, began time.Time) logChunk {
	texts, times := make([]string, len(lines)), make([]string, len(lines))
	for i, l := range lines {
		texts[i] = l.text
		times[i] = strconv.FormatInt(max(0, l.at.Sub(began).Milliseconds()), 10)
	}
	return logChunk{Missing: missing, From: from, Text: strings.Join(texts, "\n"), Times: strings.Join(times, " "), lines: lines}
}

// present redacts lines together, since a secret may have several, and cuts
// those that are long.
func present(in []line, redact func(string) string) []line {
	if len(in) == 0 {
		return nil
	}
	texts := make([]string, len(in))
	for i, l := range in {
		texts[i] = plain(l.text)
	}
	out := strings.Split(redact(strings.Join(texts, "\n")), "\n")
	lines := make([]line, len(out))
	for i, j := range positions(texts, out) {
		text := out[i]
		if len(text) > shownLine {
			text = strings.ToValidUTF8(text[:shownLine], "") + "…"
		}
		lines[i] = line{in[j].at, text}
	}
	return lines
}

// nearby is how far, in lines, the same line is looked for.
const nearby = 64

// positions says for each line of out where it, or what stands in its place,
// is in the text that out was made of.
func positions(in, out []string) []int {
	at := make([]int, len(out))
	next := 0
	for i, text := range out {
		if len(out) == len(in) {
			at[i] = i
			continue
		}
		// A secret of several lines has become one.
		at[i] = min(next, len(in)-1)
		if j := slices.Index(in[at[i]:min(at[i]+nearby, len(in))], text); j >= 0 {
			at[i] += j
			next = at[i] + 1
		}
	}
	return at
}

// plain returns a line as it stands on a terminal in the end, without colours:
// what a carriage return overwrites is not to be seen.
func plain(s string) string {
	s = strings.TrimRight(s, "\r")
	if i := strings.LastIndexByte(s, '\r'); i >= 0 {
		s = s[i+1:]
	}
	if !strings.ContainsFunc(s, func(r rune) bool { return r != '\t' && !unicode.IsPrint(r) }) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if n := escape(s[i:]); n > 0 {
			i += n
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		switch {
		case r == '\b':
		case r == '\t' || unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteRune(utf8.RuneError)
		}
	}
	return b.String()
}

// escape returns the length of the terminal's control sequence that s begins
// with; 0 for none.
func escape(s string) int {
	if len(s) < 2 || s[0] != 0x1b {
		return 0
	}
	switch s[1] {
	case '[': // parameters, then a letter
		for i := 2; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
		}
		return len(s)
	case ']': // a title or a link, up to BEL or ESC \
		for i := 2; i < len(s); i++ {
			if s[i] == 0x07 {
				return i + 1
			}
			if s[i] == 0x1b {
				return min(i+2, len(s))
			}
		}
		return len(s)
	}
	return 2
}
