package remotecache_test

import (
	"context"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/remotecache"
)

const noteType = remotecache.AttachmentPrefix + "note"

func note(data string) remotecache.Blob {
	return remotecache.Blob{Digest: digest.FromString(data), Size: int64(len(data)), MediaType: noteType}
}

// withNotes adds a letter to the note that is there.
func withNotes(t *testing.T, m *remotecache.Memory, letter string) remotecache.ExportOptions {
	opts := merging
	opts.Attach = func(ctx context.Context, old *remotecache.Index) (remotecache.Blob, []byte) {
		data := letter
		if b, ok := old.Attachment(noteType); ok {
			r, err := m.Open(ctx, b.Descriptor(), 0)
			if err != nil {
				t.Error(err)
				return remotecache.Blob{}, nil
			}
			defer r.Close()
			dt, err := io.ReadAll(r)
			if err != nil {
				t.Error(err)
			}
			data += string(dt)
		}
		return note(data), []byte(data)
	}
	return opts
}

// TestExportAttach has jobs that merge save at once: what is attached at the
// end comes of all of them.
func TestExportAttach(t *testing.T) {
	m := remotecache.NewMemory()
	var g errgroup.Group
	for i, letter := range []string{"a", "b", "c", "d", "e"} {
		g.Go(func() error {
			idx, src := job(i)
			_, err := remotecache.Export(t.Context(), m, "main", idx, src, withNotes(t, m, letter))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	idx, err := m.LoadIndex(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	if b, ok := idx.Attachment(noteType); !ok || b.Size != 5 || len(idx.Attachments) != 1 {
		t.Errorf("attached %+v", idx.Attachments)
	}
}

// TestExportAttachTrouble: an attachment that cannot be stored, or that is no
// longer where it was, costs nothing but itself.
func TestExportAttachTrouble(t *testing.T) {
	for _, tt := range []struct {
		name string
		data []byte // nil: it is said to be there
		want int
	}{
		{"stored", []byte("note"), 1},
		{"refused", []byte("refused"), 0},
		{"gone", nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &faulty{Memory: remotecache.NewMemory(), put: func(blob ocispec.Descriptor, _ io.ReaderAt) error {
				if blob.Digest == digest.FromString("refused") {
					return errDisk
				}
				return nil
			}}
			idx, src := job(1)
			opts := remotecache.ExportOptions{Attach: func(_ context.Context, old *remotecache.Index) (remotecache.Blob, []byte) {
				if old != nil {
					t.Error("an export that replaces is told of what is there")
				}
				if tt.data == nil {
					return note("gone"), nil
				}
				return note(string(tt.data)), tt.data
			}}
			out, err := remotecache.Export(t.Context(), f, "main", idx, src, opts)
			if err != nil || out.State != remotecache.OK {
				t.Errorf("%+v, %v", out, err)
			}
			got, err := f.LoadIndex(t.Context(), "main")
			if err != nil || len(got.Attachments) != tt.want || len(got.Layers) != 2 {
				t.Errorf("%d attachments and %d layers, %v", len(got.Attachments), len(got.Layers), err)
			}
		})
	}
}
