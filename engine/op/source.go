package op

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/cachekey"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/solver"
	"github.com/mayfly-build/mayfly/engine/source/git"
	"github.com/mayfly-build/mayfly/engine/source/http"
	"github.com/mayfly-build/mayfly/engine/source/image"
	"github.com/mayfly-build/mayfly/internal/memo"
)

// A fetcher is one kind of source.
type fetcher interface {
	key(ctx context.Context) (string, error)
	fetch(ctx context.Context) (*layer.State, error)
	pinnedTo() string
}

// A source fetches what no other vertex makes.
type source struct{ fetcher }

func (s source) Map(ctx context.Context) (cachekey.Map, error) {
	k, err := s.key(ctx)
	if err != nil {
		return cachekey.Map{}, err
	}
	return cachekey.Map{Digest: cachekey.Source(k)}, nil
}

// Pinned returns what the source stands for, as far as that is known already:
// the digest of an image's manifest, a commit, the digest of a download. "" is
// unknown. It asks nobody.
func (s source) Pinned() string { return s.pinnedTo() }

func (s source) Content(context.Context, int, *layer.State) (digest.Digest, error) {
	return "", fmt.Errorf("a source has no inputs")
}

func (s source) Run(ctx context.Context, _ []*layer.State) ([]*layer.State, error) {
	st, err := s.fetch(ctx)
	if err != nil {
		return nil, err
	}
	return []*layer.State{st}, nil
}

func (w *World) source(v *llb.Vertex, op *pb.SourceOp) (solver.Op[*layer.State], error) {
	scheme, rest, ok := strings.Cut(op.Identifier, "://")
	if !ok {
		return nil, fmt.Errorf("source %q has no scheme", op.Identifier)
	}
	switch scheme {
	case "docker-image":
		return source{&imageSource{w: w, v: v, ref: rest}}, nil
	case "local":
		return w.localSource(rest, op.Attrs)
	case "git":
		id, err := git.ParseIdentifier(op.Identifier, op.Attrs)
		if err != nil {
			return nil, err
		}
		return source{&gitSource{w: w, v: v, id: id}}, nil
	case "http", "https":
		id, err := http.ParseIdentifier(op.Identifier, op.Attrs)
		if err != nil {
			return nil, err
		}
		return source{&httpSource{w: w, v: v, id: id}}, nil
	}
	return nil, fmt.Errorf("source scheme %q is not supported", scheme)
}

type imageSource struct {
	w   *World
	v   *llb.Vertex
	ref string
	is  atomic.Pointer[image.Image] // once key has resolved it
}

func (s *imageSource) pinnedTo() string {
	if img := s.is.Load(); img != nil {
		return img.Digest.String()
	}
	return ""
}

func (s *imageSource) key(ctx context.Context) (string, error) {
	img, err := s.w.Images.Resolve(ctx, s.ref, s.v.Platform())
	if err != nil {
		return "", err
	}
	s.is.Store(img)
	return cachekey.Image(img.Digest, s.v.Platform())
}

func (s *imageSource) fetch(ctx context.Context) (*layer.State, error) {
	img, err := s.w.Images.Resolve(ctx, s.ref, s.v.Platform())
	if err != nil {
		return nil, err
	}
	return img.State(s.w.Layers)
}

// A localSource reads a directory of this host where it lies.
type localSource struct {
	w    *World
	name string
	dir  string
	opt  fsdiff.HostOptions
	sum  digest.Digest
}

func (w *World) localSource(name string, attrs map[string]string) (solver.Op[*layer.State], error) {
	dir, ok := w.Locals[name]
	if !ok {
		return nil, fmt.Errorf("local source %q was not given", name)
	}
	s := &localSource{w: w, name: name, dir: dir}
	for attr, list := range map[string]*[]string{
		pb.AttrIncludePatterns: &s.opt.Include,
		pb.AttrExcludePatterns: &s.opt.Exclude,
		pb.AttrFollowPaths:     &s.opt.FollowPaths,
	} {
		if v, ok := attrs[attr]; ok {
			if err := json.Unmarshal([]byte(v), list); err != nil {
				return nil, fmt.Errorf("local source %s: %s: %w", name, attr, err)
			}
		}
	}
	dt, err := json.Marshal(struct {
		Session                   string
		Include, Exclude, Follows []string
	}{w.Session, s.opt.Include, s.opt.Exclude, s.opt.FollowPaths})
	if err != nil {
		return nil, err
	}
	s.sum = digest.FromBytes(dt)
	return source{s}, nil
}

func (s *localSource) key(context.Context) (string, error) {
	return "session:" + s.name + ":" + s.sum.String(), nil
}

func (s *localSource) pinnedTo() string { return "" }

func (s *localSource) fetch(ctx context.Context) (*layer.State, error) {
	d, err := fsdiff.Host(ctx, s.dir, s.opt)
	if err != nil {
		return nil, err
	}
	return s.w.Layers.FromDiff(nil, d, layer.Info{Description: "local source for " + s.name, Created: now()}), nil
}

type gitSource struct {
	w   *World
	v   *llb.Vertex
	id  git.Identifier
	pin memo.Memo[git.Pinned]
}

func (s *gitSource) pinned(ctx context.Context) (git.Pinned, error) {
	return s.pin.Get(ctx, func(ctx context.Context) (git.Pinned, error) { return s.w.Git.Resolve(ctx, s.id) })
}

func (s *gitSource) pinnedTo() string {
	p, _ := s.pin.Peek()
	return p.Commit
}

func (s *gitSource) key(ctx context.Context) (string, error) {
	p, err := s.pinned(ctx)
	return p.CacheKey, err
}

func (s *gitSource) fetch(ctx context.Context) (*layer.State, error) {
	p, err := s.pinned(ctx)
	if err != nil {
		return nil, err
	}
	tmp, err := s.w.Tmp()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	dir := filepath.Join(tmp, "fs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if err := s.w.Git.Checkout(ctx, s.id, p, dir); err != nil {
		return nil, err
	}
	return s.w.Layers.FromDir(nil, dir, layer.Info{Description: s.v.Name, Created: now()})
}

type httpSource struct {
	w   *World
	v   *llb.Vertex
	id  http.Identifier
	pin memo.Memo[http.Pinned]
}

func (s *httpSource) pinned(ctx context.Context) (http.Pinned, error) {
	return s.pin.Get(ctx, func(ctx context.Context) (http.Pinned, error) { return s.w.HTTP.Resolve(ctx, s.id) })
}

func (s *httpSource) pinnedTo() string {
	p, _ := s.pin.Peek()
	return p.Digest.String()
}

func (s *httpSource) key(ctx context.Context) (string, error) {
	p, err := s.pinned(ctx)
	return p.CacheKey, err
}

func (s *httpSource) fetch(ctx context.Context) (*layer.State, error) {
	p, err := s.pinned(ctx)
	if err != nil {
		return nil, err
	}
	f, err := s.w.HTTP.Fetch(ctx, s.id, p)
	if err != nil {
		return nil, err
	}
	body, err := fsdiff.FileAt(f.Path)
	if err != nil {
		return nil, err
	}
	m := fsdiff.NewMem()
	m.Add(fsdiff.Entry{
		Path: f.Name, Mode: f.Mode, UID: uint32(f.UID), GID: uint32(f.GID),
		Size: f.Size, ModTime: f.ModTime, Content: body,
	})
	return s.w.Layers.FromDiff(nil, m, layer.Info{Description: s.v.Name, Created: now()}), nil
}
