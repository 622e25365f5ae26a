package services

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// BaseIndex pushes to ref an index of Base for linux/amd64 and linux/arm64.
// Both have the busybox of this machine, so that the steps of either run here
// without an emulator; that of the other platform has the file /platform more.
func BaseIndex(ctx context.Context, ref string) error {
	r, err := name.ParseReference(ref)
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		tag := r.Context().Tag("for-" + arch)
		var extra []File
		if arch != architecture() {
			extra = []File{{Path: "platform", Mode: 0o644, Data: []byte("linux/" + arch + "\n")}}
		}
		if err := Base(ctx, tag.String(), extra...); err != nil {
			return err
		}
		img, err := remote.Image(tag, remote.WithContext(ctx))
		if err != nil {
			return fmt.Errorf("pull %s: %w", tag, err)
		}
		cf, err := img.ConfigFile()
		if err != nil {
			return fmt.Errorf("pull %s: %w", tag, err)
		}
		cf = cf.DeepCopy()
		cf.Architecture = arch
		if img, err = mutate.ConfigFile(img, cf); err != nil {
			return fmt.Errorf("make an image for %s: %w", arch, err)
		}
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: arch},
		}})
	}
	if err := remote.WriteIndex(r, idx, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}
