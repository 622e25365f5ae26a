package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestActMultiPlatform runs examples/github/multi-platform.yml. Both jobs are on
// this machine: the Dockerfile runs nothing on the foreign platform.
func TestActMultiPlatform(t *testing.T) {
	path, text := example(t, "multi-platform.yml")
	r := newActRepo(t, newRegistryWithLogin(t), map[string]string{path: text, "Dockerfile": `FROM --platform=$BUILDPLATFORM ghcr.io/acme/base AS build
ARG TARGETARCH
RUN echo for $TARGETARCH >/out
FROM scratch
COPY --from=build /out /arch
`})
	run := r.run(t, "push", map[string]any{"ref": "refs/tags/v1.2.3"})
	if !run.ok {
		t.Fatalf("it failed:\n%s", run.log)
	}
	auth := remote.WithAuth(&authn.Basic{Username: registryUser, Password: registryPassword})
	repo := r.registry.Addr + "/acme/app"
	for _, tag := range []string{"1.2.3", "latest"} {
		ref, err := name.ParseReference(repo + ":" + tag)
		if err != nil {
			t.Fatal(err)
		}
		index, err := remote.Index(ref, auth)
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		var platforms []string
		attested := 0
		for _, m := range manifest.Manifests {
			if m.Platform == nil || m.Platform.OS != "linux" {
				if m.Annotations["vnd.docker.reference.type"] == "attestation-manifest" {
					attested++
				}
				continue
			}
			platforms = append(platforms, m.Platform.String())
			img, err := index.Image(m.Digest)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := fileOf(img, "arch"); err != nil || got != "for "+m.Platform.Architecture+"\n" {
				t.Errorf("the image for %s has %q, %v", m.Platform, got, err)
			}
		}
		if slices.Sort(platforms); !slices.Equal(platforms, []string{"linux/amd64", "linux/arm64"}) {
			t.Errorf("%s is for %v", tag, platforms)
		}
		if attested != 2 { // as docker's action does when nothing is said
			t.Errorf("%s has %d attestations", tag, attested)
		}
	}
	parsed, err := name.NewRepository(repo)
	if err != nil {
		t.Fatal(err)
	}
	// The parts have no tags of their own.
	tags, err := remote.List(parsed, auth)
	slices.Sort(tags)
	if err != nil || !slices.Equal(tags, []string{"1.2.3", "latest"}) {
		t.Errorf("tags %v, %v", tags, err)
	}
	if !strings.Contains(run.log, "pushed "+repo+":1.2.3") {
		t.Errorf("mayfly merge does not say what it pushed:\n%s", run.log)
	}
	noSecret(t, "the log", run.log)
}
