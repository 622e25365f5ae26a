package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/solver"
	"github.com/mayfly-build/mayfly/internal/hint"
)

func lines(from, to int32) []*pb.Range {
	return []*pb.Range{{Start: &pb.Position{Line: from}, End: &pb.Position{Line: to}}}
}

func TestPrintError(t *testing.T) {
	source := func(data string, r []*pb.Range) []*llb.SourceRange {
		return []*llb.SourceRange{{Info: &pb.SourceInfo{Filename: "Dockerfile", Data: []byte(data)}, Ranges: r}}
	}
	step := func(name string, s []*llb.SourceRange) error {
		return fmt.Errorf("build: %w", &solver.StepError{Vertex: &llb.Vertex{Name: name, Sources: s}, Err: errors.New("exit code: 2")})
	}
	const five = "FROM a\nRUN b \\\r\n  c\nRUN d\nRUN e\n"
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"plain", errors.New(" push x: 403\n"), "error: push x: 403\n"},
		{"hint", hint.With(errors.New("push x: 403"), "log in"), "error: push x: 403\nhint:  log in\n"},
		{"no source", step("[1/2] RUN b", nil), "error: build: " + (&solver.StepError{Vertex: &llb.Vertex{Name: "[1/2] RUN b"}, Err: errors.New("exit code: 2")}).Error() + "\n"},
		{"two lines", step("[1/2] RUN b   c", source(five, lines(2, 3))), "Dockerfile:2\n--------------------\n" +
			"   1 |     FROM a\n   2 | >>> RUN b \\\n   3 | >>>   c\n   4 |     RUN d\n   5 |     RUN e\n" +
			"--------------------\nerror: Dockerfile:2: RUN b   c: exit code: 2\n"},
		{"last line", step("RUN e", source(five, lines(5, 5))), "Dockerfile:5\n--------------------\n" +
			"   3 |       c\n   4 |     RUN d\n   5 | >>> RUN e\n--------------------\nerror: Dockerfile:5: RUN e: exit code: 2\n"},
		{"beyond the end", step("RUN e", source(five, lines(9, 9))), "Dockerfile:9\nerror: Dockerfile:9: RUN e: exit code: 2\n"},
		{"end before start", step("FROM a", source("FROM a", lines(1, 0))), "Dockerfile:1\n--------------------\n" +
			"   1 | >>> FROM a\n--------------------\nerror: Dockerfile:1: FROM a: exit code: 2\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var buf bytes.Buffer
			if printError(&buf, tt.err); buf.String() != tt.want {
				t.Errorf("printed\n%s\nnot\n%s", buf.String(), tt.want)
			}
		})
	}
}

func TestMetadata(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.json")
	config := digest.FromString("config")
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("manifest"), Size: 7}
	res := &engine.Result{
		Ref: "r1", Digest: desc.Digest, Config: config, Descriptor: &desc, Names: []string{"a:1", "b:2"},
		Steps: []engine.Step{{Name: "COPY f /", Digest: "sha256:s", Cached: true}, {Name: "RUN x", Digest: "sha256:t", Seconds: 1.5}},
		Caches: []engine.CacheOutcome{
			{Name: "registry x", Outcome: "ok"},
			{Name: "registry y", Export: true, Outcome: "failed", Reason: "503", Hint: "wait", Blobs: 2, Bytes: 9},
		},
		BytesIn: 10, BytesOut: 20, Warnings: []string{"w"}, Seconds: 2.5,
	}
	read := func(res *engine.Result) map[string]json.RawMessage {
		t.Helper()
		if err := writeMetadata(path, res); err != nil {
			t.Fatal(err)
		}
		dt, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]json.RawMessage
		if err := json.Unmarshal(dt, &m); err != nil {
			t.Fatalf("%v in %s", err, dt)
		}
		return m
	}
	m := read(res)
	for key, want := range map[string]string{
		"buildx.build.ref":             `"mayfly/mayfly/r1"`,
		"containerimage.digest":        `"` + desc.Digest.String() + `"`,
		"containerimage.config.digest": `"` + config.String() + `"`,
		"containerimage.descriptor":    `{"mediaType":"` + desc.MediaType + `","digest":"` + desc.Digest.String() + `","size":7}`,
		"image.name":                   `"a:1,b:2"`,
		"mayfly.steps":                 `[{"name":"COPY f /","digest":"sha256:s","cached":true,"seconds":0},{"name":"RUN x","digest":"sha256:t","cached":false,"seconds":1.5}]`,
		"mayfly.cache":                 `[{"name":"registry x","action":"import","outcome":"ok","seconds":0},{"name":"registry y","action":"export","outcome":"failed","reason":"503","hint":"wait","blobs":2,"bytes":9,"seconds":0}]`,
		"mayfly.bytes":                 `{"pulled":10,"pushed":20}`,
		"mayfly.warnings":              `["w"]`,
		"mayfly.seconds":               `2.5`,
	} {
		var got bytes.Buffer
		if err := json.Compact(&got, m[key]); err != nil || got.String() != want {
			t.Errorf("%s is %s, %v; not %s", key, got.String(), err, want)
		}
	}
	m = read(&engine.Result{Ref: "r2"})
	for key := range m {
		if strings.HasPrefix(key, "containerimage.") || key == "image.name" || key == "cache.manifest" {
			t.Errorf("a build without an image has %s", key)
		}
	}
	if string(m["mayfly.steps"]) != "[]" || string(m["mayfly.cache"]) != "[]" {
		t.Errorf("nothing is %s and %s, not empty lists", m["mayfly.steps"], m["mayfly.cache"])
	}
}
