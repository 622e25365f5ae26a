package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/exporter/image"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/provenance"
	"github.com/mayfly-build/mayfly/internal/hint"
)

// A Provenance says what is attested of how images were built.
type Provenance struct {
	provenance.Options

	// InlineOnly keeps it to images: no file of it is in a directory or tar.
	InlineOnly bool

	// Implied says that nobody asked for it: what cannot carry one, and an
	// image that is not pushed, goes without.
	Implied bool
}

// provenanceFile is the name of the statement among the files of a result.
const provenanceFile = "provenance.json"

// An attestation is a predicate about a target.
type attestation struct {
	predicateType string
	predicate     json.RawMessage
	subjects      []image.Subject // nil means what is exported
	file          string          // its name among files
	inlineOnly    bool
	ofImage       bool // an SBOM of the image itself, not of what it was built of
}

// carries reports whether provenance goes with the output.
func (p *Provenance) carries(o Output) bool {
	switch {
	case p == nil:
		return false
	case o.Kind == OutputImage:
		return !p.Implied || o.Push && !o.DockerTypes
	case o.Kind == OutputDocker:
		return false
	}
	return !p.InlineOnly || o.Kind == OutputOCI && o.InlineAttestations
}

// hasSBOM reports whether the frontend is to make one.
func (b *build) hasSBOM() bool {
	_, ok := b.req.Frontend["attest:sbom"]
	return ok
}

// checkAttestations says which output cannot carry what was asked for.
func (b *build) checkAttestations(o Output) error {
	asked := b.hasSBOM() || b.req.Provenance != nil && !b.req.Provenance.Implied
	if !asked {
		return nil
	}
	switch {
	case o.Kind == OutputDocker:
		b.warn(errors.New("an image for docker carries no attestations: they are left out; type=oci has them"))
	case (o.Kind == OutputImage || o.Kind == OutputOCI) && o.DockerTypes:
		return hint.With(errors.New("attestations need the media types of OCI"), "leave out oci-mediatypes=false, or the attestations: --provenance=false --sbom=false")
	}
	return nil
}

// attests reports whether an image for the output has attestations.
func (b *build) attests(o Output) bool {
	return b.req.Provenance.carries(o) || b.hasSBOM() && o.Kind != OutputDocker
}

// record puts the provenance into the result.
func (b *build) record(ctx context.Context, p *product, res *Result) error {
	res.Provenance = nil
	if b.req.Record == "" {
		return nil
	}
	o := provenance.Options{Mode: b.req.Record}
	if b.req.Provenance != nil {
		o.BuilderID, o.Reproducible = b.req.Provenance.BuilderID, b.req.Provenance.Reproducible
	}
	for _, t := range p.targets {
		facts, err := b.facts(ctx, p, t, o.Mode)
		if err != nil {
			return err
		}
		dt, err := facts.Record(o)
		if err != nil {
			return err
		}
		one := PlatformProvenance{Predicate: dt}
		if p.multi {
			one.Platform = t.platform.ID
		}
		res.Provenance = append(res.Provenance, one)
	}
	return nil
}

// attested makes the attestations of the targets, each once, in the order of
// the targets.
func (b *build) attested(ctx context.Context, p *product, o Output) ([][]attestation, error) {
	out := make([][]attestation, len(p.targets))
	for i, t := range p.targets {
		if o.Kind != OutputDocker {
			var err error
			if out[i], err = b.statedByFrontend(ctx, t); err != nil {
				return nil, err
			}
		}
		if !b.req.Provenance.carries(o) {
			continue
		}
		predicate, err := b.predicate(ctx, p, t)
		if err != nil && b.req.Provenance.Implied && ctx.Err() == nil {
			b.warn(fmt.Errorf("the image for %s is made without provenance: %w", t.platform.ID, err))
			continue
		}
		if err != nil {
			return nil, err
		}
		out[i] = append(out[i], attestation{
			predicateType: b.req.Provenance.PredicateType(), predicate: predicate,
			file: provenanceFile, inlineOnly: b.req.Provenance.InlineOnly,
		})
	}
	return out, nil
}

// predicate returns the provenance of a target.
func (b *build) predicate(ctx context.Context, p *product, t *target) (json.RawMessage, error) {
	facts, err := b.facts(ctx, p, t, b.req.Provenance.Mode)
	if err != nil {
		return nil, err
	}
	return facts.Predicate(b.req.Provenance.Options)
}

// statements returns the attestations as statements about what is exported.
func statements(list []attestation, exported []image.Subject) (out []image.Statement) {
	for _, a := range list {
		subjects := a.subjects
		if subjects == nil {
			subjects = exported
		}
		out = append(out, image.NewStatement(a.predicateType, subjects, a.predicate))
	}
	return out
}

// subjects returns the image under each of its names.
func subjects(names []string, p ocispec.Platform, d digest.Digest) (out []image.Subject, err error) {
	for _, n := range names {
		uri, err := provenance.ImageURI(n, &p)
		if err != nil {
			return nil, err
		}
		out = append(out, image.About(uri, d))
	}
	return out, nil
}

// withFiles returns the view with the statements of list as files at its top.
// suffix is a part of their names that tells platforms apart, "" for none.
func withFiles(ctx context.Context, view *fsdiff.View, list []attestation, o Output, suffix string, at time.Time) (*fsdiff.View, error) {
	list = slices.DeleteFunc(slices.Clone(list), func(a attestation) bool { return a.inlineOnly })
	if len(list) == 0 {
		return view, nil
	}
	var exported []image.Subject
	if view != nil {
		err := view.Walk("", func(e *fsdiff.Entry) error {
			if !e.Mode.IsRegular() {
				return nil
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			d, err := digestOf(e)
			if err != nil {
				return fmt.Errorf("digest of %s: %w", e.Path, err)
			}
			exported = append(exported, image.About(e.Path, d))
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	top := fsdiff.NewMem()
	for i, s := range statements(list, exported) {
		data, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("marshal the statement %s: %w", s.PredicateType, err)
		}
		name := o.AttestationPrefix + path.Base(list[i].file)
		if suffix != "" {
			ext := path.Ext(name)
			name = strings.TrimSuffix(name, ext) + "." + suffix + ext
		}
		top.Add(fsdiff.Entry{Path: name, Mode: 0o600, Size: int64(len(data)), ModTime: at, Content: fsdiff.Bytes(data)})
	}
	return fsdiff.NewView(view, top), nil
}

func digestOf(e *fsdiff.Entry) (digest.Digest, error) {
	if e.Content == nil {
		return digest.FromBytes(nil), nil
	}
	r, err := e.Content.Open()
	if err != nil {
		return "", err
	}
	d, err := digest.FromReader(r)
	return d, errors.Join(err, r.Close())
}

// facts returns what is known of the build of one target, and in mode of its
// layers.
func (b *build) facts(ctx context.Context, p *product, t *target, mode provenance.Mode) (*provenance.Build, error) {
	facts := &provenance.Build{
		Frontend: "dockerfile.v0", Args: b.req.Frontend, Platform: t.platform.Platform,
		Hidden: b.req.Hidden, ID: b.ref, Started: b.began.UTC(), Finished: b.finished.UTC(), Layers: map[provenance.Edge][]ocispec.Descriptor{},
	}
	for _, o := range p.targets {
		facts.All = append(facts.All, o.platform.Platform)
	}
	b.mu.Lock()
	facts.Images = slices.Clone(b.images)
	b.mu.Unlock()
	own, others := map[digest.Digest]bool{}, map[digest.Digest]bool{}
	for _, o := range p.targets {
		if o == t {
			o.reach(own)
		} else {
			o.reach(others)
		}
	}
	for _, tr := range b.solver.Traces() {
		if tr.Op == nil || others[tr.Vertex.Digest] && !own[tr.Vertex.Digest] {
			continue
		}
		s := provenance.Step{Vertex: tr.Vertex}
		if src, ok := tr.Op.(interface{ Pinned() string }); ok {
			s.Pinned = src.Pinned()
		}
		facts.Steps = append(facts.Steps, s)
	}
	if mode == provenance.Min || t.isEmpty() {
		return facts, nil
	}
	facts.Definition = t.ref.Definition()
	for _, rec := range b.solver.Records(ctx, t.ref.Edge) {
		if rec.Load == nil {
			continue
		}
		s, err := rec.Load(ctx)
		if err != nil {
			continue // a cache lost it: nothing is known of it any more
		}
		facts.Layers[provenance.Edge{Vertex: rec.Edge.Vertex.Digest, Index: rec.Edge.Index}] = known(s)
	}
	return facts, nil
}

// known returns the descriptors of a state's layers if every one is a blob
// already.
func known(s *layer.State) (out []ocispec.Descriptor) {
	for _, l := range chainOf(s) {
		blobs := l.Blobs()
		if len(blobs) == 0 {
			return nil
		}
		d := blobs[0].Desc
		out = append(out, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
	}
	return out
}

// reach adds the vertices that the target is made of.
func (t *target) reach(seen map[digest.Digest]bool) {
	var visit func(*llb.Vertex)
	visit = func(v *llb.Vertex) {
		if seen[v.Digest] {
			return
		}
		seen[v.Digest] = true
		for _, in := range v.Inputs {
			visit(in.Vertex)
		}
	}
	if !t.isEmpty() {
		visit(t.ref.Edge.Vertex)
	}
}

// noteImage keeps what the frontend asked of an image.
func (b *build) noteImage(src *pb.SourceOp, opt sourceresolver.Opt, resp *sourceresolver.MetaResponse) {
	ref, ok := strings.CutPrefix(src.Identifier, "docker-image://")
	if !ok || resp.Image == nil {
		return
	}
	img := provenance.Image{Ref: ref, Digest: resp.Image.Digest}
	if opt.ImageOpt != nil {
		img.Platform = opt.ImageOpt.Platform
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.images = append(b.images, img)
}
