package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestMetaGet(t *testing.T) {
	const doc = `{"containerimage.digest": "sha256:aa", "containerimage.descriptor": {"size": 12345678901234567890, "annotations": {"a.b": "c"}},
		"mayfly.steps": [{"name": "one"}, {"name": "two", "cached": true}], "mayfly": "text"}`
	for _, tt := range []struct {
		key, want string
		code      int
	}{
		{"containerimage.digest", "sha256:aa\n", 0},
		{"containerimage.descriptor.size", "12345678901234567890\n", 0},
		{"containerimage.descriptor.annotations.a.b", "c\n", 0},
		{"containerimage.descriptor.annotations", `{"a.b":"c"}` + "\n", 0},
		{"mayfly.steps.1.cached", "true\n", 0},
		{"mayfly.steps.2", "has no mayfly.steps.2", 1},
		{"mayfly.steps.-1", "has no mayfly.steps.-1", 1},
		{"digest", "it has containerimage.descriptor, containerimage.digest, mayfly, mayfly.steps", 1},
		{"mayfly.digest", "has no mayfly.digest", 1},
	} {
		var stdout, stderr bytes.Buffer
		code := Main(t.Context(), []string{"meta", "get", "-", tt.key}, func(string) (string, bool) { return "", false }, strings.NewReader(doc), &stdout, &stderr)
		got := stdout.String()
		if code != 0 {
			got = stderr.String()
		}
		if code != tt.code || !strings.Contains(got, tt.want) {
			t.Errorf("%s: exit code %d, %s", tt.key, code, got)
		}
	}
	for _, doc := range []string{"", `{"a": `, "[]"} {
		var stdout, stderr bytes.Buffer
		code := Main(t.Context(), []string{"meta", "get", "-", "a"}, func(string) (string, bool) { return "", false }, strings.NewReader(doc), &stdout, &stderr)
		if code != 1 || !strings.Contains(stderr.String(), "standard input is no metadata file") {
			t.Errorf("%q: exit code %d, %s", doc, code, stderr.String())
		}
	}
}
