package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/result"

	"github.com/mayfly-build/mayfly/engine/exporter/image"
	"github.com/mayfly-build/mayfly/engine/frontend/dockerfile"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/provenance"
)

// maxAttestation bounds what one attestation may take, in bytes: BuildKit's
// own limit.
const maxAttestation = 80 << 20

// statedByFrontend reads the attestations that the frontend's result has of a
// target: SBOMs, that a scanner wrote into the root of a step.
func (b *build) statedByFrontend(ctx context.Context, t *target) (out []attestation, err error) {
	for _, a := range t.attestations {
		list, err := readAttestation(ctx, a)
		if err != nil {
			return nil, fmt.Errorf("attestation for %s: %w", t.platform.ID, err)
		}
		core := string(a.Metadata[result.AttestationSBOMCore])
		for i := range list {
			list[i].ofImage = rank(list[i], core) == 0
		}
		slices.SortStableFunc(list, func(a, b attestation) int { return cmp.Compare(rank(a, core), rank(b, core)) })
		out = append(out, list...)
	}
	return out, nil
}

// rank sorts the SBOM of the image itself before those of what it was built of.
func rank(a attestation, core string) int {
	if name, _, _ := strings.Cut(path.Base(a.file), "."); core != "" && name == core {
		return 0
	}
	return 1
}

func readAttestation(ctx context.Context, a client.Attestation) ([]attestation, error) {
	ref, ok := a.Ref.(*dockerfile.Ref)
	if !ok {
		return nil, fmt.Errorf("it is in a %T", a.Ref)
	}
	s, err := ref.State(ctx)
	if err != nil {
		return nil, err
	}
	view, err := s.View(ctx)
	if err != nil {
		return nil, err
	}
	inlineOnly := string(a.Metadata[result.AttestationInlineOnlyKey]) == "true"
	if a.Kind == gwpb.AttestationKind_InToto {
		dt, err := view.ReadFile(strings.TrimPrefix(path.Clean("/"+a.Path), "/"), maxAttestation)
		if err != nil {
			return nil, err
		}
		return checked([]attestation{{predicateType: a.InToto.PredicateType, predicate: dt, file: a.Path, inlineOnly: inlineOnly}})
	}
	return unbundle(view, a, inlineOnly)
}

// unbundle reads a directory of in-toto statements.
func unbundle(view *fsdiff.View, a client.Attestation, inlineOnly bool) (out []attestation, err error) {
	dir, err := view.Resolve(strings.TrimPrefix(path.Clean("/"+a.Path), "/"), true)
	if err != nil {
		return nil, err
	}
	entries, err := view.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		dt, err := view.ReadFile(e.Path, maxAttestation)
		if err != nil {
			return nil, err
		}
		var s image.Statement
		if err := json.Unmarshal(dt, &s); err != nil {
			return nil, fmt.Errorf("/%s is no in-toto statement: %w", e.Path, err)
		}
		if want := a.InToto.PredicateType; want != "" && s.PredicateType != want {
			return nil, fmt.Errorf("/%s is a %q, not a %s", e.Path, s.PredicateType, want)
		}
		one := attestation{predicateType: s.PredicateType, predicate: s.Predicate, file: path.Base(e.Path), inlineOnly: inlineOnly}
		if len(s.Subjects) > 0 {
			one.subjects = s.Subjects
		}
		out = append(out, one)
	}
	return checked(out)
}

// checked refuses what only the builder may say.
func checked(list []attestation) ([]attestation, error) {
	for _, a := range list {
		if provenance.IsProvenance(a.predicateType) {
			return nil, fmt.Errorf("%s is a %s: how an image was built is not for a step to say", a.file, a.predicateType)
		}
		if !json.Valid(a.predicate) {
			return nil, fmt.Errorf("the predicate in %s is no JSON", a.file)
		}
	}
	return list, nil
}
