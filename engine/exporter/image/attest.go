package image

import (
	"encoding/json"
	"fmt"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// StatementType is the media type of in-toto statements.
const StatementType = "application/vnd.in-toto+json"

// A Subject is what a statement is about.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"` // hex digest of each algorithm
}

// About returns the subject with a digest.
func About(name string, d digest.Digest) Subject {
	return Subject{Name: name, Digest: map[string]string{d.Algorithm().String(): d.Encoded()}}
}

// A Statement is an in-toto statement: a predicate about subjects.
type Statement struct {
	Type          string          `json:"_type"` // set by NewStatement
	PredicateType string          `json:"predicateType"`
	Subjects      []Subject       `json:"subject"`
	Predicate     json.RawMessage `json:"predicate"`
}

// NewStatement returns a statement of version 1. No subjects is an empty list.
func NewStatement(predicateType string, subjects []Subject, predicate json.RawMessage) Statement {
	return Statement{
		Type: "https://in-toto.io/Statement/v1", PredicateType: predicateType,
		Subjects: append([]Subject{}, subjects...), Predicate: predicate,
	}
}

// A Doc is a document at hand.
type Doc struct {
	Desc ocispec.Descriptor
	Data []byte
}

// Attestations are the statements about one image, as an index has them beside
// it.
type Attestations struct {
	Manifest Doc   // its descriptor is as the index lists it
	Blobs    []Doc // config and statements
}

// unknownPlatform is what an index says of a manifest that nobody runs.
var unknownPlatform = ocispec.Platform{Architecture: "unknown", OS: "unknown"}

// Attest makes the manifest of the statements about target. With artifact it is
// one of OCI 1.1, which has a subject, and otherwise looks like an image.
func Attest(target ocispec.Descriptor, statements []Statement, artifact bool) (*Attestations, error) {
	a := &Attestations{}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	var diffIDs []digest.Digest
	for _, s := range statements {
		data, err := json.Marshal(s)
		if err != nil {
			return nil, fmt.Errorf("marshal the statement %s: %w", s.PredicateType, err)
		}
		d := describe(StatementType, data)
		diffIDs = append(diffIDs, d.Digest)
		a.Blobs = append(a.Blobs, Doc{d, data})
		d.Annotations = map[string]string{"in-toto.io/predicate-type": s.PredicateType}
		m.Layers = append(m.Layers, d)
	}
	config := ocispec.DescriptorEmptyJSON.Data
	if artifact {
		m.Config = ocispec.DescriptorEmptyJSON
		m.ArtifactType = "application/vnd.docker.attestation.manifest.v1+json"
		m.Subject = &ocispec.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size}
	} else {
		img := ocispec.Image{Platform: unknownPlatform, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: diffIDs}}
		var err error
		if config, err = json.Marshal(img); err != nil {
			return nil, fmt.Errorf("marshal the config of attestations: %w", err)
		}
		m.Config = describe(ocispec.MediaTypeImageConfig, config)
	}
	a.Blobs = append(a.Blobs, Doc{m.Config, config})
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("marshal the manifest of attestations: %w", err)
	}
	a.Manifest = Doc{describe(ocispec.MediaTypeImageManifest, data), data}
	a.Manifest.Desc.Annotations = map[string]string{
		"vnd.docker.reference.type":   "attestation-manifest",
		"vnd.docker.reference.digest": target.Digest.String(),
	}
	return a, nil
}

// Entry returns what the index has of the attestations.
func (a *Attestations) Entry() Entry { return Entry{Desc: a.Manifest.Desc, Platform: unknownPlatform} }

func describe(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}
