package explain

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"slices"
	"strings"
)

// A Field is a part of an operation.
type Field struct {
	Name string // "args", "env PATH", "mount /src from"

	// Text is the value, as far as it may be shown: without the values of
	// build arguments, and cut when it is long.
	Text string

	// Sum tells values apart that Text does not: of 16 bits when something is
	// hidden, of 64 when Text is only cut, and "" when Text is all.
	Sum string
}

func (f Field) same(g Field) bool { return f.Text == g.Text && f.Sum == g.Sum }

const (
	hiddenSum = 2 // bytes: see the package's comment
	cutSum    = 8 // bytes
	maxText   = 512

	// minHidden is how long a value is at least that is looked for in other
	// text, in bytes: one or two characters are no secret, and are everywhere.
	minHidden = 3
)

// sum returns the start of a value's SHA-256. The prefix makes it a sum of
// this package's own.
func sum(value string, bytes int) string {
	h := sha256.Sum256([]byte("mayfly.explain.v1\x00" + value))
	return hex.EncodeToString(h[:bytes])
}

// Hidden returns a field whose value is not to be seen.
func Hidden(name, value string) Field { return Field{Name: name, Sum: sum(value, hiddenSum)} }

// A Masker replaces the values of build arguments in text by their names. The
// zero value replaces nothing.
type Masker struct {
	values []string // longest first
	with   map[string]string
}

// NewMasker returns the Masker of build arguments: values by name.
func NewMasker(args map[string]string) *Masker {
	m := &Masker{with: map[string]string{}}
	for name, value := range args {
		if len(value) < minHidden {
			continue
		}
		if other, ok := m.with[value]; !ok {
			m.values = append(m.values, value)
		} else if "${"+name+"}" > other {
			continue
		}
		m.with[value] = "${" + name + "}"
	}
	slices.SortFunc(m.values, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b))
	})
	return m
}

// Mask returns text with every value replaced, and whether there was one. What
// stands for a value is not looked at again.
func (m *Masker) Mask(text string) (masked string, hidden bool) {
	if m == nil || len(m.values) == 0 {
		return text, false
	}
	var b strings.Builder
next:
	for i := 0; i < len(text); {
		for _, v := range m.values {
			if strings.HasPrefix(text[i:], v) {
				b.WriteString(m.with[v])
				i += len(v)
				hidden = true
				continue next
			}
		}
		b.WriteByte(text[i])
		i++
	}
	return b.String(), hidden
}

// Plain returns a field whose value may be seen, but for the values of build
// arguments in it.
func (m *Masker) Plain(name, value string) Field {
	text, hidden := m.Mask(value)
	f := Field{Name: name, Text: cut(text, maxText)}
	switch {
	case hidden:
		f.Sum = sum(value, hiddenSum)
	case f.Text != text:
		f.Sum = sum(value, cutSum)
	}
	return f
}

// URL is Plain for a value that may be a URL: its user, query and fragment,
// where credentials travel, are not to be seen.
func (m *Masker) URL(name, value string) Field {
	clean := CleanURL(value)
	f := m.Plain(name, clean)
	if clean != value {
		f.Sum = sum(value, hiddenSum)
	}
	return f
}

// CleanURL returns a URL without its user, query and fragment. What is no URL
// comes back as it is.
func CleanURL(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return s
	}
	u, err := url.Parse(s)
	if err != nil { // such as git@host:path behind git://: cut by hand
		host, path, slash := strings.Cut(rest, "/")
		if at := strings.LastIndexByte(host, '@'); at >= 0 {
			host = host[at+1:]
		}
		if slash {
			path = "/" + path
		}
		if i := strings.IndexAny(path, "?#"); i >= 0 {
			path = path[:i]
		}
		return scheme + "://" + host + path
	}
	if u.User == nil && u.RawQuery == "" && u.Fragment == "" {
		return s
	}
	u.User, u.RawQuery, u.ForceQuery, u.Fragment, u.RawFragment = nil, "", false, "", ""
	return u.String()
}

// cut returns at most n bytes of s, which then ends in an ellipsis.
func cut(s string, n int) string {
	const dots = "…"
	if len(s) <= n {
		return s
	}
	n -= len(dots)
	for n > 0 && s[n]&0xc0 == 0x80 { // not within a character
		n--
	}
	return s[:n] + dots
}

// A fieldChange is a field that differs, by name.
type fieldChange struct {
	name          string
	before, after *Field // nil: not there
}

// fieldChanges compares two lists of fields.
func fieldChanges(before, after []Field) []fieldChange {
	was := map[string]*Field{}
	for i := range before {
		was[before[i].Name] = &before[i]
	}
	var out []fieldChange
	seen := map[string]bool{}
	for i := range after {
		f := &after[i]
		seen[f.Name] = true
		if old := was[f.Name]; old == nil || !old.same(*f) {
			out = append(out, fieldChange{f.Name, old, f})
		}
	}
	for i := range before {
		if !seen[before[i].Name] {
			out = append(out, fieldChange{before[i].Name, &before[i], nil})
		}
	}
	return out
}
