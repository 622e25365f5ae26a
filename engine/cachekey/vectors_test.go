package cachekey_test

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/mayfly-build/mayfly/engine/cachekey"
	"github.com/mayfly-build/mayfly/engine/llb"
)

// TestVectors compares keys with those of a buildkitd: see hack/vectors.
func TestVectors(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) < 70 {
		t.Fatalf("%d vectors, %v; want 70 or more", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			v := readVector(t, file)
			v.check(t, v.graph.Root)
		})
	}
}

type vector struct {
	graph   *llb.Graph
	sources map[string]string // identifier → what the source stands for
	records []record
}

type record struct {
	digest digest.Digest
	inputs [][]link
}

type link struct {
	record   int
	selector digest.Digest
}

// check returns the records of an edge, nil for one that reads a local source
// and so has none by definition.
func (v *vector) check(t *testing.T, e llb.Edge) []int {
	t.Helper()
	m := v.keyOf(t, e.Vertex)
	if cachekey.IsRandom(m.Digest) {
		return nil
	}
	inputs := make([][]int, len(e.Vertex.Inputs))
	for i, in := range e.Vertex.Inputs {
		inputs[i] = v.check(t, in)
	}
	want := cachekey.Output(m.Digest, e.Index)
	var found []int
	for n, r := range v.records {
		if r.digest == want && len(r.inputs) == len(inputs) {
			found = append(found, n)
		}
	}
	if len(found) == 0 {
		t.Errorf("%s: buildkitd has no record %s", e.Vertex.Name, want)
	}
	for _, n := range found {
		for i, known := range inputs {
			checkLinks(t, fmt.Sprintf("%s, input %d", e.Vertex.Name, i), m.Inputs[i], known, v.records[n].inputs[i])
		}
	}
	return found
}

// checkLinks compares the names that an input has: by its definition (known)
// with the selector, and by content without one.
func checkLinks(t *testing.T, what string, in cachekey.Input, known []int, links []link) {
	t.Helper()
	byDefinition, byContent := false, false
	for _, l := range links {
		switch {
		case !slices.Contains(known, l.record):
			byContent = true
			if l.selector != "" {
				t.Errorf("%s: content record %d has selector %s", what, l.record, l.selector)
			}
		case l.selector == in.Selector:
			byDefinition = true
		default:
			t.Errorf("%s: selector %q, buildkitd has %q", what, in.Selector, l.selector)
		}
	}
	if len(known) > 0 && !byDefinition {
		t.Errorf("%s: buildkitd has no link by definition among %v; want one to %v", what, links, known)
	}
	if byContent != in.ByContent {
		t.Errorf("%s: counts by content: %v, for buildkitd %v", what, in.ByContent, byContent)
	}
}

func (v *vector) keyOf(t *testing.T, vtx *llb.Vertex) (m cachekey.Map) {
	t.Helper()
	var err error
	n := len(vtx.Inputs)
	switch op := vtx.Op.Op.(type) {
	case *pb.Op_Source:
		return cachekey.Map{Digest: v.source(t, vtx, op.Source.Identifier)}
	case *pb.Op_Exec:
		m, err = cachekey.Exec(op.Exec, vtx.Platform(), n)
	case *pb.Op_File:
		m, err = cachekey.File(op.File, n)
	case *pb.Op_Merge:
		m, err = cachekey.Merge(op.Merge, n)
	case *pb.Op_Diff:
		m, err = cachekey.Diff(op.Diff, n)
	default:
		t.Fatalf("%s: operation %T", vtx.Name, op)
	}
	if err != nil || len(m.Inputs) != n {
		t.Fatalf("%s: %d inputs, error %v; want %d inputs", vtx.Name, len(m.Inputs), err, n)
	}
	return m
}

func (v *vector) source(t *testing.T, vtx *llb.Vertex, id string) digest.Digest {
	t.Helper()
	if strings.HasPrefix(id, "local://") {
		return cachekey.Source("session:" + id)
	}
	key, ok := v.sources[id]
	if !ok {
		t.Fatalf("the vector does not say what %s stands for", id)
	}
	if strings.HasPrefix(id, "docker-image://") {
		var err error
		if key, err = cachekey.Image(digest.Digest(key), vtx.Platform()); err != nil {
			t.Fatal(err)
		}
	}
	return cachekey.Source(key)
}

func readVector(t *testing.T, file string) *vector {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, f := range archive.Files {
		sections[f.Name] = string(f.Data)
	}
	dt, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(sections["definition"], "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	def := &pb.Definition{}
	if err := def.UnmarshalVT(dt); err != nil {
		t.Fatal(err)
	}
	v := &vector{sources: map[string]string{}}
	if v.graph, err = llb.Decode(def); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(sections["sources"]) {
		id, key, _ := strings.Cut(strings.TrimSpace(line), " ")
		v.sources[id] = key
	}
	for line := range strings.Lines(sections["records"]) {
		fields := strings.Fields(line)
		r := record{digest: digest.Digest(fields[1])}
		for _, field := range fields[2:] {
			r.inputs = append(r.inputs, parseLinks(t, field))
		}
		v.records = append(v.records, r)
	}
	return v
}

func parseLinks(t *testing.T, field string) (out []link) {
	t.Helper()
	for l := range strings.SplitSeq(field, ",") {
		n, selector, _ := strings.Cut(l, "=")
		i, err := strconv.Atoi(n)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, link{i, digest.Digest(selector)})
	}
	return out
}
