package provenance

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/solver/llbsolver/provenance/types"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// addSteps adds the definition, the source files it was made from, and the
// layers of its edges.
func (b *Build) addSteps(p *types.ProvenancePredicateSLSA1) error {
	steps, order, err := stepsOf(b.Definition)
	if err != nil {
		return err
	}
	p.BuildDefinition.InternalParameters.BuildConfig = &types.BuildConfig{Definition: steps, DigestMapping: stepNames(order)}
	meta := &p.RunDetails.Metadata.BuildKitMetadata
	if meta.Source, err = sourceFiles(b.Definition, order); err != nil {
		return err
	}
	for e, layers := range b.Layers {
		i, ok := order[e.Vertex]
		if !ok || len(layers) == 0 {
			continue
		}
		if meta.Layers == nil {
			meta.Layers = map[string][][]ocispec.Descriptor{}
		}
		meta.Layers[fmt.Sprintf("%s:%d", stepName(i), e.Index)] = [][]ocispec.Descriptor{layers}
	}
	return nil
}

func stepName(i int) string { return fmt.Sprintf("step%d", i) }

func stepNames(order map[digest.Digest]int) map[digest.Digest]string {
	names := map[digest.Digest]string{}
	for d, i := range order {
		names[d] = stepName(i)
	}
	return names
}

// stepsOf returns the operations of a definition, inputs first, and the
// position of each. What says which session a directory came from is left out.
func stepsOf(def *pb.Definition) ([]types.BuildStep, map[digest.Digest]int, error) {
	if def == nil || len(def.Def) == 0 {
		return nil, nil, nil
	}
	w := walker{ops: map[digest.Digest]*pb.Op{}, order: map[digest.Digest]int{}, seen: map[digest.Digest]bool{}}
	var last digest.Digest
	for _, dt := range def.Def {
		op := &pb.Op{}
		if err := op.UnmarshalVT(dt); err != nil {
			return nil, nil, fmt.Errorf("decode an operation: %w", err)
		}
		if src := op.GetSource(); src != nil {
			delete(src.Attrs, pb.AttrLocalSessionID)
			delete(src.Attrs, pb.AttrLocalUniqueID)
		}
		last = digest.FromBytes(dt)
		w.ops[last] = op
	}
	ret := w.ops[last]
	if ret.Op != nil || len(ret.Inputs) != 1 {
		return nil, nil, errors.New("the definition does not end in a return of one input")
	}
	if err := w.visit(last); err != nil {
		return nil, nil, err
	}
	return w.steps, w.order, nil
}

type walker struct {
	ops   map[digest.Digest]*pb.Op
	seen  map[digest.Digest]bool
	order map[digest.Digest]int
	steps []types.BuildStep
}

func (w *walker) visit(d digest.Digest) error {
	if w.seen[d] {
		return nil
	}
	w.seen[d] = true
	op, ok := w.ops[d]
	if !ok {
		return fmt.Errorf("the definition has no operation %s", d)
	}
	inputs := make([]string, len(op.Inputs))
	for i, in := range op.Inputs {
		if err := w.visit(digest.Digest(in.Digest)); err != nil {
			return err
		}
		inputs[i] = fmt.Sprintf("%s:%d", stepName(w.order[digest.Digest(in.Digest)]), in.Index)
	}
	op.Inputs = nil
	w.order[d] = len(w.steps)
	w.steps = append(w.steps, types.BuildStep{ID: stepName(len(w.steps)), Op: op, Inputs: inputs})
	return nil
}

// sourceFiles returns the files that the definition was made from, with the
// places of its steps in them; nil for none.
func sourceFiles(def *pb.Definition, order map[digest.Digest]int) (*types.Source, error) {
	if def == nil || def.Source == nil || len(def.Source.Infos) == 0 {
		return nil, nil
	}
	src := &types.Source{Locations: map[string]*pb.Locations{}}
	for _, info := range def.Source.Infos {
		steps, infoOrder, err := stepsOf(info.Definition)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", info.Filename, err)
		}
		src.Infos = append(src.Infos, types.SourceInfo{
			Filename: info.Filename, Language: info.Language, Data: info.Data,
			Definition: steps, DigestMapping: stepNames(infoOrder),
		})
	}
	for d, l := range def.Source.Locations {
		if i, ok := order[digest.Digest(d)]; ok {
			src.Locations[stepName(i)] = l
		}
	}
	return src, nil
}

// IsProvenance reports whether predicates of this type say how something was
// built.
func IsProvenance(predicateType string) bool {
	return strings.HasPrefix(predicateType, "https://slsa.dev/provenance/")
}
