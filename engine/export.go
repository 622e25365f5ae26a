package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/engine/exporter/image"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/progress"
	"github.com/mayfly-build/mayfly/internal/hint"
)

// canExport says which output cannot take what was built, before anything runs.
func (b *build) canExport(p *product) error {
	for _, o := range b.req.Outputs {
		if o.Kind == OutputDocker && p.multi {
			return hint.With(errors.New("an output of type=docker takes an image of one platform, not an index of several"),
				"give one --platform, or use -o type=oci, which holds all of them")
		}
		if err := b.checkAttestations(o); err != nil {
			return err
		}
		if err := o.checkAnnotations(p.multi || b.attests(o), p); err != nil {
			return err
		}
	}
	return nil
}

// export makes the result and gives it every form that is asked for. Caches
// are written beside the outputs and end in res. The error is a *cacheError
// when all is done but for caches that are to fail the build.
func (b *build) export(ctx context.Context, p *product, res *Result) error {
	states, err := p.states(ctx)
	if err != nil {
		return err
	}
	b.finished = time.Now()
	wait := b.startCacheExports(ctx, p)
	for _, o := range b.req.Outputs {
		if err := b.output(ctx, p, states, o, res); err != nil {
			wait(err)
			return err
		}
	}
	if err := b.record(ctx, p, res); err != nil {
		wait(err)
		return err
	}
	return wait(nil).into(res)
}

func (b *build) output(ctx context.Context, p *product, states []*layer.State, o Output, res *Result) error {
	step := b.req.Progress.Step(stepName(o))
	step.Begin()
	err := b.outputAs(progress.With(ctx, step), p, states, o, res)
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

func (b *build) outputAs(ctx context.Context, p *product, states []*layer.State, o Output, res *Result) error {
	switch o.Kind {
	case OutputTar, OutputLocal:
		return b.files(ctx, p, states, o)
	}
	images := make([]*targetImage, len(p.targets))
	g, gctx := errgroup.WithContext(ctx)
	for i, t := range p.targets {
		g.Go(func() (err error) {
			images[i], err = b.image(gctx, t, states[i], o)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	attested, err := b.attested(ctx, p, o)
	if err != nil {
		return err
	}
	s, err := assemble(ctx, p, images, attested, o)
	if err != nil {
		return err
	}
	if err := b.deliver(ctx, s, o); err != nil {
		return err
	}
	s.into(res, o)
	return nil
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

// A placed blob is a layer of an image and where its bytes are.
type placed struct {
	blob  layer.Blob
	state *layer.State
}

// A targetImage is the image of one target.
type targetImage struct {
	*image.Image
	target *target
	blobs  []placed
	epoch  *time.Time // that its times were clamped to; nil for none
}

// image makes the layers' blobs, config and manifest. With a push the blobs
// travel as soon as they are made.
func (b *build) image(ctx context.Context, t *target, s *layer.State, o Output) (*targetImage, error) {
	epoch, err := t.epochFor(o)
	if err != nil {
		return nil, err
	}
	base, err := baseDiffIDs(t.baseConfig)
	if err != nil {
		return nil, err
	}
	chain := chainOf(s)
	made := &targetImage{target: t, blobs: make([]placed, len(chain)), epoch: epoch}
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
			made.blobs[i] = placed{blob, l}
			layers[i] = image.Layer{Desc: blob.Desc, DiffID: blob.DiffID, Created: info.Created, Description: info.Description}
			if rewrite {
				layers[i].RewrittenTo = epoch
			}
			if o.Push {
				return b.pushBlob(gctx, o.Names, made.blobs[i])
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	made.Image, err = image.Build(image.Input{
		Config: t.config, BaseConfig: t.baseConfig, Layers: layers, Epoch: epoch,
		InlineCache: b.inlineCache(ctx, t, layers), DockerTypes: o.DockerTypes, Annotations: o.annotations(OnManifest, t),
	})
	if err != nil {
		return nil, err
	}
	made.ManifestDesc.Annotations = o.annotations(OnManifestDescriptor, t)
	return made, nil
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
