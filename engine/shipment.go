package engine

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/engine/exporter/image"
	"github.com/mayfly-build/mayfly/engine/exporter/oci"
	"github.com/mayfly-build/mayfly/engine/progress"
	"github.com/mayfly-build/mayfly/internal/registry"
)

// A shipment is an image ready to go: a root, which is a manifest or an index,
// and all that it leads to.
type shipment struct {
	root      oci.Part
	blobs     []oci.Part // configs and statements
	manifests []oci.Part // that an index names; none where the root is a manifest
	layers    []placed
	images    []*targetImage
	created   time.Time
}

// assemble makes one root of the images: the manifest of a single one, an index
// of several, or of one that has attestations, which are in the order of images.
func assemble(ctx context.Context, p *product, images []*targetImage, attested [][]attestation, o Output) (*shipment, error) {
	s := &shipment{images: images, created: time.Now().UTC()}
	if epoch := images[0].epoch; epoch != nil {
		s.created = epoch.UTC()
	}
	for _, img := range images {
		s.blobs = append(s.blobs, oci.Part{Desc: img.ConfigDesc, Data: img.Config})
		s.layers = append(s.layers, img.blobs...)
	}
	if !p.multi && len(attested[0]) == 0 {
		img := images[0]
		desc := img.ManifestDesc
		desc.Platform = &img.target.platform.Platform
		s.root = oci.Part{Desc: desc, Data: img.Manifest}
		return s, nil
	}
	in := image.IndexInput{Annotations: o.annotations(OnIndex, nil), DockerTypes: o.DockerTypes}
	for _, img := range images {
		in.Entries = append(in.Entries, image.Entry{Desc: img.ManifestDesc, Platform: img.target.platform.Platform})
		s.manifests = append(s.manifests, oci.Part{Desc: img.ManifestDesc, Data: img.Manifest})
	}
	for i, img := range images {
		if len(attested[i]) == 0 {
			continue
		}
		a, err := attest(ctx, img, attested[i], o)
		if err != nil {
			return nil, err
		}
		in.Entries = append(in.Entries, a.Entry())
		for _, b := range a.Blobs {
			s.blobs = append(s.blobs, oci.Part(b))
		}
		s.manifests = append(s.manifests, oci.Part(a.Manifest))
	}
	idx, err := image.BuildIndex(in)
	if err != nil {
		return nil, err
	}
	idx.Desc.Annotations = o.annotations(OnIndexDescriptor, nil)
	s.root = oci.Part{Desc: idx.Desc, Data: idx.Data}
	return s, nil
}

// attest makes the statements about one image.
func attest(ctx context.Context, img *targetImage, list []attestation, o Output) (*image.Attestations, error) {
	list = slices.Clone(list)
	for i, a := range list {
		if a.ofImage && a.predicateType == spdxDocument {
			var err error
			if list[i].predicate, err = withLayers(ctx, a.predicate, img); err != nil {
				return nil, err
			}
		}
	}
	about, err := subjects(o.Names, img.target.platform.Platform, img.ManifestDesc.Digest)
	if err != nil {
		return nil, err
	}
	return image.Attest(img.ManifestDesc, statements(list, about), !o.PlainAttestations)
}

// described returns the root's descriptor with the time of the image.
func (s *shipment) described() ocispec.Descriptor {
	desc := s.root.Desc
	desc.Annotations = maps.Clone(desc.Annotations)
	if desc.Annotations == nil {
		desc.Annotations = map[string]string{}
	}
	if desc.Annotations[ocispec.AnnotationCreated] == "" {
		desc.Annotations[ocispec.AnnotationCreated] = s.created.Format(time.RFC3339)
	}
	return desc
}

// into reports the image that went to o.
func (s *shipment) into(res *Result, o Output) {
	desc := s.described()
	res.Digest, res.Config, res.Descriptor = desc.Digest, "", &desc
	res.Size, res.Images = 0, nil
	for _, img := range s.images {
		is := PlatformImage{
			Platform: img.target.platform.Platform, Digest: img.ManifestDesc.Digest, Config: img.ConfigDesc.Digest,
			Size: img.ManifestDesc.Size + img.ConfigDesc.Size,
		}
		for _, l := range img.Layers {
			is.Size += l.Size
		}
		res.Images = append(res.Images, is)
		res.Size += is.Size
	}
	if len(s.manifests) == 0 {
		res.Config = s.images[0].ConfigDesc.Digest
		desc.Annotations[exptypes.ExporterConfigDigestKey] = res.Config.String()
	} else {
		res.Size += desc.Size
	}
	for _, n := range o.Names {
		if !slices.Contains(res.Names, n) {
			res.Names = append(res.Names, n)
		}
	}
}

// deliver takes a finished image where it is to go.
func (b *build) deliver(ctx context.Context, s *shipment, o Output) error {
	if o.Kind == OutputImage {
		if !o.Push {
			return nil
		}
		return b.push(ctx, s, o)
	}
	out := oci.Image{
		Manifest: s.root.Data, ManifestDesc: s.described(), Names: o.Names,
		Open: func(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
			i := slices.IndexFunc(s.layers, func(p placed) bool { return p.blob.Desc.Digest == desc.Digest })
			if i < 0 {
				return nil, fmt.Errorf("layer %s is not of this image", desc.Digest)
			}
			return s.layers[i].state.Open(ctx, s.layers[i].blob)
		},
	}
	for _, img := range s.images {
		out.Layers = append(out.Layers, img.Layers...)
	}
	if len(s.manifests) == 0 {
		out.Config, out.ConfigDesc = s.blobs[0].Data, s.blobs[0].Desc
	} else {
		out.Parts = slices.Concat(s.blobs, s.manifests)
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

// push brings the configs, then the manifests that an index names, and then
// the root to every name: a tag moves last, when all it needs is there.
func (b *build) push(ctx context.Context, s *shipment, o Output) error {
	err := eachPart(ctx, o.Names, s.blobs, func(ctx context.Context, name string, p oci.Part) error {
		return b.req.Registry.PutBlob(ctx, name, p.Desc, func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(p.Data)), nil
		}, "")
	})
	if err != nil {
		return err
	}
	err = eachPart(ctx, o.Names, s.manifests, func(ctx context.Context, name string, p oci.Part) error {
		return b.pushManifest(ctx, byDigest(name, p.Desc), p)
	})
	if err != nil {
		return err
	}
	for _, name := range o.Names {
		to := name
		if o.ByDigest {
			to = byDigest(name, s.root.Desc)
		}
		if err := b.pushManifest(ctx, to, s.root); err != nil {
			return fmt.Errorf("push %s: %w", name, err)
		}
	}
	return nil
}

// partsAtOnce is how many small blobs are on their way to a repository at once.
const partsAtOnce = 4

// eachPart puts every part under every name.
func eachPart(ctx context.Context, names []string, parts []oci.Part, put func(ctx context.Context, name string, p oci.Part) error) error {
	for _, name := range names {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(partsAtOnce)
		for _, p := range parts {
			g.Go(func() error { return put(gctx, name, p) })
		}
		if err := g.Wait(); err != nil {
			return fmt.Errorf("push %s: %w", name, err)
		}
	}
	return nil
}

func (b *build) pushManifest(ctx context.Context, to string, p oci.Part) error {
	shown := to
	if !strings.Contains(to, "@") {
		shown += "@" + p.Desc.Digest.String()
	}
	part := progress.From(ctx).Start("pushing manifest for "+shown, p.Desc.Size)
	defer part.Done()
	return b.req.Registry.PutManifest(ctx, to, p.Desc, p.Data)
}

// byDigest returns the repository of name with the digest of desc.
func byDigest(name string, desc ocispec.Descriptor) string {
	if ref, err := registry.ParseRef(name); err == nil {
		name = ref.Name()
	}
	return name + "@" + desc.Digest.String()
}
