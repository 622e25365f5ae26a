package oci

import (
	"fmt"

	"github.com/distribution/reference"
)

// refName returns what index.json calls an image: the part of its name behind
// the repository. ok is false for a name that has none.
func refName(name string) (ref string, ok bool) {
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name, true
	}
	if t, ok := n.(reference.Tagged); ok {
		ref = t.Tag()
	}
	if d, ok := n.(reference.Digested); ok {
		ref += "@" + d.Digest().String()
	}
	return ref, ref != ""
}

// tarRefName is refName as a tar has it, where a bare digest is no name.
func tarRefName(name string) string {
	if ref, ok := refName(name); ok && ref[0] != '@' {
		return ref
	}
	return name
}

// repoTag returns name as Docker shows it.
func repoTag(name string) (string, error) {
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", name, err)
	}
	return reference.FamiliarString(reference.TagNameOnly(n)), nil
}
