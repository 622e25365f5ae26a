package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// A cacheContext is a build whose cache is measured.
type cacheContext struct{ dir, what, dockerfile string }

// cacheContexts are builds of a few large, several and many tiny layers. The
// step behind them runs in the import: it needs them all.
func cacheContexts() []cacheContext {
	layers := func(n int, step string) string {
		return "ARG BASE\nFROM $BASE\n" + repeat(1, n, func(b *strings.Builder, i int) {
			fmt.Fprintf(b, step+"\n", i, i)
		}) + "ARG LAST=1\nRUN echo $LAST >/last\n"
	}
	return []cacheContext{
		{"cache1", "1 GiB in 1 layer", layers(1, "RUN gen -seed 90%d -files 400 -size 1G -mix half -exp /l%d")},
		{"cache60", "1 GiB in 60 layers", layers(60, "RUN gen -seed 91%d -files 100 -size 17M -mix half -exp /l%d")},
		{"cache400", "400 layers of 1 KiB", layers(100, "RUN gen -seed 92%d -size 1K -mix random /l%d\n"+
			"COPY Dockerfile /a%[1]d\nCOPY Dockerfile /b%[1]d\nCOPY Dockerfile /c%[1]d")},
	}
}

// measureCaches measures what exporting and importing a cache costs, for every
// context and service, the tools in turn.
//
// An export is that of a build whose steps are all in the state directory: it
// compresses and sends. An import is a build on an empty state directory that
// finds all steps but the last one in the cache: it reads the index, fetches
// and unpacks every layer, and runs that step.
func measureCaches(ctx context.Context, b *bench, tools []tool, stdout io.Writer) (err error) {
	r := &cacheReport{o: b.options, begin: time.Now()}
	for _, c := range cacheContexts() {
		if len(b.contexts) > 0 && !slices.Contains(b.contexts, c.dir) {
			continue
		}
		for _, t := range tools {
			if err := b.seed(ctx, t, c); err != nil {
				return fmt.Errorf("build %s with %s: %w", c.dir, t.name(), err)
			}
		}
		for _, delay := range b.delays {
			if err := b.measureServices(ctx, tools, c, delay, r); err != nil {
				return err
			}
		}
		for _, t := range tools {
			if err := b.discard(seedOf(b, t)); err != nil {
				return err
			}
		}
	}
	return r.write(stdout)
}

func (b *bench) measureServices(ctx context.Context, tools []tool, c cacheContext, delay time.Duration, r *cacheReport) (err error) {
	for _, name := range b.services {
		svc, err := startCaches(ctx, b, name, delay)
		if err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
		err = b.measureService(ctx, svc, tools, c, delay, r)
		if err := errors.Join(err, svc.Close()); err != nil {
			return fmt.Errorf("%s of %s: %w", name, c.dir, err)
		}
	}
	return nil
}

func (b *bench) measureService(ctx context.Context, svc *services.Cache, tools []tool, c cacheContext, delay time.Duration, r *cacheReport) error {
	for i := range b.runs {
		order := slices.Clone(tools)
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, t := range order {
			p := svc.Place(fmt.Sprintf("%s-%s-%d-%d", c.dir, t.name(), delay.Milliseconds(), i))
			export, err := b.measureExport(ctx, t, c, p)
			if err != nil {
				return fmt.Errorf("export with %s: %w", t.name(), err)
			}
			imported, err := b.measureImport(ctx, t, c, p)
			if err != nil {
				return fmt.Errorf("import with %s: %w", t.name(), err)
			}
			for way, s := range map[string]sample{"export": export, "import": imported} {
				fmt.Fprintf(b.log, "%s %s +%v %s %s %.3fs, peak %d MiB\n", c.dir, svc.Kind, delay, way, t.name(), s.took.Seconds(), s.peak>>20)
				r.add(c, svc.Kind, way, delay, t.name(), s)
			}
		}
	}
	return nil
}

func seedOf(b *bench, t tool) string { return filepath.Join(b.dir, "seed-"+t.name()) }

func (b *bench) cacheJob(c cacheContext) job {
	return job{context: filepath.Join(b.work, c.dir), base: b.ref("base"), bare: true}
}

// seed builds c and keeps the state directory.
func (b *bench) seed(ctx context.Context, t tool, c cacheContext) error {
	if _, err := b.builds(ctx, t, []string{""}, []job{b.cacheJob(c)}, nil); err != nil {
		return err
	}
	if err := b.discard(seedOf(b, t)); err != nil {
		return err
	}
	return os.Rename(t.state(), seedOf(b, t))
}

// measureExport measures the build of the seed again, with an export.
func (b *bench) measureExport(ctx context.Context, t tool, c cacheContext, p services.CachePlace) (sample, error) {
	if err := b.discard(t.state()); err != nil {
		return sample{}, err
	}
	if out, err := exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", seedOf(b, t), t.state()).CombinedOutput(); err != nil {
		return sample{}, fmt.Errorf("copy the state: %w: %s", err, out)
	}
	if err := b.settle(ctx); err != nil {
		return sample{}, err
	}
	j := b.cacheJob(c)
	j.to = p.To + ",mode=max"
	return b.timed(ctx, t, j)
}

// measureImport measures a build on an empty state directory, but for its
// last step.
func (b *bench) measureImport(ctx context.Context, t tool, c cacheContext, p services.CachePlace) (sample, error) {
	if err := b.fresh(ctx, t); err != nil {
		return sample{}, err
	}
	j := b.cacheJob(c)
	j.from, j.args = p.From, []string{"LAST=2"}
	return b.timed(ctx, t, j)
}

// timed measures a build without the tool's boot and stop.
func (b *bench) timed(ctx context.Context, t tool, j job) (s sample, err error) {
	if err := t.start(); err != nil {
		return s, err
	}
	begin := time.Now()
	buildErr := t.build(ctx, j)
	s.took = time.Since(begin)
	s.peak, err = t.stop()
	return s, errors.Join(buildErr, err)
}
