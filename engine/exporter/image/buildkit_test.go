package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
)

var buildkit = flag.String("buildkit", "", "rewrite testdata with the buildkitd v0.33.1 at this `address`, which loses its cache")

const madeBy = `# What BuildKit v0.33.1 makes of this, written by
#   go test ./engine/exporter/image -run TestRewriteVectors -buildkit unix:///run/buildkit/buildkitd.sock
# %s
`

// A build is one vector to be written.
type build struct {
	name, about string
	dockerfile  string            // $BASE is an image
	config      string            // instead of a Dockerfile: what a frontend says of state
	state       func() llb.State  // nil: no layers
	opts        map[string]string // of the frontend
	attrs       map[string]string // of the exporter
	inline      bool
}

const configOf = `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers"},%s}`

func builds() []build {
	epoch := map[string]string{"build-arg:SOURCE_DATE_EPOCH": "1700000000"}
	two := func() llb.State {
		return llb.Scratch().File(llb.Mkfile("/a", 0o644, []byte("a"))).File(llb.Mkfile("/b", 0o644, []byte("b")), llb.WithCustomName("make <b> & more"))
	}
	const onBase = "FROM $BASE\nENV A=b\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\",\"touch\",\"/x\"]\nCMD [\"a<b>&c\"]\n"
	return []build{
		{name: "scratch", about: "one layer", dockerfile: "FROM scratch\nCOPY busybox /bin/busybox\n"},
		{name: "nolayers", about: "a Dockerfile that makes none", dockerfile: "FROM scratch\nENV A=b\n"},
		{name: "metadata", about: "every instruction that only changes the config", dockerfile: `FROM scratch
ENV FIRST=1
LABEL a=b c="d e"
COPY busybox /bin/busybox
SHELL ["/bin/busybox","sh","-c"]
ARG X=1
RUN echo $X > /x
EXPOSE 80/tcp 53/udp
VOLUME /data
USER 1:2
WORKDIR /w
STOPSIGNAL SIGINT
HEALTHCHECK --interval=3s --start-period=1s CMD true
ONBUILD RUN echo child
ENTRYPOINT ["/bin/busybox"]
CMD ["sh","-c","echo <&>"]
RUN echo last > /data/y || true
MAINTAINER me
`},
		{name: "base", about: "a base whose config has fields of its own", dockerfile: onBase},
		{name: "epoch", about: "times after the epoch, those of the base kept", dockerfile: onBase, opts: epoch},
		{name: "epoch_old", about: "an epoch before the times of the base", dockerfile: onBase, opts: map[string]string{"build-arg:SOURCE_DATE_EPOCH": "1"}},
		{name: "epoch_rewrite", about: "layers with their files' times changed", dockerfile: onBase, opts: epoch, attrs: map[string]string{"rewrite-timestamp": "true"}},
		{name: "docker", about: "Docker's media types", dockerfile: onBase, attrs: map[string]string{"oci-mediatypes": "false"}},
		{name: "docker_rewrite", about: "Docker's media types, which have no annotations", dockerfile: onBase, opts: epoch, attrs: map[string]string{"oci-mediatypes": "false", "rewrite-timestamp": "true"}},
		{name: "annotations", about: "annotations of the manifest", dockerfile: onBase, attrs: map[string]string{"annotation.org.example.b": "<&>", "annotation.a": ""}},
		{name: "inline", about: "inline cache", dockerfile: onBase, inline: true},
		{name: "zstd", about: "layers as zstd", dockerfile: onBase, attrs: map[string]string{"compression": "zstd", "force-compression": "true"}},
		{name: "uncompressed", about: "layers as tar", dockerfile: onBase, attrs: map[string]string{"compression": "uncompressed", "force-compression": "true"}},
		{name: "estargz", about: "layers with annotations", dockerfile: onBase, attrs: map[string]string{"compression": "estargz", "force-compression": "true"}},
		{name: "llb", about: "no config", state: two},
		{name: "llb_epoch", about: "no config", state: two, attrs: map[string]string{"source-date-epoch": "1700000000"}},
		{name: "llb_empty", about: "neither config nor layers"},
		{name: "history_none", about: "a config without history", state: two, config: fmt.Sprintf(configOf, `"unknown":{"b":1,"a":["<&>",1.50,null]}`)},
		{name: "history_null", about: "a config whose history is null", state: two, config: fmt.Sprintf(configOf, `"history":null,"created":null`)},
		{name: "history_short", about: "fewer layers in the history than there are", state: two, config: fmt.Sprintf(configOf, `"history":[{"empty_layer":true,"created_by":"e"},{"created_by":"one","created":"2020-01-01T01:02:03.4567+05:30"}]`)},
		{name: "history_long", about: "more layers in the history than there are", state: two, config: fmt.Sprintf(configOf, `"history":[{"created_by":"one"},{"created_by":"two"},{"created_by":"three"},{"created_by":"four","created":"2020-01-01T00:00:00Z","author":"x"}]`)},
		{name: "history_empty", about: "layers in the history, none in the image", config: fmt.Sprintf(configOf, `"history":[{"created_by":"one"},{"created_by":"two","empty_layer":true}]`)},
		{name: "created", about: "a time with a zone that stays", state: two, config: fmt.Sprintf(configOf, `"created":"2020-01-01T01:02:03.40+05:30"`)},
		{name: "created_epoch", about: "a time that is clamped", state: two, config: fmt.Sprintf(configOf, `"created":"2024-01-01T01:02:03.40+05:30"`), attrs: map[string]string{"source-date-epoch": "1700000000"}},
		{name: "created_epoch_old", about: "a time that is older than the epoch", state: two, config: fmt.Sprintf(configOf, `"created":"2020-01-01T01:02:03.40+05:30"`), attrs: map[string]string{"source-date-epoch": "1700000000"}},
		{name: "created_null_epoch", about: "no time, and an epoch", state: two, config: fmt.Sprintf(configOf, `"created":null`), attrs: map[string]string{"source-date-epoch": "1700000000"}},
	}
}

func TestRewriteVectors(t *testing.T) {
	if *buildkit == "" {
		t.Skip("needs -buildkit")
	}
	c, err := client.New(t.Context(), *buildkit)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	base := serveBase(t)
	context := t.TempDir()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(context+"/busybox", busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, b := range builds() {
		t.Run(b.name, func(t *testing.T) {
			if err := c.Prune(t.Context(), nil, client.PruneAll); err != nil {
				t.Fatal(err)
			}
			df := strings.ReplaceAll(b.dockerfile, "$BASE", base)
			if err := os.WriteFile(context+"/Dockerfile", []byte(df), 0o644); err != nil {
				t.Fatal(err)
			}
			v, err := b.run(t.Context(), c, context)
			if err != nil {
				t.Fatal(err)
			}
			if err := writeVector("testdata/"+b.name+".txtar", fmt.Sprintf(madeBy, b.about), v); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func (b *build) run(ctx context.Context, c *client.Client, dir string) (*vector, error) {
	fs, err := fsutil.NewFS(dir)
	if err != nil {
		return nil, err
	}
	var archive closingBuffer
	attrs := map[string]string{}
	for k, v := range b.attrs {
		attrs[k] = v
	}
	opt := client.SolveOpt{
		LocalMounts: map[string]fsutil.FS{"context": fs, "dockerfile": fs},
		Exports: []client.ExportEntry{{
			Type: client.ExporterOCI, Attrs: attrs,
			Output: func(map[string]string) (io.WriteCloser, error) { return &archive, nil },
		}},
	}
	if b.inline {
		opt.CacheExports = []client.CacheOptionsEntry{{Type: "inline"}}
	}
	v := &vector{}
	_, err = c.Build(ctx, opt, "", func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
		res, err := b.result(ctx, g)
		if err != nil {
			return nil, err
		}
		v.Config, v.Base = res.Metadata["containerimage.config"], res.Metadata["containerimage.base.config"]
		return res, nil
	}, nil)
	if err != nil {
		return nil, err
	}
	v.Input.DockerTypes = attrs["oci-mediatypes"] == "false"
	for _, s := range []string{b.opts["build-arg:SOURCE_DATE_EPOCH"], attrs["source-date-epoch"]} {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			e := time.Unix(n, 0).UTC()
			v.Input.Epoch = &e
		}
	}
	for k, val := range attrs {
		if name, ok := strings.CutPrefix(k, "annotation."); ok {
			if v.Input.Annotations == nil {
				v.Input.Annotations = map[string]string{}
			}
			v.Input.Annotations[name] = val
		}
	}
	return v, v.fill(ctx, c, archive.Bytes(), attrs["rewrite-timestamp"] == "true")
}

func (b *build) result(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
	if b.dockerfile != "" {
		return g.Solve(ctx, gateway.SolveRequest{Frontend: "dockerfile.v0", FrontendOpt: b.opts})
	}
	res := gateway.NewResult()
	if b.state != nil {
		def, err := b.state().Marshal(ctx)
		if err != nil {
			return nil, err
		}
		if res, err = g.Solve(ctx, gateway.SolveRequest{Definition: def.ToPB()}); err != nil {
			return nil, err
		}
	}
	if b.config != "" {
		res.AddMeta("containerimage.config", []byte(b.config))
	}
	return res, nil
}

type closingBuffer struct{ bytes.Buffer }

func (*closingBuffer) Close() error { return nil }

// fill reads the outputs, and of the inputs what BuildKit knows of its layers.
func (v *vector) fill(ctx context.Context, c *client.Client, archive []byte, rewrite bool) error {
	files := map[string][]byte{}
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			return err
		}
	}
	blob := func(d digest.Digest) []byte { return files["blobs/sha256/"+d.Encoded()] }
	var index ocispec.Index
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		return err
	}
	v.Manifest = blob(index.Manifests[0].Digest)
	var m ocispec.Manifest
	if err := json.Unmarshal(v.Manifest, &m); err != nil {
		return err
	}
	v.Image = blob(m.Config.Digest)
	var img struct {
		ocispec.Image
		Cache []byte `json:"moby.buildkit.cache.v0"`
	}
	if err := json.Unmarshal(v.Image, &img); err != nil {
		return err
	}
	v.Cache = img.Cache
	var base ocispec.Image
	if v.Base != nil {
		if err := json.Unmarshal(v.Base, &base); err != nil {
			return err
		}
	}
	records, err := chain(ctx, c)
	if err != nil {
		return err
	}
	if len(records) < len(m.Layers) {
		return fmt.Errorf("%d cache records, %d layers", len(records), len(m.Layers))
	}
	records = records[len(records)-len(m.Layers):]
	for i, d := range m.Layers {
		l := layer{Desc: d, DiffID: img.RootFS.DiffIDs[i], Created: records[i].CreatedAt, Description: records[i].Description}
		l.Desc.MediaType = strings.Replace(d.MediaType, "application/vnd.docker.image.rootfs.diff.tar.", "application/vnd.oci.image.layer.v1.tar+", 1)
		if l.Desc.Annotations == nil {
			l.Desc.Annotations = map[string]string{}
		}
		delete(l.Desc.Annotations, "buildkit/rewritten-timestamp")
		// As BuildKit and remote caches describe layers to themselves.
		l.Desc.Annotations["containerd.io/uncompressed"] = l.DiffID.String()
		l.Desc.Annotations["buildkit/createdat"] = l.Created.Format(time.RFC3339Nano)
		l.Desc.Annotations["buildkit/description"] = l.Description
		if i < len(base.RootFS.DiffIDs) {
			l.Desc.Annotations["org.example.base"] = "of the base's manifest"
		} else if rewrite {
			l.RewrittenTo = v.Input.Epoch
		}
		v.Input.Layers = append(v.Input.Layers, l)
	}
	return nil
}

// chain returns the longest chain of cache records, the bottom first.
func chain(ctx context.Context, c *client.Client) ([]*client.UsageInfo, error) {
	all, err := c.DiskUsage(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[string]*client.UsageInfo{}
	for _, r := range all {
		byID[r.ID] = r
	}
	var best []*client.UsageInfo
	for _, r := range all {
		var up []*client.UsageInfo
		for ; r != nil && !strings.HasPrefix(r.Description, "local source"); r = parent(byID, r) {
			up = append(up, r)
		}
		if len(up) > len(best) {
			best = up
		}
	}
	slices.Reverse(best)
	return best, nil
}

func parent(byID map[string]*client.UsageInfo, r *client.UsageInfo) *client.UsageInfo {
	if len(r.Parents) == 0 {
		return nil
	}
	return byID[r.Parents[0]]
}

const baseConfig = `{"architecture":"amd64","author":"somebody","config":{"Env":["PATH=/bin"],"Cmd":["sh"],"ArgsEscaped":true},` +
	`"container":"abc","container_config":{"Hostname":"x"},"created":"2021-02-03T04:05:06.789+02:00","docker_version":"20.10.7",` +
	`"history":[{"created":"2021-02-03T04:05:05.1+02:00","created_by":"/bin/sh -c #(nop) ADD file:1 in / "},` +
	`{"created":"2021-02-03T04:05:06.789+02:00","created_by":"/bin/sh -c #(nop)  CMD [\"sh\"]","empty_layer":true},` +
	`{"created":"2035-02-03T04:05:06Z","created_by":"from the future & <beyond>"}],` +
	`"os":"linux","rootfs":{"type":"layers","diff_ids":["%s","%s"]},"x":{"y":[1,2]}}`

// serveBase serves an image with two layers and returns its name.
func serveBase(t *testing.T) string {
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	put := func(method, path string, data []byte, mediaType string) {
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", mediaType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			t.Fatalf("%s %s: %s", method, path, resp.Status)
		}
	}
	desc := func(mediaType string, data []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		put(http.MethodPost, "/v2/base/blobs/uploads/?digest="+d.Digest.String(), data, "application/octet-stream")
		return d
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	var diffIDs []any
	for _, name := range []string{"one", "two"} {
		var plain, packed bytes.Buffer
		tw := tar.NewWriter(&plain)
		if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(1800000000, 0)}); err != nil {
			t.Fatal(err)
		}
		tw.Close()
		zw := gzip.NewWriter(&packed)
		zw.Write(plain.Bytes())
		zw.Close()
		d := desc(ocispec.MediaTypeImageLayerGzip, packed.Bytes())
		d.Annotations = map[string]string{"org.example.base": "of the base's manifest", "buildkit/rewritten-timestamp": "1"}
		m.Layers = append(m.Layers, d)
		diffIDs = append(diffIDs, digest.FromBytes(plain.Bytes()))
	}
	m.Config = desc(ocispec.MediaTypeImageConfig, fmt.Appendf(nil, baseConfig, diffIDs...))
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	put(http.MethodPut, "/v2/base/manifests/latest", data, m.MediaType)
	return strings.TrimPrefix(s.URL, "http://") + "/base:latest"
}
