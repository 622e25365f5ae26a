package explain

import (
	"strings"
	"testing"
)

func TestMask(t *testing.T) {
	m := NewMasker(map[string]string{"TOKEN": "s3cret", "LONG": "s3cret-and-more", "N": "1", "EMPTY": "", "A": "same", "B": "same"})
	for in, want := range map[string]string{
		"plain":                          "plain",
		"curl -H s3cret":                 "curl -H ${TOKEN}",
		"s3cret-and-more":                "${LONG}",
		"s3crets3cret":                   "${TOKEN}${TOKEN}",
		"1":                              "1", // too short to be a secret
		"the same":                       "the ${A}",
		strings.Repeat("x", 9) + "s3cre": strings.Repeat("x", 9) + "s3cre",
	} {
		if got, hidden := m.Mask(in); got != want || hidden != (got != in) {
			t.Errorf("%q is %q (%v), want %q", in, got, hidden, want)
		}
	}
}

func TestFieldsHide(t *testing.T) {
	m := NewMasker(map[string]string{"TOKEN": "s3cret"})
	long := strings.Repeat("long ", 1000)
	for _, tt := range []struct {
		f, g Field
		same bool
		sum  int // characters
		text string
	}{
		{Hidden("arg A", "s3cret"), Hidden("arg A", "s3cret"), true, 4, ""},
		{Hidden("arg A", "s3cret"), Hidden("arg A", "other"), false, 4, ""},
		{m.Plain("cwd", "/src"), m.Plain("cwd", "/src"), true, 0, "/src"},
		{m.Plain("cwd", "/s3cret"), NewMasker(map[string]string{"TOKEN": "other"}).Plain("cwd", "/other"), false, 4, "/${TOKEN}"},
		{m.Plain("command", long+"1"), m.Plain("command", long+"2"), false, 16, "…"},
		{m.URL("url", "https://u:p@host/f?sig=x#y"), m.URL("url", "https://u:p@host/f?sig=z#y"), false, 4, "https://host/f"},
		{m.URL("url", "git://u:p@host:x/f?sig=x"), m.URL("url", "git://u:p@host:x/f?sig=x"), true, 4, "git://host:x/f"},
		{m.URL("url", "https://host/f"), m.URL("url", "https://host/f"), true, 0, "https://host/f"},
	} {
		if tt.f.same(tt.g) != tt.same || len(tt.f.Sum) != tt.sum || !strings.HasSuffix(tt.f.Text, tt.text) && tt.f.Text != tt.text {
			t.Errorf("%+v and %+v: same %v, want %v, text %q and a sum of %d", tt.f, tt.g, tt.f.same(tt.g), tt.same, tt.text, tt.sum)
		}
	}
}

func TestMentions(t *testing.T) {
	for text, want := range map[string]bool{
		"COPY $FILE /": true, "COPY ${FILE} /": true, "COPY ${FILE:-x} /": true, "COPY $FILES /": false,
		"COPY FILE /": false, "$X $FILE": true, "$": false, "$FILE": true,
	} {
		if got := mentions(text, "FILE"); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
