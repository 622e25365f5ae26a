// Package merge makes one image index of the images that several jobs pushed.
//
//	metadata files, references ──Source──▶ Read ──▶ Index ──Push──▶ blobs and manifests, then the index, then its tags
//	                                        ▲ manifests, configs      │
//	                                        └──── internal/registry ◀─┘
//
// In: where the images are. Out: an index of OCI's form (image-spec,
// image-index.md) that names them, and the attestations that belong to them,
// by their digests. Nothing is built and nothing inside of an image changes:
// what is in another repository than the index is copied as it is.
package merge

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/hint"
)

// Media types of Docker's own forms, which registries hold beside OCI's.
const (
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// Annotations of a descriptor in an index, by which BuildKit says that the
// manifest attests something of another one.
const (
	attestationType   = "vnd.docker.reference.type"
	attestationDigest = "vnd.docker.reference.digest"
	isAttestation     = "attestation-manifest"
)

// A Manifest is one that an Index names.
type Manifest struct {
	Descriptor ocispec.Descriptor // with its platform
	Source     string             // Name of the Source it is from
	repos      []string           // that hold it
}

// Attestation reports whether the manifest is no image, but attests something
// of one.
func (m Manifest) Attestation() bool {
	return m.Descriptor.Annotations[attestationType] == isAttestation
}

// Platform returns the platform of an image as it is written: "linux/arm64".
func (m Manifest) Platform() string { return platformOf(m.Descriptor) }

func platformOf(d ocispec.Descriptor) string {
	if d.Platform == nil {
		return ""
	}
	return platforms.FormatAll(platforms.Normalize(*d.Platform))
}

// An Index is what Read made of its sources. Nothing of it is stored yet.
type Index struct {
	Descriptor ocispec.Descriptor
	Data       []byte
	Manifests  []Manifest // images in the order of the sources, then attestations
}

// join makes the index. A single source that is an index already, and gets no
// annotation, stays what it is, to the byte.
func join(from []content, annotations map[string]string) (*Index, error) {
	x := &Index{}
	var attested []Manifest
	seen := map[digest.Digest]bool{}
	by := map[string]Manifest{} // platform → image
	docker := true
	for _, c := range from {
		for _, m := range c.manifests {
			if seen[m.Descriptor.Digest] {
				continue
			}
			seen[m.Descriptor.Digest] = true
			docker = docker && m.Descriptor.MediaType == dockerManifest
			if m.Attestation() {
				attested = append(attested, m)
				continue
			}
			if other, ok := by[m.Platform()]; ok {
				return nil, hint.With(fmt.Errorf("%s and %s both have an image for %s: %s and %s",
					other.Source, m.Source, m.Platform(), other.Descriptor.Digest, m.Descriptor.Digest),
					"name each platform's image once: an index has one for each")
			}
			by[m.Platform()] = m
			x.Manifests = append(x.Manifests, m)
		}
	}
	if len(x.Manifests) == 0 {
		return nil, errors.New("the sources have no image")
	}
	for _, m := range attested {
		if seen[digest.Digest(m.Descriptor.Annotations[attestationDigest])] {
			x.Manifests = append(x.Manifests, m)
		}
	}
	if len(from) == 1 && from[0].index && len(annotations) == 0 {
		x.Descriptor, x.Data = from[0].desc, from[0].data
		return x, nil
	}
	doc := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Annotations: merged(from, annotations)}
	if docker && len(doc.Annotations) == 0 {
		doc.MediaType = dockerList
	}
	for _, m := range x.Manifests {
		doc.Manifests = append(doc.Manifests, m.Descriptor)
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	x.Data = data
	x.Descriptor = ocispec.Descriptor{MediaType: doc.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return x, nil
}

// merged returns the annotations of the index: those given, and of the sources'
// those that no two of them disagree on.
func merged(from []content, given map[string]string) map[string]string {
	all, differ := map[string]string{}, map[string]bool{}
	for _, c := range from {
		for k, v := range c.annotations {
			if old, ok := all[k]; ok && old != v {
				differ[k] = true
			}
			all[k] = v
		}
	}
	for k := range differ {
		delete(all, k)
	}
	for k, v := range given {
		all[k] = v
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// A Source is an image, or an index of images, in a registry.
type Source struct {
	Name string // the user's: a file's, or a reference
	// Refs are references that name the same manifest, of one repository or
	// several.
	Refs []string
}

// metadata is what a metadata file says of an image.
type metadata struct {
	Digest digest.Digest `json:"containerimage.digest"`
	Names  string        `json:"image.name"`
	Error  string        `json:"mayfly.error"`
}

// FromMetadata reads a metadata file, as mayfly and docker buildx write it.
// The error says what the file lacks.
func FromMetadata(name string, data []byte) (Source, error) {
	var m metadata
	if err := json.Unmarshal(data, &m); err != nil {
		if _, ok := errors.AsType[*json.SyntaxError](err); ok {
			err = fmt.Errorf("it is no JSON, or only a part of it: %w", err)
		}
		return Source{}, hint.With(fmt.Errorf("%s is no metadata file: %w", name, err), "give a file that --metadata-file wrote, or REPOSITORY@DIGEST")
	}
	switch {
	case m.Digest == "" && m.Error != "":
		return Source{}, fmt.Errorf("%s is that of a build that failed: %s", name, m.Error)
	case m.Digest == "":
		return Source{}, hint.With(fmt.Errorf("%s has no containerimage.digest: its build made no image", name), "build with --push, or with an output of type=image and push=true")
	case m.Names == "":
		return Source{}, hint.With(fmt.Errorf("%s has no image.name: its build pushed nothing", name), "build with -t or name=, and push")
	}
	if err := m.Digest.Validate(); err != nil {
		return Source{}, fmt.Errorf("%s: containerimage.digest is %q: %w", name, m.Digest, err)
	}
	s := Source{Name: name}
	for _, n := range strings.Split(m.Names, ",") {
		r, err := parse(strings.TrimSpace(n))
		if err != nil {
			return Source{}, fmt.Errorf("%s: image.name: %w", name, err)
		}
		if ref := r.Name() + "@" + m.Digest.String(); !slices.Contains(s.Refs, ref) {
			s.Refs = append(s.Refs, ref)
		}
	}
	return s, nil
}
