package main

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tonistiigi/go-csvvalue"
)

// attrs are the key=value fields of one flag. Reading a field takes it away,
// so that done can name what nobody knows.
type attrs struct {
	flag, text string
	fields     map[string]string
	known      []string
	err        error
}

// parseAttrs splits type=…,key=value,… . A text that is no list of fields is
// returned as plain.
func parseAttrs(flag, text string) (a *attrs, plain string, err error) {
	fields, err := csvvalue.Fields(text, nil)
	if err != nil {
		return nil, "", usagef("--%s %s: %v", flag, redact(text), err)
	}
	if len(fields) == 1 && !strings.Contains(fields[0], "=") {
		return nil, fields[0], nil
	}
	a = &attrs{flag: flag, text: text, fields: map[string]string{}}
	for i, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return nil, "", usagef("--%s %s: field %d is not key=value", flag, redact(text), i+1)
		}
		a.fields[strings.ToLower(k)] = v
	}
	return a, "", nil
}

func (a *attrs) str(key, def string) string {
	a.known = append(a.known, key)
	v, ok := a.fields[key]
	if !ok {
		return def
	}
	delete(a.fields, key)
	return v
}

func (a *attrs) boolean(key string, def bool) bool {
	v := a.str(key, "")
	if v == "" {
		return def
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		a.fail("%s=%s is not true or false", key, v)
	}
	return b
}

func (a *attrs) integer(key string) (int, bool) {
	v := a.str(key, "")
	if v == "" {
		return 0, false
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		a.fail("%s=%s is not a number", key, v)
	}
	return n, err == nil
}

func (a *attrs) oneOf(key, def string, values ...string) string {
	v := a.str(key, def)
	if !slices.Contains(values, v) {
		a.fail("%s=%s is none of %s", key, v, strings.Join(values, ", "))
	}
	return v
}

func (a *attrs) fail(format string, args ...any) {
	if a.err == nil {
		a.err = usagef("--"+a.flag+" "+strings.ReplaceAll(redact(a.text), "%", "%%")+": "+format, args...)
	}
}

// done returns the first error, or one that names an unknown field and those
// that are known.
func (a *attrs) done() error {
	if a.err == nil && len(a.fields) > 0 {
		unknown := slices.Sorted(maps.Keys(a.fields))
		slices.Sort(a.known)
		a.fail("unknown attribute %s; the known ones are %s", strings.Join(unknown, ", "), strings.Join(slices.Compact(a.known), ", "))
	}
	return a.err
}

// redact returns a flag's text without the values of credentials.
func redact(text string) string {
	fields, err := csvvalue.Fields(text, nil)
	if err != nil {
		fields = strings.Split(text, ",")
	}
	hidden := false
	for i, f := range fields {
		k, _, ok := strings.Cut(f, "=")
		switch {
		case ok && isCredential(k):
			fields[i], hidden = k+"=***", true
		case ok && err == nil:
			hidden = false
		case hidden: // the rest of a value with a comma in it
			fields[i] = "***"
		}
	}
	return strings.Join(fields, ",")
}

func isCredential(key string) bool {
	key = strings.ToLower(key)
	return slices.ContainsFunc([]string{"secret", "token", "password", "access_key", "account_key"}, func(word string) bool {
		return strings.Contains(key, word)
	})
}
