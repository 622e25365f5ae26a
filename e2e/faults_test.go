package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// faultsDockerfile makes the same image each time, so that a wrong one is
// seen by its digest.
const faultsDockerfile = `ARG BASE
FROM $BASE AS build
COPY big /big
RUN cat /big /big > /made && touch -d @1 /made
FROM $BASE
COPY --from=build /made /app
COPY hello /hello
RUN cat /hello /hello > /twice && touch -d @1 /twice
`

// TestCacheFaults builds with caches that are slow, broken, full, or refuse:
// the build and the push succeed, the image is that of a build without a
// cache, and the outcome is the one that docs/caches.md promises.
// $CACHE_FAULTS_TABLE names a file that the table is written to; without it
// only some of the faults are tried.
func TestCacheFaults(t *testing.T) {
	services.NeedRoot(t)
	full := os.Getenv("CACHE_FAULTS_TABLE") != ""
	w := newFaultWorld(t)
	var table faultTable
	var cells []*cell
	for _, f := range w.caches(t) {
		for _, fault := range faults() {
			if !full && !fault.short || len(fault.kinds) > 0 && !slices.Contains(fault.kinds, f.kind) || len(fault.kinds) == 0 && len(f.servers) == 0 && fault.name != "none" {
				continue
			}
			if only := os.Getenv("CACHE_FAULTS"); only != "" && fault.name != "none" && !strings.Contains(fault.name, only) {
				continue
			}
			for _, phase := range []string{"export", "import"} {
				x := &cell{faulty: f, w: w, fault: fault, phase: phase, place: f.good, repository: f.goodRepo}
				if x.want() == "" {
					continue
				}
				if phase == "export" && f.kind != "gha-v1" {
					x.place, x.repository = f.newPlace(x.slug())
				}
				cells = append(cells, x)
			}
		}
	}
	// First what a build takes without a fault, one after the other.
	cells = slices.DeleteFunc(cells, func(x *cell) bool {
		if x.fault.name != "none" {
			return false
		}
		t.Run(x.name(), func(t *testing.T) {
			r := runCell(t.Context(), x, t.Errorf)
			if r != nil {
				w.normal[x.kind+" "+x.phase] = r.took
				table.add(x, r)
			}
		})
		return true
	})
	var g, long errgroup.Group
	g.SetLimit(8) // most of them wait most of the time
	for _, x := range cells {
		start := g.Go
		if x.fault.most > time.Minute {
			start = long.Go
		}
		start(func() error {
			var wrong []string
			r := runCell(t.Context(), x, func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) })
			table.add(x, r)
			table.mu.Lock()
			defer table.mu.Unlock()
			t.Run(x.name(), func(t *testing.T) {
				if r != nil {
					t.Logf("%s, %+.1f s: %s; hint: %s", r.outcome, x.lost(r).Seconds(), r.reason, r.hint)
				}
				for _, s := range wrong {
					t.Error(s)
				}
			})
			return nil
		})
	}
	_, _ = g.Wait(), long.Wait()
	if full {
		table.write(t)
	}
}

func runCell(ctx context.Context, x *cell, errorf func(string, ...any)) *faultResult {
	defer x.close()
	r, err := x.run(ctx)
	if err != nil {
		errorf("%v", err)
		return nil
	}
	wrong := x.check(r)
	if x.phase == "export" && !x.fault.aside {
		more, err := x.heals(ctx, r.outcome == "ok")
		if err != nil {
			errorf("%v", err)
		}
		wrong = append(wrong, more...)
	}
	for _, s := range wrong {
		errorf("%s", s)
	}
	return r
}

// newFaultWorld makes the build's context and learns its image's digest.
func newFaultWorld(t *testing.T) *faultWorld {
	t.Helper()
	reg := services.NewRegistry(t)
	// The runtime's mount points are there, so that no step makes them.
	var dirs []services.File
	for _, d := range []string{"dev", "proc", "sys"} {
		dirs = append(dirs, services.File{Path: d + "/keep", Mode: 0o644})
	}
	services.Need(t, services.Base(t.Context(), reg.Addr+"/base", dirs...))
	w := &faultWorld{registry: reg.Addr, context: t.TempDir(), dir: t.TempDir(), normal: map[string]time.Duration{}}
	big := make([]byte, 400_000)
	for i, n := 0, uint32(1); i < len(big); i++ {
		n = n*1664525 + 1013904223 // of Numerical Recipes: does not compress
		big[i] = byte(n >> 24)
	}
	for name, data := range map[string][]byte{"Dockerfile": []byte(faultsDockerfile), "big": big, "hello": []byte("hello\n")} {
		file := filepath.Join(w.context, name)
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		r, err := (&cell{w: w, faulty: &faulty{kind: "no"}, phase: "cache"}).build(t.Context(), nil)
		if err != nil || r.exit != 0 || w.digest != "" && w.digest != r.digest {
			t.Fatalf("build without a cache: %v, %+v; before %s", err, r, w.digest)
		}
		w.digest = r.digest
	}
	return w
}

// caches starts a service of every kind, with a whole cache in it.
func (w *faultWorld) caches(t *testing.T) []*faulty {
	t.Helper()
	all := make([]*faulty, len(faultKinds))
	errs := make([]error, len(faultKinds))
	var work sync.WaitGroup
	for i, kind := range faultKinds {
		work.Go(func() {
			f := &faulty{kind: kind}
			all[i] = f
			f.cache, errs[i] = services.StartCache(t.Context(), kind, services.CacheConfig{Via: f.note})
			if errs[i] != nil {
				return
			}
			f.good, f.goodRepo = f.newPlace("good")
			f.azurite = f.cache.Azurite
			if kind == "gha" {
				f.azurite = f.cache.GHA.Azurite
			}
			r, err := (&cell{w: w, faulty: f, phase: "good"}).build(t.Context(), nil, "--cache-to", f.good.To+",mode=max,ignore-error=false")
			if err == nil && r.exit != 0 {
				t.Errorf("store a cache in %s: %s", kind, r.log)
			}
			errs[i] = err
		})
	}
	work.Wait()
	for i, f := range all {
		services.Need(t, errs[i])
		t.Cleanup(func() {
			if err := f.cache.Close(); err != nil {
				t.Errorf("close the service: %v", err)
			}
		})
		w.secrets = append(w.secrets, secretsOf(f.good.To)...)
	}
	return all
}

// secretsOf returns the values in a flag that nobody may see.
func secretsOf(spec string) (found []string) {
	for field := range strings.SplitSeq(spec, ",") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "secret_access_key":
			found = append(found, value)
		case "token":
			// The signature, so that a part of the token is found as well.
			found = append(found, value[strings.LastIndexByte(value, '.')+1:])
		}
	}
	return found
}
