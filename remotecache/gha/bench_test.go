package gha_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	actionscache "github.com/tonistiigi/go-actions-cache"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/gha"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

// BenchmarkExport and BenchmarkImport move blobs as mayfly does and, under the
// name buildkit, with the client and in the order that BuildKit v0.33 has: one
// blob after the other out, four at once in. The service answers after 20 ms;
// the storage is as near as it can be, and has one thread.
func BenchmarkExport(b *testing.B) { bench(b, true) }
func BenchmarkImport(b *testing.B) { bench(b, false) }

func bench(b *testing.B, export bool) {
	c, err := services.StartGHACache(b.Context(), services.GHACacheConfig{Delay: 20 * time.Millisecond})
	services.Use(b, c, err)
	for _, shape := range []struct {
		name    string
		n, size int
	}{{"400x4KiB", 400, 4 << 10}, {"1x512MiB", 1, 512 << 20}, {"4x64MiB", 4, 64 << 20}} {
		var descs []ocispec.Descriptor
		data := map[string][]byte{}
		for i := range shape.n {
			d, blob := remotecachetest.Blob(uint64(i), shape.size)
			descs, data[d.Digest.String()] = append(descs, d), blob
		}
		idx := remotecachetest.IndexOf("bench", descs...)
		for _, tool := range []struct {
			name    string
			out, in func(*services.GHARepository) error
		}{
			{"mayfly", func(repo *services.GHARepository) error {
				back, err := gha.New(gha.Config{URLv2: c.URL, Token: repo.Token(writeMain), Uploads: gha.PerMinute(100_000)})
				if err != nil {
					return err
				}
				_, err = remotecache.Export(b.Context(), back, "main", idx, func(_ context.Context, d ocispec.Descriptor) (remotecache.BlobReader, error) {
					return noClose{bytes.NewReader(data[d.Digest.String()])}, nil
				}, remotecache.ExportOptions{Uploads: 16})
				return err
			}, func(repo *services.GHARepository) error {
				back, err := gha.New(gha.Config{URLv2: c.URL, Token: repo.Token(writeMain)})
				if err != nil {
					return err
				}
				if _, err := back.LoadIndexes(b.Context(), "main"); err != nil {
					return err
				}
				return each(descs, 16, func(d ocispec.Descriptor) error {
					r, err := remotecache.Verify(back).Open(b.Context(), d, 0)
					if err != nil {
						return err
					}
					defer r.Close()
					_, err = io.Copy(io.Discard, r)
					return err
				})
			}},
			{"buildkit", func(repo *services.GHARepository) error {
				gac, err := actionscache.New(repo.Token(writeMain), c.URL, true, actionscache.Opt{})
				if err != nil {
					return err
				}
				for _, d := range descs {
					key := "buildkit-blob-1-" + d.Digest.String()
					if _, err := gac.Load(b.Context(), key); err != nil {
						return err
					}
					if err := gac.Save(b.Context(), key, actionscache.NewBlob(data[d.Digest.String()])); err != nil {
						return err
					}
				}
				enc, err := idx.EncodeAnnotated()
				if err != nil {
					return err
				}
				return gac.SaveMutable(b.Context(), "index-main-1-f921bd05", 15*time.Second, func(*actionscache.Entry) (actionscache.Blob, error) {
					return actionscache.NewBlob(enc), nil
				})
			}, func(repo *services.GHARepository) error {
				gac, err := actionscache.New(repo.Token(writeMain), c.URL, true, actionscache.Opt{})
				if err != nil {
					return err
				}
				get := func(key string) error {
					e, err := gac.Load(b.Context(), key)
					if err != nil || e == nil {
						return fmt.Errorf("%s: %v, %w", key, e, err)
					}
					return e.WriteTo(b.Context(), sha256.New()) // containerd checks what it stores
				}
				if err := get("index-main-1-f921bd05"); err != nil {
					return err
				}
				return each(descs, 4, func(d ocispec.Descriptor) error { return get("buildkit-blob-1-" + d.Digest.String()) })
			}},
		} {
			b.Run(shape.name+"/"+tool.name, func(b *testing.B) {
				b.SetBytes(int64(shape.n * shape.size))
				repo := c.NewRepository()
				if !export {
					if err := tool.out(repo); err != nil {
						b.Fatal(err)
					}
				}
				for b.Loop() {
					do := tool.in
					if export {
						repo, do = c.NewRepository(), tool.out
					}
					if err := do(repo); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func each(descs []ocispec.Descriptor, n int, do func(ocispec.Descriptor) error) error {
	var g errgroup.Group
	g.SetLimit(n)
	for _, d := range descs {
		g.Go(func() error { return do(d) })
	}
	return g.Wait()
}
