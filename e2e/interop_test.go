package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// TestInterop builds every case of testdata/differential on an empty machine
// with the cache (registry, mode=max) that the other tool exported: buildkitd
// v0.33.1 with mayfly's, mayfly with buildkitd's. Every step must be CACHED.
// The exporting side starts empty as well: a buildkitd that has built other
// cases sometimes exports less, and then does not find its own steps again.
func TestInterop(t *testing.T) {
	services.NeedRoot(t)
	reg := services.NewRegistry(t)
	files, err := filepath.Glob("testdata/differential/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) {
			t.Parallel()
			var c diffCase
			c.load(t, f, reg.Addr)
			if c.nocache != "" {
				t.Skip(c.nocache)
			}
			in, mine := c.commands(reg.Addr)

			t.Run("theirs", func(t *testing.T) {
				cache := reg.Addr + "/theirs/" + c.name
				first := in
				first.Outputs, first.Export = []string{"type=image"}, []string{"type=registry,mode=max,ref=" + cache}
				if _, err := services.NewBuildkitd(t).Build(t.Context(), first); err != nil {
					t.Fatal(err)
				}
				b, err := mayfly(t.Context(), t, filepath.Join(t.TempDir(), "state"), nil, append(mine, "--cache-from", "type=registry,ref="+cache, c.dir)...)
				if err != nil {
					t.Fatal(err)
				}
				if ran := uncached(b.steps); len(ran) > 0 {
					t.Errorf("with BuildKit's cache mayfly ran\n%s", strings.Join(ran, "\n"))
				}
			})
			t.Run("ours", func(t *testing.T) {
				cache := reg.Addr + "/ours/" + c.name
				if _, err := mayfly(t.Context(), t, filepath.Join(t.TempDir(), "state"), nil, append(mine, "--cache-to", "type=registry,mode=max,ref="+cache, c.dir)...); err != nil {
					t.Fatal(err)
				}
				second := in
				second.Outputs, second.Import = []string{"type=image"}, []string{"type=registry,ref=" + cache}
				res, err := services.NewBuildkitd(t).Build(t.Context(), second)
				if err != nil {
					t.Fatal(err)
				}
				if ran := uncached(res.Steps); len(ran) > 0 {
					t.Errorf("with mayfly's cache BuildKit ran\n%s", strings.Join(ran, "\n"))
				}
			})
		})
	}
}
