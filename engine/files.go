package engine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-build/mayfly/engine/exporter/local"
	"github.com/mayfly-build/mayfly/engine/exporter/tar"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/internal/hint"
)

// files writes the targets' root file systems as files: those of several are
// each in a directory named for the platform.
func (b *build) files(ctx context.Context, p *product, states []*layer.State, o Output) error {
	split := p.multi
	if o.Split != nil && o.Kind == OutputLocal {
		split = *o.Split
	}
	attested, err := b.attested(ctx, p, o)
	if err != nil {
		return err
	}
	now := time.Now().Truncate(time.Second)
	roots := make([]tar.Root, len(p.targets))
	for i, t := range p.targets {
		suffix := ""
		if p.multi && !split {
			suffix = platformDir(t)
		}
		view, err := states[i].View(ctx)
		if err != nil {
			return err
		}
		if roots[i].View, err = withFiles(ctx, view, attested[i], o, suffix, now); err != nil {
			return err
		}
		if roots[i].Epoch, err = t.epochFor(o); err != nil {
			return err
		}
		if split {
			roots[i].Dir = platformDir(t)
		}
	}
	if o.Kind == OutputTar {
		w, err := o.Open()
		if err != nil {
			return err
		}
		return closeFile(w, tar.ExportAll(ctx, w, roots, tar.Options{}))
	}
	if !split {
		if err := disjoint(p, roots); err != nil {
			return err
		}
	}
	for _, r := range roots {
		if err := local.Export(ctx, r.View, o.Dir, local.Options{Epoch: r.Epoch, Sub: r.Dir}); err != nil {
			return err
		}
	}
	return nil
}

// platformDir returns the name of the directory for a target's files.
func platformDir(t *target) string { return strings.ReplaceAll(t.platform.ID, "/", "_") }

// disjoint checks that no two targets have a file of one name: one would
// silently replace the other.
func disjoint(p *product, roots []tar.Root) error {
	of := map[string]string{}
	for i, r := range roots {
		if r.View == nil {
			continue
		}
		id := p.targets[i].platform.ID
		err := r.View.Walk("", func(e *fsdiff.Entry) error {
			if e.IsDir() {
				return nil
			}
			if other, ok := of[e.Path]; ok {
				return hint.With(fmt.Errorf("/%s is in the results for %s and for %s", e.Path, other, id),
					"without platform-split=false each platform has a directory of its own")
			}
			of[e.Path] = id
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
