package engine

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	commonexptypes "github.com/moby/buildkit/exporter/exptypes"
	"github.com/moby/buildkit/frontend/gateway/client"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/engine/frontend/dockerfile"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/llb"
)

// A product is what the frontend made of the Dockerfile: a target for each
// platform, in the order in which they were asked for.
type product struct {
	targets []*target

	// multi says that several platforms were asked for: an image is an index
	// then, and files are in a directory for each.
	multi bool
}

// A target is the result for one platform.
type target struct {
	platform   exptypes.Platform
	ref        *dockerfile.Ref // nil: nothing was made
	config     []byte
	baseConfig []byte
	epoch      []byte

	attestations []client.Attestation // that the frontend made
}

func productOf(res *client.Result) (*product, error) {
	ps, err := exptypes.ParsePlatforms(res.Metadata)
	if err != nil {
		return nil, err
	}
	if len(ps.Platforms) > 1 && len(res.Refs) == 0 {
		return nil, fmt.Errorf("the frontend returned one result for %d platforms", len(ps.Platforms))
	}
	p := &product{multi: len(res.Refs) > 0}
	for _, platform := range ps.Platforms {
		t, err := targetOf(res, platform)
		if err != nil {
			return nil, err
		}
		p.targets = append(p.targets, t)
	}
	return p, nil
}

func targetOf(res *client.Result, p exptypes.Platform) (*target, error) {
	t := &target{
		platform:   p,
		config:     exptypes.ParseKey(res.Metadata, exptypes.ExporterImageConfigKey, &p),
		baseConfig: exptypes.ParseKey(res.Metadata, exptypes.ExporterImageBaseConfigKey, &p),
		epoch:      exptypes.ParseKey(res.Metadata, commonexptypes.ExporterEpochKey, &p),

		attestations: res.Attestations[p.ID],
	}
	ref, ok := res.FindRef(p.ID)
	if !ok {
		return nil, fmt.Errorf("the frontend returned no result for %s", p.ID)
	}
	if ref == nil {
		return t, nil
	}
	if t.ref, ok = ref.(*dockerfile.Ref); !ok {
		return nil, fmt.Errorf("the frontend returned a %T", ref)
	}
	return t, nil
}

// isEmpty reports whether the target's root has no layers.
func (t *target) isEmpty() bool { return t.ref == nil || t.ref.IsEmpty() }

func (t *target) state(ctx context.Context) (*layer.State, error) {
	if t.ref == nil {
		return nil, nil
	}
	return t.ref.State(ctx)
}

// epochFor returns the time that later ones become; nil for none.
func (t *target) epochFor(o Output) (*time.Time, error) {
	if o.Epoch != nil || len(t.epoch) == 0 {
		return o.Epoch, nil
	}
	n, err := strconv.ParseInt(string(t.epoch), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("SOURCE_DATE_EPOCH: %q is not a number of seconds", t.epoch)
	}
	e := time.Unix(n, 0).UTC()
	return &e, nil
}

// states makes all targets, and returns their states in the same order.
func (p *product) states(ctx context.Context) ([]*layer.State, error) {
	states := make([]*layer.State, len(p.targets))
	g, ctx := errgroup.WithContext(ctx)
	for i, t := range p.targets {
		g.Go(func() (err error) {
			states[i], err = t.state(ctx)
			return err
		})
	}
	return states, g.Wait()
}

// edges returns what is to be solved for the targets.
func (p *product) edges() (edges []llb.Edge) {
	for _, t := range p.targets {
		if !t.isEmpty() {
			edges = append(edges, t.ref.Edge)
		}
	}
	return edges
}
