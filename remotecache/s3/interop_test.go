package s3_test

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
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
	"github.com/mayfly-build/mayfly/remotecache/s3"
)

// attrs is a cache of BuildKit in srv.
func attrs(srv *services.S3, more string) string {
	return fmt.Sprintf("type=s3,region=%s,bucket=%s,endpoint_url=%s,use_path_style=true,access_key_id=%s,secret_access_key=%s,%s",
		srv.Region, srv.Bucket, srv.URL, srv.AccessKeyID, srv.SecretAccessKey, more)
}

const dockerfile = `FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]

FROM base AS data
RUN head -c 12000000 /dev/urandom > /data

FROM base
COPY --from=data /data /data
RUN wc -c /data > /size
`

type memoryBlob struct{ *bytes.Reader }

func (memoryBlob) Close() error { return nil }

// TestBuildKit: we read what buildkitd saved, and an empty buildkitd builds
// with what we saved: all steps are cached, and the result is the same.
func TestBuildKit(t *testing.T) {
	if testing.Short() {
		t.Skip("builds with buildkitd")
	}
	ctx := t.Context()
	srv := start(t, services.S3Config{})
	bk := services.NewBuildkitd(t)
	ctl, err := services.Tool("buildctl")
	services.Need(t, err)
	dir := t.TempDir()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skipf("%v (Debian: apt install busybox-static)", err)
	}
	for name, data := range map[string][]byte{"busybox": busybox, "Dockerfile": []byte(dockerfile)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build := func(in services.Build) (tar []byte, steps []services.Step) {
		t.Helper()
		if out, err := exec.Command(ctl, "--addr", bk.Addr, "prune", "--all").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		file := filepath.Join(t.TempDir(), "out.tar")
		in.Context, in.Env = dir, []string{"SOURCE_DATE_EPOCH=1700000000"}
		in.Outputs = []string{"type=tar,dest=" + file, "type=image,name=unused"} // buildctl tells of the latter only
		res, err := bk.Build(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		if tar, err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		return tar, res.Steps
	}
	want, _ := build(services.Build{Export: []string{attrs(srv, "mode=max,prefix=ci/,name=feature/x;main")}})

	cfg := reach(srv)
	cfg.Prefix = "ci/"
	theirs := open(t, cfg)
	listed, err := theirs.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var refs []string
	for _, r := range listed.Refs {
		refs = append(refs, r.Ref)
	}
	if slices.Sort(refs); !slices.Equal(refs, []string{"feature/x", "main"}) {
		t.Errorf("refs %v", refs)
	}
	idx, err := theirs.LoadIndex(ctx, "feature/x")
	if err != nil {
		t.Fatal(err)
	}
	if len(idx.Layers) < 4 || len(listed.Blobs) != len(idx.Blobs()) {
		t.Fatalf("%d layers, %d blobs in the index, %d in the bucket", len(idx.Layers), len(idx.Blobs()), len(listed.Blobs))
	}
	if missing, err := theirs.Missing(ctx, descriptors(idx)); err != nil || len(missing) > 0 {
		t.Errorf("missing %v, %v", missing, err)
	}
	read := func(ctx context.Context, desc ocispec.Descriptor) (remotecache.BlobReader, error) {
		r, err := remotecache.Verify(theirs).Open(ctx, desc, 0)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		data, err := io.ReadAll(r)
		return memoryBlob{bytes.NewReader(data)}, err
	}

	// An attachment, such as a signature, does not keep BuildKit from reading.
	note, data := remotecachetest.Blob(1, 300)
	note.MediaType = remotecache.AttachmentPrefix + "note.v1"
	idx.Attach(remotecache.Blob{Digest: note.Digest, Size: note.Size, MediaType: note.MediaType})
	idx.Version = remotecache.Absent
	cfg.Prefix, cfg.BlobsPrefix = "ours/", new("b/")
	ours := open(t, cfg)
	out, err := remotecache.Export(ctx, ours, "main", idx, func(ctx context.Context, desc ocispec.Descriptor) (remotecache.BlobReader, error) {
		if desc.Digest == note.Digest {
			return memoryBlob{bytes.NewReader(data)}, nil
		}
		return read(ctx, desc)
	}, remotecache.ExportOptions{})
	if err != nil || out.Blobs != len(idx.Blobs()) {
		t.Fatalf("%+v, %v", out, err)
	}
	got, steps := build(services.Build{Import: []string{attrs(srv, "prefix=ours/,blobs_prefix=b/,name=main")}})
	n := 0
	for _, s := range steps {
		if strings.HasPrefix(s.Name, "[") && !strings.HasPrefix(s.Name, "[internal]") {
			n++
			if !s.Cached {
				t.Errorf("%s ran", s.Name)
			}
		}
	}
	if n < 5 || !bytes.Equal(got, want) {
		t.Errorf("%d steps; the result is the same: %v", n, bytes.Equal(got, want))
	}
}

func descriptors(idx *remotecache.Index) []ocispec.Descriptor {
	var out []ocispec.Descriptor
	for _, blob := range idx.Blobs() {
		out = append(out, blob.Descriptor())
	}
	return out
}

var _ io.Closer = (*s3.Backend)(nil)
