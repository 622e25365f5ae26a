package action

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A list says how the text of an input is taken apart. The zero value reads
// one item from each line.
type list struct {
	commas bool // commas part items too
	raw    bool // a quote is a character like any other
	spaces bool // around an item are part of it
}

// items takes a text apart as docker's actions do with the options that
// they give csv-parse: records of comma-separated fields, one on each line. A
// field that begins with a quote goes on to the closing one, over commas and
// ends of lines; "" is a quote in it. A quote elsewhere, or one whose closing
// quote stands before other text, is a character of the field.
//
// The error never has any of the text: it may be a secret.
func (l list) items(text string) ([]string, error) {
	records, err := parseRecords(text, l.raw)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, r := range records {
		switch {
		case !l.commas:
			out = append(out, strings.Join(r, ","))
		case len(r) == 1:
			out = append(out, strings.Split(r[0], ",")...) // a quoted field of several
		default:
			out = append(out, r...)
		}
	}
	if !l.spaces {
		for i := range out {
			out[i] = strings.TrimSpace(out[i])
		}
	}
	return slices.DeleteFunc(out, func(s string) bool { return s == "" }), nil
}

// A recordReader parses records.
type recordReader struct {
	text  string
	raw   bool
	eol   string // what ends a record: the first end of a line outside of quotes says; "" until then
	field strings.Builder

	inQuotes, wasQuoted bool
	record              []string
	records             [][]string
}

func parseRecords(text string, raw bool) ([][]string, error) {
	p := recordReader{text: text, raw: raw}
	opened := 0
	for at := 0; at < len(text); {
		rest := text[at:]
		switch {
		case !raw && rest[0] == '"' && p.inQuotes:
			at += p.closeQuote(rest)
			continue
		case !raw && rest[0] == '"' && p.field.Len() == 0 && !p.wasQuoted:
			p.inQuotes, opened = true, at
			at++
			continue
		case p.inQuotes:
		case p.endsRecord(rest):
			p.endRecord()
			at += len(p.eol)
			continue
		case rest[0] == ',':
			p.endField()
			at++
			continue
		}
		p.field.WriteByte(rest[0])
		at++
	}
	if p.inQuotes {
		return nil, fmt.Errorf("the quote in line %d is not closed", 1+strings.Count(text[:opened], "\n"))
	}
	p.endRecord()
	return p.records, nil
}

// closeQuote reads the quote at the beginning of rest, inside of quotes, and
// returns how many bytes of it are done with.
func (p *recordReader) closeQuote(rest string) int {
	after := rest[1:]
	switch {
	case strings.HasPrefix(after, `"`):
		p.field.WriteByte('"')
		return 2
	case after == "" || after[0] == ',' || p.endsRecord(after):
	default: // no quoted field after all
		s := p.field.String()
		p.field.Reset()
		p.field.WriteString(`"` + s + `"`)
	}
	p.inQuotes, p.wasQuoted = false, true
	return 1
}

func (p *recordReader) endsRecord(s string) bool {
	if p.eol == "" {
		for _, eol := range []string{"\r\n", "\n", "\r"} {
			if strings.HasPrefix(s, eol) {
				p.eol = eol
				break
			}
		}
	}
	return p.eol != "" && strings.HasPrefix(s, p.eol)
}

func (p *recordReader) endField() {
	p.record = append(p.record, p.field.String())
	p.field.Reset()
	p.wasQuoted = false
}

// endRecord ends a record; an empty line is none.
func (p *recordReader) endRecord() {
	if !p.wasQuoted && len(p.record) == 0 && p.field.Len() == 0 {
		return
	}
	p.endField()
	p.records, p.record = append(p.records, p.record), nil
}

// parseBool reads a boolean of YAML 1.2's core schema; "" is false.
func parseBool(s string) (bool, error) {
	switch s {
	case "true", "True", "TRUE":
		return true, nil
	case "false", "False", "FALSE", "":
		return false, nil
	}
	return false, errors.New("it is neither true nor false")
}

// quoted returns a field of a comma-separated list that says s.
func quoted(s string) string {
	if !strings.ContainsAny(s, "\",\r\n") && strings.TrimSpace(s) == s {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}
