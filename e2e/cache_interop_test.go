package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// interopDockerfile has what makes records of every kind: stages that only the
// cache keeps, content keys, several inputs, a step on files of another stage.
const interopDockerfile = `ARG BASE
FROM $BASE AS deps
COPY lock /src/lock
RUN sha256sum /src/lock > /src/sum
FROM deps AS build
COPY . /src/
RUN cat /src/lock /src/hello.txt > /out && head -c 300000 /dev/urandom > /big
FROM $BASE
COPY --from=build /out /app/out
COPY --from=deps /src/sum /app/
RUN --mount=type=bind,from=build,source=/big,target=/big cp /big /app/big
`

// TestCacheInterop exchanges caches with buildkitd v0.33.1 over every kind of
// service in both directions: each tool builds on an empty machine with what
// the other one exported (mode=max), and no step runs. $CACHE_INTEROP_TABLE
// names a file that the result is written to.
func TestCacheInterop(t *testing.T) {
	services.NeedRoot(t)
	reg := services.NewRegistry(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"Dockerfile": interopDockerfile, "lock": "a 1\nb 2\n", "hello.txt": "hi\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var table interopTable
	for _, kind := range append(slices.Clone(services.CacheKinds), "inline") {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			x := interopCase{t: t, kind: kind, registry: reg.Addr, dir: dir}
			if kind != "inline" {
				c, err := services.StartCache(t.Context(), kind, services.CacheConfig{})
				x.cache = services.Use(t, c, err)
			}
			for _, way := range []string{"buildkitd → mayfly", "mayfly → buildkitd", "mayfly → mayfly"} {
				t.Run(way, func(t *testing.T) {
					x := x
					x.t = t
					cached, steps, took := x.run(way)
					table.add(kind, way, cached, steps, took)
					if cached != steps {
						t.Errorf("%d of %d steps are cached", cached, steps)
					}
				})
			}
		})
	}
	t.Cleanup(func() { table.write(t) })
}

type interopCase struct {
	t                   *testing.T
	kind, registry, dir string
	cache               *services.Cache // nil for inline
}

// run exports with one tool and imports with the other. It returns how many of
// the steps were cached, and how long the importing build took.
func (x *interopCase) run(way string) (cached, steps int, took time.Duration) {
	t := x.t
	from, to, _ := strings.Cut(way, " → ")
	name := strings.ReplaceAll(strings.ReplaceAll(way, " → ", "-"), " ", "")
	image := x.registry + "/interop-" + x.kind + "/" + name
	var p services.CachePlace
	if x.cache != nil {
		p = x.cache.Place(name)
		p.To += ",mode=max"
	} else {
		p = services.CachePlace{To: "type=inline", From: "type=registry,ref=" + image}
	}
	if _, err := x.build(from, image, "", p.To); err != nil {
		t.Fatalf("export with %s: %v", from, err)
	}
	began := time.Now()
	got, err := x.build(to, image+":again", p.From, "")
	if err != nil {
		t.Fatalf("import with %s: %v", to, err)
	}
	took = time.Since(began)
	ran := uncached(got)
	if x.cache == nil {
		// What is not in the image has no layer in an inline cache, and is
		// not needed either.
		ran = slices.DeleteFunc(ran, func(s string) bool { return !strings.HasPrefix(s, "[stage-2 ") })
	}
	for _, s := range ran {
		t.Logf("ran: %s", s)
	}
	seen := map[string]bool{}
	for _, s := range got {
		if isStep(s.Name) && (x.cache != nil || strings.HasPrefix(s.Name, "[stage-2 ")) {
			seen[s.Name] = true
		}
	}
	return len(seen) - len(ran), len(seen), took
}

func (x *interopCase) build(tool, image, from, to string) ([]services.Step, error) {
	base := x.registry + "/base"
	if tool == "buildkitd" {
		in := services.Build{Context: x.dir, Opts: []string{"build-arg:BASE=" + base}, Outputs: []string{"type=image,push=true,name=" + image}}
		if from != "" {
			in.Import = []string{from}
		}
		if to != "" {
			in.Export = []string{to}
		}
		r, err := services.NewBuildkitd(x.t).Build(x.t.Context(), in)
		if err != nil {
			return nil, err
		}
		return r.Steps, nil
	}
	args := []string{"--build-arg", "BASE=" + base, "-t", image, "--push"}
	if from != "" {
		args = append(args, "--cache-from", from)
	}
	if to != "" {
		args = append(args, "--cache-to", to+",ignore-error=false")
	}
	if to == "type=inline" {
		args[len(args)-1] = to
	}
	b, err := mayfly(x.t.Context(), x.t, filepath.Join(x.t.TempDir(), "state"), nil, append(args, x.dir)...)
	if err != nil {
		return nil, err
	}
	return b.steps, nil
}

// An interopTable is what TestCacheInterop found.
type interopTable struct {
	mu   sync.Mutex
	rows map[string]string // by kind and way
}

func (tb *interopTable) add(kind, way string, cached, steps int, took time.Duration) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if tb.rows == nil {
		tb.rows = map[string]string{}
	}
	tb.rows[kind+way] = fmt.Sprintf("%d of %d, %.1f s", cached, steps, took.Seconds())
}

func (tb *interopTable) write(t *testing.T) {
	file := os.Getenv("CACHE_INTEROP_TABLE")
	if file == "" {
		return
	}
	ways := []string{"buildkitd → mayfly", "mayfly → buildkitd", "mayfly → mayfly"}
	out := "# Caches exchanged with BuildKit v0.33.1\n\n" +
		"`make cache-interop` builds one Dockerfile of three stages on an empty machine with the cache (mode=max) that was exported\n" +
		"on another one: steps that were cached, and how long the importing build took with its push. Both directions, every kind\n" +
		"of service: a GitHub cache service over azurite (v2), act's (v1), versitygw, azurite, docker-registry 2.8, distribution 3.1.\n\n" +
		"| | " + strings.Join(ways, " | ") + " |\n|---|" + strings.Repeat("---|", len(ways)) + "\n"
	for _, kind := range append(slices.Clone(services.CacheKinds), "inline") {
		out += "| " + kind + " |"
		for _, way := range ways {
			cell := tb.rows[kind+way]
			if cell == "" {
				cell = "failed"
			}
			out += " " + cell + " |"
		}
		out += "\n"
	}
	if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
		t.Error(err)
	}
}
