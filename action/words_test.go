package action

import (
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/internal/hint"
)

func TestWords(t *testing.T) {
	own := map[string]string{"context": ".", "cache-from": "type=gha"}
	ours := map[string]string{"context": ".", "cache": "type=s3"}
	for _, tt := range []struct {
		in            map[string]string
		message, want string
	}{
		{own, "--tag: parse x", "input tags: parse x"},
		{own, "--no-cache-filter x: none", "input no-cache-filters: x: none"},
		{own, "--shm-size: what", "input shm-size: what"},
		{own, "--cache-from type=x: what", "input cache-from: type=x: what"},
		{ours, "--cache-to type=s3,scope=auto: bucket", "input cache: type=s3,scope=auto: bucket"},
		{own, "push x: --tag", "push x: --tag"},
	} {
		p, err := plan(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Words(tt.message); got != tt.want {
			t.Errorf("Words(%q) = %q, want %q", tt.message, got, tt.want)
		}
	}
}

// TestHasFiles: a workspace without a checkout, and other places for files.
func TestHasFiles(t *testing.T) {
	there := map[string]bool{".": true, "app": true, "app/dockerfile": true, "docker/x": true}
	for _, tt := range []struct{ context, file, want string }{
		{"app", "", ""},
		{".", "docker/x", ""},
		{"https://acme.test/app.tar", "none", ""},
		{"git@acme.test:app", "", ""},
		{".", "https://acme.test/Dockerfile", ""},
		{".", "", "input file: there is no Dockerfile Dockerfile"},
		{"app", "x", "input file: there is no Dockerfile x"},
		{"web", "", "input context: there is no directory web"},
	} {
		p := planner{job: job{Config: Config{Exists: func(path string) bool { return there[path] }}}}
		p.in.file = tt.file
		err := p.hasFiles(tt.context)
		if got := errorText(err); got != tt.want || err != nil && !strings.Contains(hint.Of(err), "actions/checkout") {
			t.Errorf("context %q, file %q: %v, want %q", tt.context, tt.file, err, tt.want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
