package layertar

import (
	"context"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

func parentIs(v *fsdiff.View) func(context.Context) (*fsdiff.View, error) {
	return func(context.Context) (*fsdiff.View, error) { return v, nil }
}
