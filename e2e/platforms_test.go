package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// platformsDockerfile has a stage of this machine's platform, steps that run
// for each platform, and one that does not depend on any.
const platformsDockerfile = `ARG BASE
FROM --platform=$BUILDPLATFORM $BASE AS build
ARG TARGETPLATFORM
RUN echo built for $TARGETPLATFORM > /out
RUN --mount=type=bind,source=hello,target=/src cp /src /same

FROM $BASE
COPY --from=build /out /same /
RUN uname -s > /uname && ln /same /linked
ARG TARGETARCH
LABEL arch=$TARGETARCH
`

// A platformsCase is what a test of several platforms works with.
type platformsCase struct {
	bk             *services.Buildkitd
	dir, reg, root string
	opts, args     []string // of buildctl, and the same of mayfly
}

func newPlatformsCase(t *testing.T) *platformsCase {
	t.Helper()
	reg := services.NewRegistry(t)
	c := &platformsCase{bk: services.NewBuildkitd(t), dir: t.TempDir(), reg: reg.Addr, root: filepath.Join(t.TempDir(), "state")}
	base := reg.Addr + "/multi"
	if err := services.BaseIndex(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"Dockerfile": platformsDockerfile, "hello": "hi\n"} {
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c.opts = []string{"build-arg:BASE=" + base, "build-arg:SOURCE_DATE_EPOCH=1700000000", "platform=linux/arm64,linux/amd64"}
	c.args = []string{"--build-arg", "BASE=" + base, "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "--platform", "linux/arm64", "--platform", "linux/amd64"}
	return c
}

// both builds with BuildKit and with mayfly, whose output is the same but for
// what NAME stands for.
func (c *platformsCase) both(t *testing.T, output, theirs, ours string, args ...string) *build {
	t.Helper()
	in := services.Build{Context: c.dir, Opts: c.opts, Outputs: []string{strings.ReplaceAll(output, "NAME", theirs)}}
	if _, err := c.bk.Build(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	args = slices.Concat(c.args, args, []string{"-o", strings.ReplaceAll(output, "NAME", ours), c.dir})
	b, err := mayfly(t.Context(), t, c.root, nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPlatforms builds for two platforms with buildkitd and with mayfly: index,
// manifests, configs and layers, tars and directories are the same.
func TestPlatforms(t *testing.T) {
	c := newPlatformsCase(t)
	t.Run("image", func(t *testing.T) {
		theirs, ours := c.reg+"/buildkit/multi:1", c.reg+"/mayfly/multi:1"
		b := c.both(t, "type=image,push=true,name=NAME,rewrite-timestamp=true,compression=uncompressed,force-compression=true,"+
			"annotation.of=all,annotation-manifest[linux/arm64].of=arm,annotation-index.whole=yes,annotation-manifest-descriptor[linux/amd64].d=e", theirs, ours)
		want, got := indexOf(t, theirs), indexOf(t, ours)
		if !bytes.Equal(want.raw, got.raw) {
			t.Errorf("the index is\n%s\nBuildKit's is\n%s", got.raw, want.raw)
		}
		if b.digest != got.digest {
			t.Errorf("printed %s, pushed %s", b.digest, got.digest)
		}
		for i, w := range want.manifest.Manifests {
			if i < len(got.manifest.Manifests) && got.manifest.Manifests[i].Digest != w.Digest {
				row := pulledManifest(t, theirs, w.Digest.String())
				mine := pulledManifest(t, ours, got.manifest.Manifests[i].Digest.String())
				t.Errorf("%v: config\n%s%s", w.Platform, linesDiff(indented(t, row.raw), indented(t, mine.raw)), layersDiff(t, row.img, mine.img))
			}
		}
		checkPlatformsMetadata(t, b, got)
		checkVertexNames(t, b)
	})
	t.Run("tar", func(t *testing.T) {
		theirs, ours := filepath.Join(t.TempDir(), "bk.tar"), filepath.Join(t.TempDir(), "mayfly.tar")
		c.both(t, "type=tar,dest=NAME", theirs, ours)
		sameFile(t, theirs, ours)
	})
	t.Run("oci", func(t *testing.T) {
		theirs, ours := filepath.Join(t.TempDir(), "bk.tar"), filepath.Join(t.TempDir(), "mayfly.tar")
		c.both(t, "type=oci,dest=NAME,name=example.test/app:1,rewrite-timestamp=true,compression=uncompressed,force-compression=true,annotation-index-descriptor.a=b", theirs, ours)
		sameFile(t, theirs, ours)
	})
	t.Run("local", func(t *testing.T) {
		theirs, ours := t.TempDir(), t.TempDir()
		c.both(t, "type=local,dest=NAME", theirs, ours)
		want, got := listing(t, theirs), listing(t, ours)
		if want != got || !strings.Contains(got, "linux_arm64/out") {
			t.Errorf("files differ:\n%s", linesDiff(strings.Split(want, "\n"), strings.Split(got, "\n")))
		}
	})
	t.Run("cache", func(t *testing.T) { c.cached(t) })
	t.Run("one", func(t *testing.T) { // of another platform or of this one: a plain manifest
		for _, p := range []string{"linux/arm64", "linux/amd64"} {
			one := *c
			one.opts = append(slices.Clone(c.opts[:len(c.opts)-1]), "platform="+p)
			one.args = append(slices.Clone(c.args[:len(c.args)-4]), "--platform", p)
			theirs, ours := c.reg+"/buildkit/one:1", c.reg+"/mayfly/one:1"
			one.both(t, "type=image,push=true,name=NAME,rewrite-timestamp=true,compression=uncompressed,force-compression=true", theirs, ours)
			if want, got := indexOf(t, theirs), indexOf(t, ours); !bytes.Equal(want.raw, got.raw) || len(got.manifest.Manifests) > 0 {
				t.Errorf("%s: the manifest is\n%s\nBuildKit's is\n%s", p, got.raw, want.raw)
			}
		}
	})
}

// cached imports what both platforms' steps left, in a fresh state dir.
func (c *platformsCase) cached(t *testing.T) {
	for _, kind := range []string{"registry", "inline"} {
		ref := c.reg + "/app:" + kind
		to, from := "type=inline", ref
		if kind == "registry" {
			to, from = "type=registry,mode=max,ref="+ref+"-cache", "type=registry,ref="+ref+"-cache"
		}
		args := append(slices.Clone(c.args), "-t", ref, "--push", "--cache-to", to, c.dir)
		if _, err := mayfly(t.Context(), t, filepath.Join(t.TempDir(), "first"), nil, args...); err != nil {
			t.Fatal(err)
		}
		args = append(slices.Clone(c.args), "-t", ref+"-again", "--push", "--cache-from", from, c.dir)
		b, err := mayfly(t.Context(), t, filepath.Join(t.TempDir(), "second"), nil, args...)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range uncached(b.steps) {
			// An inline cache has what the image is made of only.
			if kind == "registry" || strings.Contains(s, "stage-1") {
				t.Errorf("%s: ran %s", kind, s)
			}
		}
	}
}

type pulledIndex struct {
	raw      []byte
	digest   string
	manifest *v1.IndexManifest
}

func indexOf(t *testing.T, s string) (p pulledIndex) {
	t.Helper()
	ref, err := name.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	d, err := remote.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	p.raw, p.digest = d.Manifest, d.Digest.String()
	p.manifest = &v1.IndexManifest{}
	if err := json.Unmarshal(p.raw, p.manifest); err != nil {
		t.Fatal(err)
	}
	return p
}

func pulledManifest(t *testing.T, ref, digest string) pulledImage {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	return pulled(t, r.Context().Name()+"@"+digest)
}

// checkPlatformsMetadata: buildx's keys name the index, ours each image.
func checkPlatformsMetadata(t *testing.T, b *build, idx pulledIndex) {
	t.Helper()
	var meta struct {
		Digest     string                              `json:"containerimage.digest"`
		Config     *string                             `json:"containerimage.config.digest"`
		Descriptor v1.Descriptor                       `json:"containerimage.descriptor"`
		Images     []struct{ Platform, Digest string } `json:"mayfly.images"`
	}
	dt, err := os.ReadFile(b.metadata)
	if err == nil {
		err = json.Unmarshal(dt, &meta)
	}
	if err != nil {
		t.Fatal(err)
	}
	if meta.Digest != idx.digest || meta.Config != nil || !meta.Descriptor.MediaType.IsIndex() || meta.Descriptor.Digest.String() != idx.digest {
		t.Errorf("metadata %s", dt)
	}
	for i, m := range idx.manifest.Manifests {
		if i >= len(meta.Images) || meta.Images[i].Digest != m.Digest.String() || meta.Images[i].Platform != m.Platform.String() {
			t.Errorf("image %d is %v, metadata has %+v", i, m, meta.Images)
		}
	}
}

// checkVertexNames: the steps of each platform have its name, and what is the
// same for both is done once.
func checkVertexNames(t *testing.T, b *build) {
	t.Helper()
	count := map[string]int{}
	for _, s := range b.steps {
		count[s.Name]++
	}
	for _, p := range []string{"linux/arm64", "linux/amd64"} {
		if n := count["["+p+" stage-1 3/3] RUN uname -s > /uname && ln /same /linked"]; n != 1 {
			t.Errorf("%d RUN steps of %s: %v", n, p, count)
		}
	}
}

func sameFile(t *testing.T, theirs, ours string) {
	t.Helper()
	want, err := os.ReadFile(theirs)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(ours)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("%d bytes that differ from BuildKit's %d:\n%s", len(got), len(want), linesDiff(tarLines(t, theirs), tarLines(t, ours)))
	}
}

// tarLines has a line for each header of a tar.
func tarLines(t *testing.T, path string) (lines []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		if h.Size < 2000 {
			dt, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			text = string(dt)
		}
		lines = append(lines, fmt.Sprintf("%c %s -> %q %o %d:%d %d %s %s", h.Typeflag, h.Name, h.Linkname, h.Mode, h.Uid, h.Gid, h.Size, h.ModTime.UTC(), text))
	}
}

// listing has a line for each file: mode, time of what is no step's, content.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&out, "%s %v %d", rel, fi.Mode(), fi.ModTime().Unix())
		if fi.Mode().IsRegular() {
			dt, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %d %.40q", len(dt), dt)
		}
		out.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestForeignRun: a step whose program is of another architecture says so, and
// what to do, before it runs.
func TestForeignRun(t *testing.T) {
	services.NeedRoot(t)
	reg := services.NewRegistry(t)
	arch, machine := "s390x", []byte{0x7f, 'E', 'L', 'F', 2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 22}
	if runtime.GOARCH == arch {
		t.Skip("this machine runs s390x")
	}
	if err := services.Base(t.Context(), reg.Addr+"/base", services.File{Path: "bin/foreign", Mode: 0o755, Data: append(machine, make([]byte, 44)...)}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := "FROM --platform=$BUILDPLATFORM " + reg.Addr + "/base AS b\nFROM scratch\nCOPY --from=b /bin /bin\nRUN [\"foreign\", \"x\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := mayfly(t.Context(), t, filepath.Join(dir, "state"), nil, "--platform", "linux/"+arch, "-t", "x", dir)
	if err == nil {
		t.Fatal("it ran")
	}
	for _, want := range []string{
		"RUN [\"foreign\", \"x\"]: /bin/foreign is a program for linux/s390x, and this machine (" + runtime.GOARCH + ") has no emulator for it",
		"hint:", "tonistiigi/binfmt --install s390x", "mayfly merge",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %q", err, want)
		}
	}
}
