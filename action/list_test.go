package action

import (
	"slices"
	"strings"
	"testing"
)

// TestItems has what csv-parse 5.6 makes of the same texts with the options of
// docker's actions: relaxQuotes, relaxColumnCount, skipEmptyLines and, where a
// case is raw, quote: false.
func TestItems(t *testing.T) {
	lines, words, raw := list{}, list{commas: true}, list{raw: true}
	for _, tt := range []struct {
		name string
		list list
		text string
		want []string
	}{
		{"nothing", lines, "", nil},
		{"one item", lines, "bar", []string{"bar"}},
		{"lines", lines, "bar\nbaz", []string{"bar", "baz"}},
		{"empty lines", lines, "\n\nbar\n\nbaz\n", []string{"bar", "baz"}},
		{"lines of Windows", lines, "bar\r\nbaz", []string{"bar", "baz"}},
		{"the first end of a line counts", lines, "a\r\nb\nc", []string{"a", "b\nc"}},
		{"old ends of lines", lines, "a\rb", []string{"a", "b"}},
		{"spaces around", lines, "  bar  \n\tbaz", []string{"bar", "baz"}},
		{"commas are kept", lines, "user/app:cache\ntype=local,src=path/to/dir", []string{"user/app:cache", "type=local,src=path/to/dir"}},
		{"empty fields are kept", lines, "a,,b", []string{"a,,b"}},
		{"no comments", lines, "foo=bar\nbar=qux#baz\n# x", []string{"foo=bar", "bar=qux#baz", "# x"}},

		{"commas part", words, "bar,baz", []string{"bar", "baz"}},
		{"a comma at the end", words, "bar,baz,", []string{"bar", "baz"}},
		{"commas and lines", words, "bar\nbaz,bat", []string{"bar", "baz", "bat"}},
		{"commas in quotes part when the line has nothing else", words, "linux/amd64\n\"linux/arm64,linux/arm/v7\"", []string{"linux/amd64", "linux/arm64", "linux/arm/v7"}},
		{"commas in quotes hold beside others", words, `"a,b",c`, []string{"a,b", "c"}},
		{"only spaces", words, "a, ,b", []string{"a", "b"}},

		{"several lines in quotes", lines, "A=1,2\n\"KEY=aa\nbb\n\ncc\"\nFOO=bar", []string{"A=1,2", "KEY=aa\nbb\n\ncc", "FOO=bar"}},
		{"several lines without", lines, "KEY=aa\nbb\nFOO=bar", []string{"KEY=aa", "bb", "FOO=bar"}},
		{"quotes in quotes", lines, `"a ""q"" b"`, []string{`a "q" b`}},
		{"JSON in quotes", lines, `"JSON={""a"":[1,2]}"`, []string{`JSON={"a":[1,2]}`}},
		{"quotes inside of an item", lines, `KEY="a,b"`, []string{`KEY="a,b"`}},
		{"one quote inside", lines, `a"b`, []string{`a"b`}},
		{"a quoted word before other text", lines, `"a"b`, []string{`"a"b`}},
		{"and again quotes", words, `"x"y"z,w"`, []string{`"x"y"z`, `w"`}},
		{"a space after the quotes", words, `"a" ,b`, []string{`"a"`, "b"}},
		{"an empty quoted item", lines, "a\n\"\"\nb", []string{"a", "b"}},
		{"an empty quoted field", words, `"",x`, []string{"x"}},
		{"what is no empty quoted field", lines, `""x`, []string{`""x`}},
		{"a space before the quotes", list{spaces: true}, " \"a\" ", []string{` "a" `}},
		{"spaces that count", list{spaces: true}, "\"KEY=a\n\n\"\n", []string{"KEY=a\n\n"}},
		{"a quoted item before \\r\\n", lines, "\"a\nb\"\r\nc", []string{"a\nb", "c"}},

		{"raw quotes", raw, `"env=a,b"`, []string{`"env=a,b"`}},
		{"raw, open", raw, `type=image,"name=a,b`, []string{`type=image,"name=a,b`}},
		{"raw lines", raw, "\"a\nb\"", []string{`"a`, `b"`}},
	} {
		got, err := tt.list.items(tt.text)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
	for _, text := range []string{`"unclosed`, `a,"b`, `"a""`, `"x""y`, "ok\n\"s3cret\nmore"} {
		_, err := lines.items(text)
		if err == nil || !strings.Contains(err.Error(), "not closed") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: error %v", text, err)
		}
	}
}

func FuzzItems(f *testing.F) {
	f.Add("a,\"b\nc\"\r\n\"d\"\"\"", true)
	f.Add(`"x"y"z,w"`, false)
	f.Fuzz(func(t *testing.T, text string, commas bool) {
		items, err := list{commas: commas}.items(text)
		if err != nil {
			return
		}
		for _, s := range items {
			if s == "" {
				t.Fatalf("%q has an empty item", text)
			}
		}
		// Items come back when each is quoted.
		var again []string
		for _, s := range items {
			again = append(again, `"`+strings.ReplaceAll(s, `"`, `""`)+`"`)
		}
		back, err := list{}.items(strings.Join(again, "\n"))
		if err != nil || !slices.Equal(back, items) {
			t.Fatalf("%q: %q came back as %q, %v", text, items, back, err)
		}
	})
}

func TestParseBool(t *testing.T) {
	for s, want := range map[string]bool{"true": true, "True": true, "TRUE": true, "false": false, "False": false, "FALSE": false, "": false} {
		if got, err := parseBool(s); got != want || err != nil {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"yes", "1", "on", "tRUE", "no", "0"} {
		if _, err := parseBool(s); err == nil {
			t.Errorf("%q is a boolean", s)
		}
	}
}

func TestQuoted(t *testing.T) {
	for _, s := range []string{"a", "a,b", `a"b`, "a\nb", " a ", `"a"`, "a\rb"} {
		got, err := (list{commas: true, spaces: true}).items("x," + quoted(s))
		if err != nil || !slices.Equal(got, []string{"x", s}) {
			t.Errorf("%q comes back as %q, %v", s, got, err)
		}
	}
}
