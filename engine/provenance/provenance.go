// Package provenance says what an image was built of, and how, as a SLSA
// predicate.
//
//	frontend's options, llb vertices, what sources stood for ──Build──▶ provenance ──JSON──▶ engine (in-toto statement)
//
// Pure: it asks nobody. The predicates are those that BuildKit v0.33 writes,
// so that what reads its attestations reads ours. Of secrets they hold the ids,
// and of URLs no credentials.
package provenance

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	slsa02 "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/v0.2"
	slsa1 "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/v1"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/version"
	"github.com/moby/buildkit/solver/llbsolver/provenance/types"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/llb"
)

// A Mode says how much a predicate tells.
type Mode string

// Min leaves out the build arguments, the labels, the ids of secrets and the
// steps; Max tells all of it, and has the Dockerfile.
const (
	Min Mode = "min"
	Max Mode = "max"
)

// A Version is one of the SLSA predicate.
type Version string

// The versions, as --attest names them.
const (
	V02 Version = "v0.2"
	V1  Version = "v1"
)

// Options of a predicate.
type Options struct {
	Mode         Mode    // "" means Max
	Version      Version // "" means V1
	BuilderID    string  // URI of who builds; may be ""
	Reproducible bool    // what the user claims
}

// A Build is what is known of the build of one image.
type Build struct {
	Frontend string            // "dockerfile.v0"
	Args     map[string]string // options of the frontend
	Steps    []Step            // what the image is made of, and what the frontend read
	Images   []Image           // that the frontend looked up
	Platform ocispec.Platform  // of the image
	All      []ocispec.Platform

	// Hidden are texts that no predicate may have, such as the values of
	// arguments that are credentials.
	Hidden []string

	// Definition is the image's, and Layers what is known of the results of
	// its edges: for Max.
	Definition *pb.Definition
	Layers     map[Edge][]ocispec.Descriptor

	ID       string // of the build
	Started  time.Time
	Finished time.Time
}

// A Step is a vertex and, of a source, what it stood for: an image's digest, a
// commit, the digest of a download; "" where nobody asked.
type Step struct {
	Vertex *llb.Vertex
	Pinned string
}

// An Image is what a reference stood for.
type Image struct {
	Ref      string
	Platform *ocispec.Platform // nil is any
	Digest   digest.Digest
}

// An Edge is an output of a vertex.
type Edge struct {
	Vertex digest.Digest
	Index  int
}

// compatibility is the level of BuildKit's outputs that ours are equal to.
const compatibility = 30 // CompatibilityVersion031 of BuildKit's solver/llbsolver/compat

// PredicateType returns the URI of the predicates with these options.
func (o Options) PredicateType() string {
	if o.Version == V02 {
		return slsa02.PredicateSLSAProvenance
	}
	return slsa1.PredicateSLSAProvenance
}

// Predicate returns the predicate as JSON.
func (b *Build) Predicate(o Options) ([]byte, error) {
	p, err := b.predicate(o)
	if err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	var v any = p
	if o.Version == V02 {
		v = p.ConvertToSLSA02()
	}
	dt, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	return b.hide(dt, "  ")
}

// Record returns the predicate as the metadata file has it, which is one of
// version 0.2: with Min it has the arguments, but neither steps nor times.
func (b *Build) Record(o Options) ([]byte, error) {
	mode := o.Mode
	o.Mode = Max
	p, err := b.predicate(o)
	if err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	old := p.ConvertToSLSA02()
	if mode == Min {
		old.BuildConfig, old.Metadata = nil, nil
	}
	dt, err := json.Marshal(old)
	if err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	return b.hide(dt, "")
}

func (b *Build) predicate(o Options) (*types.ProvenancePredicateSLSA1, error) {
	s := b.sources()
	old := &types.ProvenancePredicateSLSA02{}
	var err error
	if old.Materials, err = s.materials(); err != nil {
		return nil, err
	}
	p := old.ConvertToSLSA1()
	def, meta := &p.BuildDefinition, &types.ProvenanceMetadataSLSA1{}
	p.RunDetails.Metadata = meta
	p.RunDetails.Builder.ID = o.BuilderID

	args := visibleArgs(b.Args)
	def.ExternalParameters.ConfigSource = s.configSource(args)
	req := &def.ExternalParameters.Request
	req.Frontend, req.CompatibilityVersion = b.Frontend, compatibility
	for _, l := range s.locals {
		req.Locals = append(req.Locals, &types.LocalSource{Name: l})
	}
	req.Secrets, req.SSH = s.secrets, s.ssh
	meta.BuildKitMetadata.VCS = takeVCS(args)

	def.InternalParameters.BuilderPlatform = platforms.Format(platforms.Normalize(platforms.DefaultSpec()))
	if b.Frontend == "dockerfile.v0" {
		// It is the frontend of a release, which only the linker's flags of
		// buildkitd would tell it.
		def.InternalParameters.DockerfileVersion = strings.TrimSuffix(dockerfile.Version(), "-dev")
	}
	whole := len(s.locals) == 0 && !s.unknown
	meta.InvocationID, meta.StartedOn, meta.FinishedOn = b.ID, &b.Started, &b.Finished
	meta.Reproducible = o.Reproducible
	meta.Completeness.Request = b.Frontend != ""
	meta.Completeness.ResolvedDependencies = whole
	meta.Hermetic = whole && !s.network
	if o.Mode == Min {
		if dropPrivate(args) {
			meta.Completeness.Request = false
		}
		req.Secrets, req.SSH = nil, nil
	} else if err := b.addSteps(p); err != nil {
		return nil, err
	}
	if len(args) > 0 {
		req.Args = args
	}
	return p, nil
}

// visibleArgs returns the options that are the user's and not the host's.
func visibleArgs(all map[string]string) map[string]string {
	args := map[string]string{}
	key := contextKey(all)
	for k, v := range all {
		switch {
		case slices.Contains([]string{"cgroup-parent", "image-resolve-mode", "platform", "cache-imports"}, k):
		case strings.HasPrefix(k, "attest:"):
		case k == key || strings.HasPrefix(k, "context:"):
			args[k] = redact(v)
		default:
			args[k] = v
		}
	}
	return args
}

func contextKey(args map[string]string) string {
	if k := args["contextkey"]; k != "" {
		return k
	}
	return "context"
}

// takeVCS takes what the options say of the repository.
func takeVCS(args map[string]string) map[string]string {
	vcs := map[string]string{}
	for k, v := range args {
		name, ok := strings.CutPrefix(k, "vcs:")
		if !ok {
			continue
		}
		delete(args, k)
		if name == "source" {
			v = redact(v)
		}
		if v != "" {
			vcs[name] = v
		}
	}
	if len(vcs) == 0 {
		return nil
	}
	return vcs
}

// dropPrivate drops what may be private, and reports whether there was any.
func dropPrivate(args map[string]string) bool {
	n := len(args)
	maps.DeleteFunc(args, func(k, _ string) bool {
		return strings.HasPrefix(k, "build-arg:") || strings.HasPrefix(k, "label:")
	})
	return len(args) < n
}
