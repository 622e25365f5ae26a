package signed_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/local"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
	"github.com/mayfly-build/mayfly/remotecache/signed"
)

// A builder is a buildkitd and something to build.
type builder struct {
	*services.Buildkitd
	ctl, context string
}

func newBuilder(t *testing.T) *builder {
	t.Helper()
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
	return &builder{services.NewBuildkitd(t), ctl, dir}
}

// build builds with nothing but the caches that are imported, and returns how
// many steps there are and which of them ran.
func (b *builder) build(t *testing.T, in services.Build) (steps int, ran []string) {
	t.Helper()
	if out, err := exec.Command(b.ctl, "--addr", b.Addr, "prune", "--all").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	in.Context, in.Outputs = b.context, []string{"type=image,name=unused"}
	res, err := b.Build(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range res.Steps {
		if !strings.HasPrefix(s.Name, "[") || strings.HasPrefix(s.Name, "[internal]") {
			continue
		}
		steps++
		if !s.Cached {
			ran = append(ran, s.Name)
		}
	}
	return steps, ran
}

func (b *builder) allCached(t *testing.T, from string) {
	t.Helper()
	if steps, ran := b.build(t, services.Build{Import: []string{from}}); steps < 3 || len(ran) > 0 {
		t.Errorf("of %d steps ran %q", steps, ran)
	}
}

// TestBuildKitReadsSigned has buildkitd write a cache, signs it, and has
// buildkitd, emptied, build with it: every step is cached. What buildkitd
// writes over it is not signed, and refused.
func TestBuildKitReadsSigned(t *testing.T) {
	bk := newBuilder(t)
	cache := filepath.Join(t.TempDir(), "cache")
	export := services.Build{Export: []string{"type=local,mode=max,dest=" + cache}}
	bk.build(t, export)
	for name, form := range map[string]manifest.Form{"manifest": {}, "index": {Index: true}, "docker": {Index: true, Docker: true}} {
		t.Run(name, func(t *testing.T) {
			b, err := local.New(local.Config{Dir: cache, Form: form})
			if err != nil {
				t.Fatal(err)
			}
			key := newKey(t, "ed25519")
			v := verify(t, b, keys(key))
			theirs := load(t, b, b.Ref())
			save(t, sign(t, b, key), b.Ref(), theirs)
			if ours := load(t, v, b.Ref()); len(ours.Layers) != len(theirs.Layers) || len(ours.Records) != len(theirs.Records) || len(ours.Layers) == 0 {
				t.Errorf("%d layers and %d records of %d and %d", len(ours.Layers), len(ours.Records), len(theirs.Layers), len(theirs.Records))
			}
			bk.allCached(t, "type=local,src="+cache)
			bk.build(t, export)
			refused(t, v, b.Ref(), signed.Unsigned)
		})
	}
}

// TestBuildKitReadsSignedAnnotated is the same for a place where the Index has
// the facts of the layers in it, as azblob, s3 and gha have them: there
// BuildKit looks at every layer before it knows which ones it needs.
func TestBuildKitReadsSignedAnnotated(t *testing.T) {
	bk := newBuilder(t)
	srv, err := services.StartAzurite(services.AzuriteConfig{})
	services.Use(t, srv, err)
	cred, err := azblob.NewSharedKeyCredential(srv.Account, srv.Key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := azblob.NewClientWithSharedKeyCredential(srv.URL, cred, nil)
	if err != nil {
		t.Fatal(err)
	}
	at := "type=azblob,account_url=" + srv.URL + ",account_name=" + srv.Account + ",secret_access_key=" + srv.Key + ",container=cache,name=app"
	bk.build(t, services.Build{Export: []string{at + ",mode=max"}})

	theirs := make([]byte, 1<<20)
	n, err := c.DownloadBuffer(t.Context(), "cache", "manifests/app", theirs, nil)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t, "p256")
	b := &annotated{Memory: remotecache.NewMemory(), saved: theirs[:n]}
	save(t, sign(t, b, key), "app", load(t, b, "app"))
	load(t, verify(t, b, keys(key)), "app")
	sig, _ := load(t, b, "app").Attachment(signed.MediaType)
	for name, data := range map[string][]byte{"manifests/app": b.saved, "blobs/" + sig.Digest.String(): readBlob(t, b, sig)} {
		if _, err := c.UploadBuffer(t.Context(), "cache", name, data, nil); err != nil {
			t.Fatal(err)
		}
	}
	bk.allCached(t, at)
}
