package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/engine/exporter/image"
	"github.com/mayfly-build/mayfly/engine/exporter/local"
	"github.com/mayfly-build/mayfly/engine/exporter/oci"
	"github.com/mayfly-build/mayfly/engine/exporter/tar"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/progress"
	"github.com/mayfly-build/mayfly/internal/registry"
)

// export makes the result and gives it every form that is asked for. Caches
// are written beside the outputs and end in res. The error is a *cacheError
// when all is done but for caches that are to fail the build.
func (b *build) export(ctx context.Context, t *target, res *Result) error {
	state, err := t.state(ctx)
	if err != nil {
		return err
	}
	wait := b.startCacheExports(ctx, t, state)
	for _, o := range b.req.Outputs {
		if err := b.output(ctx, t, state, o, res); err != nil {
			wait(err)
			return err
		}
	}
	return wait(nil).into(res)
}

func (b *build) output(ctx context.Context, t *target, s *layer.State, o Output, res *Result) error {
	step := b.req.Progress.Step(stepName(o))
	step.Begin()
	err := b.outputAs(progress.With(ctx, step), t, s, o, res)
	step.End(err)
	return err
}

func stepName(o Output) string {
	switch {
	case o.Kind == OutputImage && o.Push:
		return "pushing image"
	case o.Kind == OutputImage:
		return "exporting to image"
	case o.Kind == OutputOCI:
		return "exporting to oci image format"
	case o.Kind == OutputDocker:
		return "exporting to docker image format"
	}
	return "exporting to " + string(o.Kind)
}

func (b *build) outputAs(ctx context.Context, t *target, s *layer.State, o Output, res *Result) error {
	switch o.Kind {
	case OutputTar, OutputLocal:
		return b.files(ctx, t, s, o)
	}
	img, blobs, err := b.image(ctx, t, s, o)
	if err != nil {
		return err
	}
	if t.platform != nil {
		p := t.platform.Platform
		img.ManifestDesc.Platform = &p
	}
	created := time.Now().UTC()
	if epoch, err := t.epochFor(o); err == nil && epoch != nil {
		created = epoch.UTC()
	}
	img.ManifestDesc.Annotations = map[string]string{ocispec.AnnotationCreated: created.Format(time.RFC3339)}
	if err := b.deliver(ctx, img, blobs, o); err != nil {
		return err
	}
	desc := img.ManifestDesc
	desc.Annotations = map[string]string{
		ocispec.AnnotationCreated:        created.Format(time.RFC3339),
		exptypes.ExporterConfigDigestKey: img.ConfigDesc.Digest.String(),
	}
	res.Digest, res.Config, res.Descriptor = desc.Digest, img.ConfigDesc.Digest, &desc
	res.Size = desc.Size + img.ConfigDesc.Size
	for _, l := range img.Layers {
		res.Size += l.Size
	}
	for _, n := range o.Names {
		if !slices.Contains(res.Names, n) {
			res.Names = append(res.Names, n)
		}
	}
	return nil
}

func (b *build) files(ctx context.Context, t *target, s *layer.State, o Output) error {
	view, err := s.View(ctx)
	if err != nil {
		return err
	}
	epoch, err := t.epochFor(o)
	if err != nil {
		return err
	}
	if o.Kind == OutputLocal {
		return local.Export(ctx, view, o.Dir, local.Options{Epoch: epoch})
	}
	w, err := o.Open()
	if err != nil {
		return err
	}
	return closeFile(w, tar.Export(ctx, w, view, tar.Options{Epoch: epoch}))
}

// closeFile ends the writing of a file; one that failed, and can be given up,
// is.
func closeFile(w io.WriteCloser, err error) error {
	if f, ok := w.(interface{ Abandon() }); ok && err != nil {
		f.Abandon()
		return err
	}
	return errors.Join(err, w.Close())
}

// epochFor returns the time that later ones become; nil for none.
func (t *target) epochFor(o Output) (*time.Time, error) {
	if o.Epoch != nil || len(t.epoch) == 0 {
		return o.Epoch, nil
	}
	n, err := strconv.ParseInt(string(t.epoch), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("SOURCE_DATE_EPOCH: %q is not a number of seconds", t.epoch)
	}
	e := time.Unix(n, 0).UTC()
	return &e, nil
}

// A placed blob is a layer of an image and where its bytes are.
type placed struct {
	blob  layer.Blob
	state *layer.State
}

// image makes the layers' blobs, config and manifest. With a push the blobs
// travel as soon as they are made.
func (b *build) image(ctx context.Context, t *target, s *layer.State, o Output) (*image.Image, []placed, error) {
	epoch, err := t.epochFor(o)
	if err != nil {
		return nil, nil, err
	}
	base, err := baseDiffIDs(t.baseConfig)
	if err != nil {
		return nil, nil, err
	}
	chain := chainOf(s)
	blobs := make([]placed, len(chain))
	layers := make([]image.Layer, len(chain))
	g, gctx := errgroup.WithContext(ctx)
	for i, l := range chain {
		g.Go(func() error {
			blob, err := l.Blob(gctx, o.Compression, o.ForceCompression)
			if err != nil {
				return err
			}
			rewrite := o.RewriteTimestamp && epoch != nil && (i >= len(base) || base[i] != blob.DiffID)
			if rewrite {
				if blob, err = b.layers.Rewritten(gctx, l, blob, o.Compression, *epoch); err != nil {
					return err
				}
			}
			info := l.Info()
			blobs[i] = placed{blob, l}
			layers[i] = image.Layer{Desc: blob.Desc, DiffID: blob.DiffID, Created: info.Created, Description: info.Description}
			if rewrite {
				layers[i].RewrittenTo = epoch
			}
			if o.Push {
				return b.pushBlob(gctx, o.Names, blobs[i])
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	img, err := image.Build(image.Input{
		Config: t.config, BaseConfig: t.baseConfig, Layers: layers, Epoch: epoch,
		InlineCache: b.inlineCache(ctx, t, layers), DockerTypes: o.DockerTypes, Annotations: o.Annotations,
	})
	return img, blobs, err
}

func baseDiffIDs(config []byte) ([]digest.Digest, error) {
	if len(config) == 0 {
		return nil, nil
	}
	var img ocispec.Image
	if err := json.Unmarshal(config, &img); err != nil {
		return nil, fmt.Errorf("base image config: %w", err)
	}
	return img.RootFS.DiffIDs, nil
}

func chainOf(s *layer.State) []*layer.State {
	if s == nil {
		return nil
	}
	return s.Chain()
}

// deliver takes a finished image where it is to go.
func (b *build) deliver(ctx context.Context, img *image.Image, blobs []placed, o Output) error {
	switch o.Kind {
	case OutputImage:
		if !o.Push {
			return nil
		}
		return b.push(ctx, img, o)
	}
	out := oci.Image{
		Manifest: img.Manifest, ManifestDesc: img.ManifestDesc, Config: img.Config, ConfigDesc: img.ConfigDesc,
		Layers: img.Layers, Names: o.Names,
		Open: func(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
			i := slices.IndexFunc(blobs, func(p placed) bool { return p.blob.Desc.Digest == desc.Digest })
			if i < 0 {
				return nil, fmt.Errorf("layer %s is not of this image", desc.Digest)
			}
			return blobs[i].state.Open(ctx, blobs[i].blob)
		},
	}
	if !o.Tar {
		return oci.WriteDir(ctx, o.Dir, out)
	}
	w, err := o.Open()
	if err != nil {
		return err
	}
	return closeFile(w, oci.WriteTar(ctx, w, out, o.Kind == OutputDocker))
}

// pushBlob brings one layer to the repository of every name.
func (b *build) pushBlob(ctx context.Context, names []string, p placed) error {
	for _, name := range names {
		ref, err := registry.ParseRef(name)
		if err != nil {
			return err
		}
		from := ""
		if p.blob.Origin != nil {
			from = p.blob.Origin.Repository()
		}
		if from == ref.Name() {
			continue // the registry gave it to us: it holds it
		}
		part := progress.From(ctx).Start("pushing layer "+p.blob.Desc.Digest.String(), p.blob.Desc.Size)
		err = b.req.Registry.PutBlob(ctx, name, p.blob.Desc, func() (io.ReadCloser, error) {
			return p.state.Open(ctx, p.blob)
		}, from)
		part.Done()
		if err != nil {
			return fmt.Errorf("push %s: %w", name, err)
		}
	}
	return nil
}

// push brings the config and then the manifest to every name: a tag moves
// last, when all it needs is there.
func (b *build) push(ctx context.Context, img *image.Image, o Output) error {
	for _, name := range o.Names {
		err := b.req.Registry.PutBlob(ctx, name, img.ConfigDesc, func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(img.Config)), nil
		}, "")
		if err != nil {
			return fmt.Errorf("push %s: %w", name, err)
		}
	}
	for _, name := range o.Names {
		whole := name + "@" + img.ManifestDesc.Digest.String()
		if o.ByDigest {
			name = whole
		}
		part := progress.From(ctx).Start("pushing manifest for "+whole, img.ManifestDesc.Size)
		err := b.req.Registry.PutManifest(ctx, name, img.ManifestDesc, img.Manifest)
		part.Done()
		if err != nil {
			return fmt.Errorf("push %s: %w", name, err)
		}
	}
	return nil
}
