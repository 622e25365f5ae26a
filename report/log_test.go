package report

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var began = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func at(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }

func same(s string) string { return s }

// shown returns the lines of a log with their numbers and times.
func shown(l *stepLog, redact func(string) string) (out []string) {
	chunks, _ := l.chunks(redact, began)
	for _, c := range chunks {
		if c.Missing > 0 {
			out = append(out, fmt.Sprintf("(%d)", c.Missing))
		}
		times := strings.Fields(c.Times)
		for i, text := range strings.Split(c.Text, "\n") {
			out = append(out, fmt.Sprintf("%d %s %s", c.From+i, times[i], text))
		}
	}
	return out
}

func TestLog(t *testing.T) {
	long := strings.Repeat("x", shownLine)
	for name, tt := range map[string]struct {
		write []string // each a millisecond later
		want  []string
	}{
		"parts of lines":  {[]string{"o", "ne\ntw", "o\n", "three"}, []string{"1 0 one", "2 1 two", "3 3 three"}},
		"empty lines":     {[]string{"\n\nx\n"}, []string{"1 0 ", "2 0 ", "3 0 x"}},
		"overwritten":     {[]string{" 1%\r 50%\r100%\r\n"}, []string{"1 0 100%"}},
		"colours":         {[]string{"\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x1b\\ \x1b(Bplain\n"}, []string{"1 0 red link Bplain"}},
		"controls":        {[]string{"a\x00b\x08c\xffd\u202ee\tf\n"}, []string{"1 0 a\ufffdbc\ufffdd\ufffde\tf"}},
		"an open escape":  {[]string{"a\x1b[1", "\n"}, []string{"1 0 a"}},
		"cut":             {[]string{long + "y\n"}, []string{"1 0 " + long + "…"}},
		"longer than any": {[]string{strings.Repeat("x", maxLine), "secret", "\nnext\n"}, []string{"1 0 (a line of 64 KiB is left out)", "2 2 next"}},
	} {
		t.Run(name, func(t *testing.T) {
			var l stepLog
			for i, s := range tt.write {
				l.write([]byte(s), at(i))
			}
			l.close()
			if got := shown(&l, same); !slices.Equal(got, tt.want) {
				t.Errorf("%q, not %q", got, tt.want)
			}
		})
	}
}

// TestLogSecrets: what is secret is not shown, whatever it is written in, and
// the lines around it keep their times.
func TestLogSecrets(t *testing.T) {
	redact := strings.NewReplacer("first\nsecond\nx", "***", "s3cret", "***").Replace
	for name, tt := range map[string]struct{ write, want []string }{
		"within a line":    {[]string{"a s3", "cret b\n"}, []string{"1 0 a *** b"}},
		"coloured":         {[]string{"s3\x1b[1mcr\x1b[0met\n"}, []string{"1 0 ***"}},
		"at the cut":       {[]string{strings.Repeat("x", shownLine-3) + "s3cret\n"}, []string{"1 0 " + strings.Repeat("x", shownLine-3) + "***"}},
		"of several lines": {[]string{"one\n", "first\n", "second\n", "x\n", "two\n", "three\n"}, []string{"1 0 one", "2 1 ***", "3 4 two", "4 5 three"}},
		"at the end":       {[]string{"one\n", "first\nsecond\nx"}, []string{"1 0 one", "2 1 ***"}},
	} {
		t.Run(name, func(t *testing.T) {
			var l stepLog
			for i, s := range tt.write {
				l.write([]byte(s), at(i))
			}
			l.close()
			if got := shown(&l, redact); !slices.Equal(got, tt.want) {
				t.Errorf("%q, not %q", got, tt.want)
			}
		})
	}
}

// TestLogCut leaves lines out in the middle, also when it is done again, and
// numbers those that are left as they were written.
func TestLogCut(t *testing.T) {
	var l stepLog
	write := func(from, to int) {
		for n := from; n <= to; n++ {
			l.write([]byte(fmt.Sprintf("line %04d\n", n)), began) // 10 bytes
		}
	}
	check := func(limit, first, left, last int) {
		t.Helper()
		l.cut(limit)
		got := shown(&l, same)
		if l.size > limit || l.left != left || !strings.HasSuffix(got[0], fmt.Sprintf(" line %04d", first)) ||
			!strings.HasPrefix(got[len(got)-1], fmt.Sprintf("%d ", last)) || !strings.HasSuffix(got[len(got)-1], fmt.Sprintf(" line %04d", last)) {
			t.Errorf("%d bytes of at most %d, %d left out: %q", l.size, limit, l.left, got)
		}
		if gap := fmt.Sprintf("(%d)", left); !slices.Contains(got, gap) {
			t.Errorf("no %s in %q", gap, got)
		}
	}
	write(1, 100)
	check(200, 1, 80, 100)
	if len(l.head) != 5 {
		t.Errorf("%d lines of the beginning are kept, not a quarter", len(l.head))
	}
	write(101, 300)
	check(200, 1, 280, 300)
	check(80, 1, 292, 300)
	write(301, 303)
	check(400, 1, 292, 303)
}

func TestFit(t *testing.T) {
	logOf := func(lines int) *stepLog {
		l := &stepLog{}
		for range lines {
			l.write([]byte("123456789\n"), began)
		}
		return l
	}
	small, mid, big, kept := logOf(2), logOf(30), logOf(500), logOf(100)
	fit([]*stepLog{big, kept, small, mid}, 2000, kept)
	if kept.size != 1000 || small.size != 20 || mid.size != 300 || big.size < 650 || kept.size+small.size+mid.size+big.size > 2000 {
		t.Errorf("%d, %d, %d, %d", kept.size, small.size, mid.size, big.size)
	}
	fit([]*stepLog{big, small}, 500, big)
	if big.size > 500 {
		t.Errorf("one log alone has %d", big.size)
	}
}
