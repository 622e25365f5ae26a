package op

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"

	"github.com/mayfly-build/mayfly/engine/source/git"
	"github.com/mayfly-build/mayfly/engine/source/http"
)

// Metadata says what a source names, without fetching it: an image's digest
// and config, a commit, the digest of a file.
func (w *World) Metadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	resp := &sourceresolver.MetaResponse{Op: op}
	scheme, rest, _ := strings.Cut(op.Identifier, "://")
	switch scheme {
	case "docker-image":
		p := platforms.Normalize(platforms.DefaultSpec())
		if opt.ImageOpt != nil && opt.ImageOpt.Platform != nil {
			p = *opt.ImageOpt.Platform
		}
		img, err := w.Images.Resolve(ctx, rest, platforms.Normalize(p))
		if err != nil {
			return nil, err
		}
		resp.Image = &sourceresolver.ResolveImageResponse{Digest: img.Digest, Config: img.Config}
	case "git":
		id, err := git.ParseIdentifier(op.Identifier, op.Attrs)
		if err != nil {
			return nil, err
		}
		p, err := w.Git.Resolve(ctx, id)
		if err != nil {
			return nil, err
		}
		resp.Git = &sourceresolver.ResolveGitResponse{Checksum: p.Commit, Ref: p.Ref, CommitChecksum: p.Tagged}
	case "http", "https":
		id, err := http.ParseIdentifier(op.Identifier, op.Attrs)
		if err != nil {
			return nil, err
		}
		p, err := w.HTTP.Resolve(ctx, id)
		if err != nil {
			return nil, err
		}
		resp.HTTP = &sourceresolver.ResolveHTTPResponse{Digest: p.Digest, Filename: p.Name}
		if !p.LastModified.IsZero() {
			resp.HTTP.LastModified = &p.LastModified
		}
	default:
		return nil, fmt.Errorf("source %s has no metadata", op.Identifier)
	}
	return resp, nil
}
