package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// A workload is something to measure, in one or more rows of the table.
type workload struct {
	name string
	what string
	rows []string // in the order of the table

	prepare func(ctx context.Context, b *bench, t tool) error // once for each tool; may be nil
	run     func(ctx context.Context, b *bench, t tool, i int) ([]sample, error)
}

func workloadNames() []string {
	var out []string
	for _, w := range workloads() {
		out = append(out, w.name)
	}
	return out
}

func workloads() []workload {
	return []workload{
		{"W1", "12-step multi-stage build, all of it in a registry cache (max): fresh machine, push", []string{"total"}, seedCI, wholeCI("ci", "from")},
		{"W1x", "the same, and the cache is exported again", []string{"total"}, seedCI, wholeCI("ci", "from+to")},
		{"W2", "the same, nothing cached: build, push, export the cache", []string{"total"}, nil, wholeCI("ci", "to")},
		{"W2n", "the same without exporting a cache", []string{"total"}, nil, wholeCI("ci", "")},
		{"W3", "as W1, one source file changed", []string{"total"}, seedCI, wholeCI("ci-changed", "from")},
		{"W4", "50,000 files, 200 MiB: `COPY . /app`, push", []string{"fresh", "one file changed", "unchanged"}, nil, manyFiles},
		{"W5", "`RUN true`: 1, 11, 101 in sequence, 101 side by side", []string{"1", "11", "101", "101 side by side", "each of 100 more in sequence"}, nil, manyRuns},
		{"W7", "300 stages, 610 COPYs, no RUN", []string{"cold", "again", "fresh machine, registry cache"}, seedGraph, stages},
		{"W8", "pull a 5-layer, 500 MiB image, `RUN true`", []string{"total"}, makeMulti, pull},
	}
}

func (b *bench) ci(dir string) job {
	return job{context: filepath.Join(b.work, dir), base: b.ref("base")}
}

// importOf and exportOf are the registry cache under a reference.
func importOf(ref string) string { return "type=registry,ref=" + ref }
func exportOf(ref string) string { return "type=registry,mode=max,ref=" + ref }

func cacheOf(b *bench, t tool) string { return b.ref("ci-" + t.name() + ":cache") }

// once runs a job that is not measured, from an empty machine.
func (b *bench) once(ctx context.Context, t tool, j job) error {
	_, err := b.whole(ctx, t, "", j)
	return err
}

// seedCI fills the tool's registry cache of the build in ci.
func seedCI(ctx context.Context, b *bench, t tool) error {
	j := b.ci("ci")
	j.push, j.to = b.ref("ci-"+t.name()), exportOf(cacheOf(b, t))
	return b.once(ctx, t, j)
}

// wholeCI measures the build in dir with a cache to import ("from") or export
// ("to"). A build that imports none pushes to a new repository each time, so
// that the registry has nothing of it.
func wholeCI(dir, caches string) func(context.Context, *bench, tool, int) ([]sample, error) {
	return func(ctx context.Context, b *bench, t tool, i int) ([]sample, error) {
		j := b.ci(dir)
		repo := b.ref("ci-" + t.name())
		if caches == "" || caches == "to" {
			repo = b.ref(fmt.Sprintf("cold-%s-%d", t.name(), time.Now().UnixNano()))
		}
		j.push = repo + ":" + dir
		if caches == "from" || caches == "from+to" {
			j.from = importOf(cacheOf(b, t))
		}
		if caches == "to" || caches == "from+to" {
			j.to = exportOf(repo + ":cache")
		}
		s, err := b.whole(ctx, t, "total", j)
		return []sample{s}, err
	}
}

func manyFiles(ctx context.Context, b *bench, t tool, i int) (_ []sample, err error) {
	file := filepath.Join(b.work, changedFile)
	original, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, os.WriteFile(file, original, 0o644), os.Chtimes(file, st.ModTime(), st.ModTime()))
	}()
	j := job{context: filepath.Join(b.work, "tree50k"), base: b.ref("base"), push: b.ref("files-" + t.name())}
	return b.builds(ctx, t, []string{"fresh", "one file changed", "unchanged"}, []job{j, j, j}, func(n int) error {
		if n != 1 {
			return nil
		}
		return appendTo(file, fmt.Sprintf("// %d %d\n", i, time.Now().UnixNano()))
	})
}

func manyRuns(ctx context.Context, b *bench, t tool, i int) ([]sample, error) {
	var out []sample
	for _, c := range []struct{ row, dir string }{{"1", "seq1"}, {"11", "seq11"}, {"101", "seq101"}, {"101 side by side", "par101"}} {
		s, err := b.builds(ctx, t, []string{c.row}, []job{{context: filepath.Join(b.work, c.dir), base: b.ref("base")}}, nil)
		if err != nil {
			return nil, err
		}
		out = append(out, s...)
	}
	return append(out, sample{row: "each of 100 more in sequence", took: (out[2].took - out[0].took) / 100}), nil
}

func graphJob(b *bench) job { return job{context: filepath.Join(b.work, "graph"), base: b.ref("base")} }

func graphCache(b *bench, t tool) string { return b.ref("graph-" + t.name() + ":cache") }

func seedGraph(ctx context.Context, b *bench, t tool) error {
	j := graphJob(b)
	j.push, j.to = b.ref("graph-"+t.name()), exportOf(graphCache(b, t))
	return b.once(ctx, t, j)
}

func stages(ctx context.Context, b *bench, t tool, _ int) ([]sample, error) {
	j := graphJob(b)
	out, err := b.builds(ctx, t, []string{"cold", "again"}, []job{j, j}, nil)
	if err != nil {
		return nil, err
	}
	j.push, j.from = b.ref("graph-"+t.name()), importOf(graphCache(b, t))
	s, err := b.whole(ctx, t, "fresh machine, registry cache", j)
	return append(out, s), err
}

// makeMulti pushes the image that W8 pulls, the same for every tool.
func makeMulti(ctx context.Context, b *bench, _ tool) error {
	if b.multi {
		return nil
	}
	b.multi = true
	return b.once(ctx, &buildkit{root: filepath.Join(b.state, "multi")}, job{context: filepath.Join(b.work, "multi"), base: b.ref("base"), push: b.ref("multi")})
}

func pull(ctx context.Context, b *bench, t tool, _ int) ([]sample, error) {
	s, err := b.whole(ctx, t, "total", job{context: filepath.Join(b.work, "use"), base: b.ref("multi")})
	return []sample{s}, err
}
