package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/mayfly-build/mayfly/e2e/services"
)

const attestDockerfile = `ARG BASE
FROM $BASE AS tools
RUN --mount=type=secret,id=TOKEN --mount=type=secret,id=MAYBE,env=MAYBE,required=false echo tool > /tool
ARG HTTP
ADD $HTTP/file.txt /file.txt

FROM $BASE
ARG NAME=nobody
RUN --network=none echo $NAME > /name
COPY --from=tools /tool /file.txt /
COPY hello /
`

// An attestCase is a build whose attestations are compared with BuildKit's.
type attestCase struct {
	bk             *services.Buildkitd
	dir, reg, root string
	in             services.Build
	args           []string
}

func newAttestCase(t *testing.T) *attestCase {
	t.Helper()
	reg := services.NewRegistry(t)
	c := &attestCase{bk: services.NewBuildkitd(t), dir: t.TempDir(), reg: reg.Addr, root: filepath.Join(t.TempDir(), "state")}
	if err := services.BaseIndex(t.Context(), reg.Addr+"/multi"); err != nil {
		t.Fatal(err)
	}
	served := t.TempDir()
	for path, text := range map[string]string{
		filepath.Join(c.dir, "Dockerfile"): attestDockerfile, filepath.Join(c.dir, "hello"): "hi\n",
		filepath.Join(served, "file.txt"): "from afar\n", filepath.Join(served, "token"): "s3cr3t-v4lue",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files := services.StartFiles(served)
	t.Cleanup(func() { files.Close() })
	for _, a := range []string{"BASE=" + reg.Addr + "/multi", "HTTP=" + files.URL, "NAME=somebody", "SOURCE_DATE_EPOCH=1700000000"} {
		c.in.Opts = append(c.in.Opts, "build-arg:"+a)
		c.args = append(c.args, "--build-arg", a)
	}
	c.in.Context = c.dir
	c.in.Opts = append(c.in.Opts, "label:who=me")
	c.in.Secrets = []string{"id=TOKEN,src=" + filepath.Join(served, "token")}
	c.args = append(c.args, "--label", "who=me", "--secret", c.in.Secrets[0])
	return c
}

// build builds with both, with the attributes of provenance.
func (c *attestCase) build(t *testing.T, provenance, theirs, ours string, platforms ...string) *build {
	t.Helper()
	in, args := c.in, append([]string{"--attest", "type=provenance," + provenance}, c.args...)
	in.Opts = append([]string{"attest:provenance=" + provenance}, in.Opts...)
	if len(platforms) > 0 {
		in.Opts = append(in.Opts, "platform="+strings.Join(platforms, ","))
		args = append(args, "--platform", strings.Join(platforms, ","))
	}
	const output = "type=image,push=true,rewrite-timestamp=true,compression=uncompressed,force-compression=true,name="
	in.Outputs = []string{output + theirs}
	if _, err := c.bk.Build(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	b, err := mayfly(t.Context(), t, c.root, nil, append(args, "-o", output+ours, c.dir)...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestProvenance: what mayfly attests is what BuildKit attests of the same
// build, but for times and the build's name.
func TestProvenance(t *testing.T) {
	c := newAttestCase(t)
	for _, attrs := range []string{
		"mode=min", "mode=max", "mode=max,version=v0.2", "mode=min,version=v0.2,reproducible=true,builder-id=https://ci.test/1",
	} {
		t.Run(attrs, func(t *testing.T) {
			theirs, ours := c.reg+"/buildkit/app:1", c.reg+"/mayfly/app:1"
			c.build(t, attrs, theirs, ours)
			sameAttestations(t, theirs, ours, 1)
		})
	}
	t.Run("platforms", func(t *testing.T) {
		theirs, ours := c.reg+"/buildkit/app:2", c.reg+"/mayfly/app:2"
		b := c.build(t, "mode=max", theirs, ours, "linux/arm64", "linux/amd64")
		sameAttestations(t, theirs, ours, 2)
		checkRecord(t, b, "buildx.build.provenance/linux/amd64", "buildx.build.provenance/linux/arm64")
	})
	t.Run("git", func(t *testing.T) {
		theirs, ours := c.reg+"/buildkit/app:3", c.reg+"/mayfly/app:3"
		git := *c
		git.dir = repository(t, c.dir) + "#main"
		git.in.Opts = append([]string{"context=" + git.dir}, c.in.Opts...)
		b := git.build(t, "mode=max", theirs, ours)
		sameAttestations(t, theirs, ours, 1)
		checkRecord(t, b, "buildx.build.provenance")
	})
	t.Run("files", func(t *testing.T) {
		if testing.Short() {
			t.Skip("many builds")
		}
		c.files(t)
	})
}

// repository serves the files of dir as the branch main, and returns the URL.
func repository(t *testing.T, dir string) string {
	t.Helper()
	served := t.TempDir()
	repo := filepath.Join(served, "app.git")
	for _, args := range [][]string{
		{"init", "-q", "-b", "main", repo},
		{"-C", repo, "--work-tree", dir, "add", "."},
		{"-C", repo, "--work-tree", dir, "-c", "user.name=e2e", "-c", "user.email=e2e@example.test", "commit", "-q", "-m", "all"},
	} {
		if out, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v: %s", args, err, out)
		}
	}
	s, err := services.StartGitDaemon(served)
	return services.Use(t, s, err).URL + "/app.git"
}

// checkRecord: the metadata file has the provenance, without steps and times.
func checkRecord(t *testing.T, b *build, keys ...string) {
	t.Helper()
	dt, err := os.ReadFile(b.metadata)
	if err != nil {
		t.Fatal(err)
	}
	var meta map[string]json.RawMessage
	if err := json.Unmarshal(dt, &meta); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		text := string(meta[k])
		for _, want := range []string{"https://mobyproject.org/buildkit@v1", "pkg:docker/", "build-arg:NAME", "TOKEN"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s has no %q: %s", k, want, text)
			}
		}
		if strings.Contains(text, "buildConfig") || strings.Contains(text, "buildStartedOn") {
			t.Errorf("%s: %s", k, text)
		}
	}
}

// sameAttestations compares the indexes of two images with attestations.
func sameAttestations(t *testing.T, theirs, ours string, images int) {
	t.Helper()
	want, got := indexOf(t, theirs), indexOf(t, ours)
	if len(got.manifest.Manifests) != 2*images || len(want.manifest.Manifests) != 2*images {
		t.Fatalf("the index is\n%s\nBuildKit's is\n%s", got.raw, want.raw)
	}
	for i, w := range want.manifest.Manifests {
		g := got.manifest.Manifests[i]
		if i < images {
			if g.Digest != w.Digest {
				t.Errorf("image %d is %s, BuildKit's %s", i, g.Digest, w.Digest)
			}
			continue
		}
		if g.Platform.String() != "unknown/unknown" || g.Annotations["vnd.docker.reference.digest"] != w.Annotations["vnd.docker.reference.digest"] || len(g.Annotations) != len(w.Annotations) {
			t.Errorf("attestations are listed as %+v, BuildKit's as %+v", g, w)
		}
		wm, ws := attestationsOf(t, theirs, w.Digest)
		gm, gs := attestationsOf(t, ours, g.Digest)
		if d := linesDiff(wm, gm); len(wm) != len(gm) || !strings.HasPrefix(d, "the same") {
			t.Errorf("the manifest of attestations differs:\n%s", d)
		}
		if d := linesDiff(ws, gs); len(ws) != len(gs) || !strings.HasPrefix(d, "the same") {
			t.Errorf("the statement differs:\n%s", d)
		}
	}
}

// attestationsOf returns a manifest of attestations and its statements as lines
// of JSON, without what is another in each build.
func attestationsOf(t *testing.T, image string, d v1.Hash) (manifest, statements []string) {
	t.Helper()
	ref, err := name.ParseReference(image)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := remote.Get(ref.Context().Digest(d.String()))
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(desc.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	for _, l := range m["layers"].([]any) {
		layer := l.(map[string]any)
		blob, err := remote.Layer(ref.Context().Digest(layer["digest"].(string)))
		if err != nil {
			t.Fatal(err)
		}
		rc, err := blob.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		var dt bytes.Buffer
		_, err = dt.ReadFrom(rc)
		rc.Close()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(dt.String(), "s3cr3t-v4lue") {
			t.Errorf("a secret is in %s", dt.String())
		}
		layer["digest"], layer["size"] = "", 0
		text := strings.ReplaceAll(dt.String(), "/"+ref.Context().RepositoryStr()+"@", "/REPO@")
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		statements = append(statements, indented(t, mustJSON(t, timeless(v)))...)
	}
	return indented(t, mustJSON(t, m)), statements
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	dt, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return dt
}

// timeless replaces times, the names of builds, and the digests of what has a
// time or a session in it: operations that read the context, and layers as
// their steps made them.
func timeless(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			switch k {
			case "startedOn", "finishedOn", "buildStartedOn", "buildFinishedOn", "invocationId", "buildInvocationID":
				v[k] = k
			case "digestMapping":
				v[k] = slices.Sorted(values(x.(map[string]any)))
			case "layers":
				for _, chains := range x.(map[string]any) {
					for _, l := range chains.([]any)[0].([]any) {
						l.(map[string]any)["digest"], l.(map[string]any)["size"] = "", 0
					}
				}
			case "root":
				// The request that buildctl was given, which asks for the
				// frontend in a second one.
				delete(v, k)
			default:
				v[k] = timeless(x)
			}
		}
	case []any:
		for i := range v {
			v[i] = timeless(v[i])
		}
	}
	return v
}

func values(m map[string]any) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, v := range m {
			if !yield(v.(string)) {
				return
			}
		}
	}
}

// TestImagetools: docker buildx reads the provenance.
func TestImagetools(t *testing.T) {
	buildx, err := services.Tool("buildx")
	services.Need(t, err)
	services.NeedRoot(t)
	reg := services.NewRegistry(t)
	if err := services.BaseIndex(t.Context(), reg.Addr+"/base"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+reg.Addr+"/base\nRUN echo hi > /hi\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ref := reg.Addr + "/app:1"
	// Without a word of attestations there is one, of mode=min.
	env := []string{"BUILDX_NO_DEFAULT_ATTESTATIONS="}
	if _, err := mayfly(t.Context(), t, filepath.Join(dir, "state"), env, "--platform", "linux/amd64,linux/arm64", "-t", ref, "--push", dir); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), buildx, "imagetools", "inspect", "--format", "{{json .Provenance}}", ref)
	cmd.Env = append(os.Environ(), "BUILDX_CONFIG="+t.TempDir(), "DOCKER_CONFIG="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got map[string]struct {
		SLSA struct {
			BuildDefinition struct {
				BuildType            string
				ResolvedDependencies []struct{ URI string }
			}
			RunDetails struct{ Metadata struct{ InvocationID string } }
		}
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, p := range []string{"linux/amd64", "linux/arm64"} {
		deps := got[p].SLSA.BuildDefinition.ResolvedDependencies
		if len(deps) != 1 || !strings.Contains(deps[0].URI, "/base@latest?platform="+strings.ReplaceAll(p, "/", "%2F")) || got[p].SLSA.RunDetails.Metadata.InvocationID == "" {
			t.Errorf("%s: %s", p, out)
		}
	}
}
