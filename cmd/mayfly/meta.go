package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-build/mayfly/internal/hint"
)

const metaUsage = `Usage:
  mayfly meta get FILE KEY    print a value of a metadata file

FILE may be - for standard input. KEY is one of the file, such as
containerimage.digest, and goes on into what is below it:
containerimage.descriptor.size, mayfly.steps.0.name. Text is printed as it is,
all else as JSON.
`

// meta reads metadata files.
func meta(w world, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(w.stderr, metaUsage)
		return usagef("mayfly meta: no command is given")
	}
	switch args[0] {
	case "get":
		if slices.ContainsFunc(args, func(a string) bool { return a == "--help" || a == "-h" }) {
			break
		}
		if len(args) != 3 {
			return usagef("mayfly meta get wants FILE and KEY")
		}
		return metaGet(w, args[1], args[2])
	case "help", "--help", "-h":
	default:
		return usagef("mayfly meta: unknown command %q: the command is get", args[0])
	}
	_, err := fmt.Fprint(w.stdout, metaUsage)
	return err
}

func metaGet(w world, file, key string) error {
	var data []byte
	var err error
	if file == "-" {
		file = "standard input"
		data, err = io.ReadAll(w.stdin)
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return err
	}
	var doc map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // printed as it is written
	if err := d.Decode(&doc); err != nil {
		return hint.With(fmt.Errorf("%s is no metadata file: %w", file, err), "give a file that --metadata-file wrote")
	}
	v, ok := lookup(doc, key)
	if !ok {
		return hint.With(fmt.Errorf("%s has no %s", file, key), "it has "+strings.Join(slices.Sorted(maps.Keys(doc)), ", "))
	}
	text, isText := v.(string)
	if !isText {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		text = string(b)
	}
	_, err = fmt.Fprintln(w.stdout, text)
	return err
}

// lookup finds the value of a key in a value. The names of members have dots
// themselves: the longest that fits is meant.
func lookup(in any, key string) (any, bool) {
	if key == "" {
		return in, true
	}
	if list, ok := in.([]any); ok {
		n, rest, _ := strings.Cut(key, ".")
		i, err := strconv.Atoi(n)
		if err != nil || i < 0 || i >= len(list) {
			return nil, false
		}
		return lookup(list[i], rest)
	}
	m, ok := in.(map[string]any)
	if !ok {
		return nil, false
	}
	for name := key; name != ""; name = name[:max(strings.LastIndexByte(name, '.'), 0)] {
		if v, ok := m[name]; ok {
			if found, ok := lookup(v, strings.TrimPrefix(key[len(name):], ".")); ok {
				return found, true
			}
		}
	}
	return nil, false
}
