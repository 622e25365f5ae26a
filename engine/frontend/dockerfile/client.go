// Package dockerfile runs BuildKit's Dockerfile frontend in process.
//
//	engine ──options──▶ dockerfile ──gateway client──▶ buildkit/frontend/dockerfile/builder
//	engine ◀──Solver── dockerfile ◀──definitions, reads──┘
//
// The frontend is BuildKit's own; what is ours is the gateway client it talks
// to: definitions become edges of our solver, and files are read from states
// without a mount.
package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	bkllb "github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	fstypes "github.com/tonistiigi/fsutil/types"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/progress"
)

// A Backend is what the frontend's requests come down to.
type Backend interface {
	// Solve returns the result of an edge.
	Solve(ctx context.Context, e llb.Edge) (*layer.State, error)
	// Metadata says what a source names, without fetching it.
	Metadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error)
}

// A Client is the gateway client of one build.
type Client struct {
	Backend  Backend
	Progress *progress.Stream
	Opts     map[string]string // frontend options: filename, target, build-arg:NAME, …
	Session  string
}

// Build runs the frontend: the Dockerfile becomes a result per platform,
// whose references are *Ref.
func (c *Client) Build(ctx context.Context) (*client.Result, error) {
	return builder.Build(ctx, c)
}

// BuildOpts tells the frontend what it is asked for and what we can do.
func (c *Client) BuildOpts() client.BuildOpts {
	opts := make(map[string]string, len(c.Opts))
	for k, v := range c.Opts {
		opts[k] = v
	}
	return client.BuildOpts{
		Opts:      opts,
		SessionID: c.Session,
		Workers: []client.WorkerInfo{{
			ID:        "mayfly",
			Platforms: []ocispec.Platform{platforms.Normalize(platforms.DefaultSpec())},
		}},
		Product: "mayfly",
		LLBCaps: pb.Caps.CapSet(pb.Caps.All()),
		Caps:    gwpb.Caps.CapSet(gwpb.Caps.All()),
	}
}

// Inputs returns no named inputs: contexts are sources here.
func (c *Client) Inputs(context.Context) (map[string]bkllb.State, error) {
	return map[string]bkllb.State{}, nil
}

// NewContainer is for frontends that run containers; the Dockerfile's does not.
func (c *Client) NewContainer(context.Context, client.NewContainerRequest) (client.Container, error) {
	return nil, errors.New("containers of a frontend are not supported")
}

// Warn shows a warning about a place in the Dockerfile.
func (c *Client) Warn(_ context.Context, d digest.Digest, msg string, opts client.WarnOpts) error {
	c.Progress.Warn(d, opts.Level, msg, opts.Detail, opts.URL, opts.SourceInfo, opts.Range)
	return nil
}

// ResolveSourceMetadata says what a source names.
func (c *Client) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	name := opt.LogName
	if name == "" {
		name = "resolve " + op.Identifier
	}
	step := c.Progress.Step(name)
	step.Begin()
	resp, err := c.Backend.Metadata(progress.With(ctx, step), op, opt)
	step.End(err)
	return resp, err
}

// ResolveImageConfig returns an image's digest and config.
func (c *Client) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	return sourceresolver.NewImageMetaResolver(c).ResolveImageConfig(ctx, ref, opt)
}

// Solve returns a reference to what a definition describes; unless Evaluate is
// asked for, nothing runs before the reference is read.
func (c *Client) Solve(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	if req.Frontend != "" {
		return c.frontend(ctx, req)
	}
	ref := &Ref{c: c, def: req.Definition}
	g, err := llb.Decode(req.Definition)
	switch {
	case errors.Is(err, llb.ErrEmpty):
		ref.empty = true
	case err != nil:
		return nil, err
	default:
		ref.Edge = g.Root
	}
	if req.Evaluate {
		if err := ref.Evaluate(ctx); err != nil {
			return nil, err
		}
	}
	res := client.NewResult()
	res.SetRef(ref)
	return res, nil
}

// frontend answers a request to run another frontend. A Dockerfile frontend
// image is what we are: it is not pulled.
func (c *Client) frontend(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	source := req.FrontendOpt["source"]
	if req.Frontend != "dockerfile.v0" && !isBuiltIn(source) {
		return nil, fmt.Errorf("frontend image %q is not supported; the built-in Dockerfile frontend stands for docker/dockerfile:1", source)
	}
	opts := make(map[string]string, len(req.FrontendOpt)+1)
	for k, v := range req.FrontendOpt {
		opts[k] = v
	}
	if _, ok := opts["cmdline"]; !ok {
		opts["cmdline"] = source // says that the syntax line has been dealt with
	}
	sub := *c
	sub.Opts = opts
	return builder.Build(ctx, &sub)
}

// builtInTag matches the tags of docker/dockerfile that the built-in frontend
// stands for.
var builtInTag = regexp.MustCompile(`^(latest|master|1(\.\d+){0,2})?(-?labs)?$`)

func isBuiltIn(ref string) bool {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return false
	}
	switch reference.FamiliarName(named) {
	case "docker/dockerfile", "docker/dockerfile-upstream":
	default:
		return false
	}
	tag := ""
	if t, ok := named.(reference.Tagged); ok {
		tag = t.Tag()
	}
	return builtInTag.MatchString(tag)
}

// A Ref is a result that may not have been made yet.
type Ref struct {
	Edge  llb.Edge
	c     *Client
	def   *pb.Definition
	empty bool
}

// State returns the result, making it if need be; nil for the empty root.
func (r *Ref) State(ctx context.Context) (*layer.State, error) {
	if r.empty {
		return nil, nil
	}
	return r.c.Backend.Solve(ctx, r.Edge)
}

// IsEmpty reports whether the reference stands for the empty root.
func (r *Ref) IsEmpty() bool { return r.empty }

// Definition returns what the reference stands for; nil for the empty root.
func (r *Ref) Definition() *pb.Definition { return r.def }

// ToState returns the definition as a state to build on.
func (r *Ref) ToState() (bkllb.State, error) {
	if r.empty {
		return bkllb.Scratch(), nil
	}
	op, err := bkllb.NewDefinitionOp(r.def)
	if err != nil {
		return bkllb.State{}, err
	}
	return bkllb.NewState(op), nil
}

// Evaluate makes the result.
func (r *Ref) Evaluate(ctx context.Context) error {
	_, err := r.State(ctx)
	return err
}

func (r *Ref) view(ctx context.Context) (*fsdiff.View, error) {
	s, err := r.State(ctx)
	if err != nil {
		return nil, err
	}
	return s.View(ctx)
}

// maxRead bounds what a frontend reads at once, in bytes: a Dockerfile, an
// ignore file.
const maxRead = 64 << 20

// ReadFile returns the bytes of a file, or of a range of it.
func (r *Ref) ReadFile(ctx context.Context, req client.ReadRequest) ([]byte, error) {
	v, err := r.view(ctx)
	if err != nil {
		return nil, err
	}
	dt, err := v.ReadFile(clean(req.Filename), maxRead)
	if err != nil {
		return nil, err
	}
	if rng := req.Range; rng != nil {
		from := min(max(rng.Offset, 0), len(dt))
		to := len(dt)
		if rng.Length > 0 {
			to = min(from+rng.Length, to)
		}
		dt = dt[from:to]
	}
	return dt, nil
}

// StatFile describes a file, following links.
func (r *Ref) StatFile(ctx context.Context, req client.StatRequest) (*fstypes.Stat, error) {
	v, err := r.view(ctx)
	if err != nil {
		return nil, err
	}
	e, err := v.Stat(clean(req.Path))
	if err != nil {
		return nil, err
	}
	return stat(e), nil
}

// ReadDir describes the files of a directory.
func (r *Ref) ReadDir(ctx context.Context, req client.ReadDirRequest) ([]*fstypes.Stat, error) {
	v, err := r.view(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := v.Resolve(clean(req.Path), true)
	if err != nil {
		return nil, err
	}
	entries, err := v.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []*fstypes.Stat
	for _, e := range entries {
		if req.IncludePattern != "" {
			if ok, err := path.Match(req.IncludePattern, path.Base(e.Path)); err != nil || !ok {
				continue
			}
		}
		out = append(out, stat(e))
	}
	slices.SortFunc(out, func(a, b *fstypes.Stat) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

func clean(p string) string { return strings.TrimPrefix(path.Join("/", p), "/") }

func stat(e *fsdiff.Entry) *fstypes.Stat {
	st := &fstypes.Stat{
		Path: path.Base(e.Path), Mode: uint32(e.Mode), Uid: e.UID, Gid: e.GID, Size: e.Size,
		ModTime: e.ModTime.UnixNano(), Linkname: e.Linkname,
		Devmajor: int64(e.Devmajor), Devminor: int64(e.Devminor), Xattrs: e.Xattrs,
	}
	if e.Mode&fs.ModeSymlink != 0 {
		st.Size = int64(len(e.Linkname))
	}
	return st
}
