package registry

import (
	"fmt"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// A Ref names a manifest in a repository of a registry.
type Ref struct {
	Host   string        // "docker.io", "localhost:5000"
	Repo   string        // "library/busybox"
	Tag    string        // "" when the reference has only a digest
	Digest digest.Digest // "" when the reference has only a tag
}

// ParseRef reads a reference as docker does: the host is docker.io unless
// given, its one-word names live below library/, and the tag is latest unless
// there is a tag or a digest.
func ParseRef(s string) (Ref, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Ref{}, fmt.Errorf("parse image reference %q: %w", s, err)
	}
	named = reference.TagNameOnly(named)
	r := Ref{Host: reference.Domain(named), Repo: reference.Path(named)}
	if t, ok := named.(reference.Tagged); ok {
		r.Tag = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		r.Digest = d.Digest()
	}
	return r, nil
}

// Name returns the repository with its host: "docker.io/library/busybox".
func (r Ref) Name() string { return r.Host + "/" + r.Repo }

// String returns the reference in full: "docker.io/library/busybox:latest".
func (r Ref) String() string {
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// Familiar returns the reference as people write it: "busybox:latest".
func (r Ref) Familiar() string {
	named, err := reference.ParseNormalizedNamed(r.String())
	if err != nil {
		return r.String()
	}
	return reference.FamiliarString(named)
}

// target is what the manifest is asked for by: the digest when there is one.
func (r Ref) target() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}
