package azblob_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/azblob"
)

// attrs are the attributes with which BuildKit finds a store.
func attrs(cfg azblob.Config, more ...string) string {
	all := []string{"type=azblob", "account_url=" + cfg.AccountURL, "account_name=" + cfg.AccountName, "secret_access_key=" + cfg.SecretAccessKey, "container=" + cfg.Container}
	for k, v := range map[string]string{"prefix": cfg.Prefix, "manifests_prefix": cfg.ManifestsPrefix, "blobs_prefix": cfg.BlobsPrefix} {
		if v != "" {
			all = append(all, k+"="+v)
		}
	}
	return strings.Join(append(all, more...), ",")
}

type bytesReader struct{ *bytes.Reader }

func (bytesReader) Close() error { return nil }

// testBuildKit: we read what buildkitd wrote, under the names that we give
// things, and an empty buildkitd builds with what we wrote.
func testBuildKit(t *testing.T, a *services.Azurite) {
	if testing.Short() {
		t.Skip("-short: builds with buildkitd")
	}
	ctx := t.Context()
	bk, reg := services.NewBuildkitd(t), services.NewRegistry(t)
	dir := t.TempDir()
	dockerfile := fmt.Sprintf("FROM %s/base AS a\nRUN head -c 9000000 /dev/urandom >/big\nRUN echo one >/one\nFROM %[1]s/base\nCOPY --from=a /one /\nRUN cat /one >/two\n", reg.Addr)
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	ctl, err := services.Tool("buildctl")
	services.Need(t, err)
	build := func(in services.Build) *services.Result {
		t.Helper()
		if out, err := exec.Command(ctl, "--addr", bk.Addr, "prune", "--all").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		in.Context, in.Outputs = dir, []string{"type=image,name=unused"}
		res, err := bk.Build(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	for _, tt := range []struct{ prefix, manifests, blobs string }{{"", "", ""}, {"ci/app", "m/", "b/c"}} {
		theirs, ours := empty(a), empty(a)
		for _, cfg := range []*azblob.Config{&theirs, &ours} {
			cfg.Prefix, cfg.ManifestsPrefix, cfg.BlobsPrefix = tt.prefix, tt.manifests, tt.blobs
		}
		build(services.Build{Export: []string{attrs(theirs, "mode=max", "name=main;other")}})
		src := open(t, theirs)
		idx, err := src.LoadIndex(ctx, "main")
		if err != nil {
			t.Fatal(err)
		}
		if other, err := src.LoadIndex(ctx, "other"); err != nil || len(other.Layers) != len(idx.Layers) || len(idx.Layers) < 5 {
			t.Fatalf("%d layers, and under the other name: %+v, %v", len(idx.Layers), other, err)
		}
		idx.Version = "" // of another store
		verified := remotecache.Verify(src)
		blobs := func(ctx context.Context, desc ocispec.Descriptor) (remotecache.BlobReader, error) {
			r, err := verified.Open(ctx, desc, 0)
			if err != nil {
				return nil, err
			}
			defer r.Close()
			data, err := io.ReadAll(r)
			return bytesReader{bytes.NewReader(data)}, err
		}
		dst := open(t, ours)
		for _, ref := range []string{"main", "other"} {
			if out, err := remotecache.Export(ctx, dst, ref, idx, blobs, remotecache.ExportOptions{}); err != nil || out.State != remotecache.OK {
				t.Fatalf("%+v, %v", out, err)
			}
		}
		if got, want := names(t, a, ours), names(t, a, theirs); !slices.Equal(got, want) {
			t.Errorf("we store %q, BuildKit %q", got, want)
		}
		for _, s := range build(services.Build{Import: []string{attrs(ours, "name=main")}}).Steps {
			if (strings.Contains(s.Name, "RUN") || strings.Contains(s.Name, "COPY")) && !s.Cached {
				t.Errorf("%s ran", s.Name)
			}
		}
		if missing, err := dst.Missing(ctx, descs(idx)); err != nil || len(missing) != 0 {
			t.Errorf("%d are missing, %v", len(missing), err)
		}
	}
}

func descs(idx *remotecache.Index) (out []ocispec.Descriptor) {
	for _, b := range idx.Blobs() {
		out = append(out, b.Descriptor())
	}
	return out
}
