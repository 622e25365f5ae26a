package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/internal/retry"
	"github.com/mayfly-build/mayfly/remotecache"
)

// A sick origin gives what err says; nil is a byte.
type sick struct {
	layer.Origin
	err   error
	asked int
}

func (o *sick) Open(context.Context, ocispec.Descriptor, int64) (io.ReadCloser, error) {
	o.asked++
	return io.NopCloser(strings.NewReader("x")), o.err
}

// A cache whose blobs cannot be read is given up; one that only lacks some, or
// has wrong ones, is not.
func TestCacheIsGivenUp(t *testing.T) {
	down := errors.New("503")
	for _, tt := range []struct {
		name  string
		errs  []error // of the blobs, one after the other
		asked int     // of them
	}{
		{"down", []error{down, down, down, down, down, down}, hopeless},
		{"shaky", []error{down, down, down, nil, down, down, down}, 7},
		{"silent", []error{fmt.Errorf("read: %w", retry.ErrStalled), down, nil}, 1},
		{"lacks them", []error{remotecache.ErrNotFound, remotecache.ErrNotFound, remotecache.ErrNotFound, remotecache.ErrCorrupt, remotecache.ErrCorrupt}, 5},
	} {
		o := &sick{}
		m := &metered{Origin: o}
		lost := 0
		for _, o.err = range tt.errs {
			r, err := m.Open(t.Context(), ocispec.Descriptor{}, 0)
			if err == nil {
				_, err = io.ReadAll(r)
			}
			if err != nil {
				lost++
				m.Lost(ocispec.Descriptor{}, err)
			}
		}
		if o.asked != tt.asked || m.lost != lost {
			t.Errorf("%s: asked for %d blobs, not %d; %d are lost, not %d", tt.name, o.asked, tt.asked, m.lost, lost)
		}
		if err := m.trouble(); !errors.Is(err, tt.errs[0]) {
			t.Errorf("%s: the trouble is %v", tt.name, err)
		}
	}
	if err := (&metered{}).trouble(); err != nil {
		t.Error(err)
	}
}

func TestLate(t *testing.T) {
	over := errors.New("not done within 5s")
	ctx, cancel := context.WithCancelCause(t.Context())
	down := errors.New("503")
	if err := late(ctx, down); err != down {
		t.Errorf("in time: %v", err)
	}
	cancel(over)
	if err := late(ctx, down); !errors.Is(err, over) || !errors.Is(err, down) {
		t.Errorf("late: %v", err)
	}
	if err := late(ctx, fmt.Errorf("put: %w", over)); err.Error() != "put: not done within 5s" {
		t.Errorf("late, and said so: %v", err)
	}
	if err := late(ctx, nil); err != nil {
		t.Errorf("late, and done: %v", err)
	}
}
