package signed_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/remotecache/local"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
	"github.com/mayfly-build/mayfly/remotecache/signed"
)

// TestBuildKitReadsSigned has buildkitd write a cache, signs it, and has
// buildkitd, emptied, build with it: every step is cached. What buildkitd
// writes over it is not signed, and refused.
func TestBuildKitReadsSigned(t *testing.T) {
	if testing.Short() {
		t.Skip("starts buildkitd")
	}
	ctl, err := services.Tool("buildctl")
	services.Need(t, err)
	busybox, err := services.Tool("busybox")
	services.Need(t, err)
	dir := t.TempDir()
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	const dockerfile = `FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "echo built > /out"]
FROM scratch
COPY --from=base /out /out
`
	for name, data := range map[string][]byte{"busybox": data, "Dockerfile": []byte(dockerfile)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bk := services.NewBuildkitd(t)
	cache := filepath.Join(t.TempDir(), "cache")
	build := func(in services.Build) []services.Step {
		t.Helper()
		if out, err := exec.Command(ctl, "--addr", bk.Addr, "prune", "--all").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		in.Context, in.Outputs = dir, []string{"type=image,name=unused"}
		res, err := bk.Build(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		return res.Steps
	}
	export := "type=local,mode=max,dest=" + cache
	build(services.Build{Export: []string{export}})

	for name, form := range map[string]manifest.Form{"manifest": {}, "index": {Index: true}, "docker": {Index: true, Docker: true}} {
		t.Run(name, func(t *testing.T) {
			b, err := local.New(local.Config{Dir: cache, Form: form})
			if err != nil {
				t.Fatal(err)
			}
			key := newKey(t, "ed25519")
			v := verify(t, b, keys(key))
			theirs := load(t, b, b.Ref())
			layers, records := len(theirs.Layers), len(theirs.Records)
			save(t, sign(t, b, key), b.Ref(), theirs)
			if ours := load(t, v, b.Ref()); len(ours.Layers) != layers || len(ours.Records) != records || layers == 0 {
				t.Errorf("%d layers and %d records of %d and %d", len(ours.Layers), len(ours.Records), layers, records)
			}
			cached := 0
			for _, s := range build(services.Build{Import: []string{"type=local,src=" + cache}}) {
				if !strings.HasPrefix(s.Name, "[") || strings.HasPrefix(s.Name, "[internal]") {
					continue
				}
				if !s.Cached {
					t.Errorf("%s ran", s.Name)
				}
				cached++
			}
			if cached < 3 {
				t.Errorf("%d steps", cached)
			}
			build(services.Build{Export: []string{export}})
			refused(t, v, b.Ref(), signed.Unsigned)
		})
	}
}
