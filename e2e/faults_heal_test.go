package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// damages are what may become of a blob where it lies.
var damages = map[string]func(data []byte) []byte{
	"flipped":   func(data []byte) []byte { data[len(data)/2] ^= 1; return data },
	"truncated": func(data []byte) []byte { return data[:len(data)/2] },
	"missing":   func([]byte) []byte { return nil },
}

// TestCacheHeals damages a blob of a cache where it lies: of a step, or of the
// base image, which its registry has, too. A job that reads and writes the cache
// builds the right image all the same, and leaves a cache from which the next
// one takes every step; or, where the service lets nobody replace a blob, every
// step but those that need it, and without a warning.
func TestCacheHeals(t *testing.T) {
	services.NeedRoot(t)
	w := newFaultWorld(t)
	for _, kind := range faultKinds {
		t.Run(kind, func(t *testing.T) {
			c, err := services.StartCache(t.Context(), kind, services.CacheConfig{})
			services.Use(t, c, err)
			for name, change := range damages {
				if name == "missing" && kind == "gha" {
					continue // an entry does not outlive its blob there
				}
				for _, of := range []string{"step", "base"} {
					t.Run(name+" "+of, func(t *testing.T) { w.heal(t, c, name+" "+of, change) })
				}
			}
		})
	}
}

func (w *faultWorld) heal(t *testing.T, c *services.Cache, name string, change func([]byte) []byte) {
	if c.Kind == "registry" || c.Kind == "gha-v1" {
		// What one cache has stored there, all have.
		own, err := services.StartCache(t.Context(), c.Kind, services.CacheConfig{})
		c = services.Use(t, own, err)
	}
	x := &cell{faulty: &faulty{kind: c.Kind, cache: c}, w: w, fault: fault{name: name}, phase: "heal"}
	before, err := newLarge(t.Context(), c)
	services.Need(t, err)
	place := c.Place(x.slug())
	n := 0
	build := func(flags ...string) *faultResult {
		t.Helper()
		n++
		x.fault.name = fmt.Sprint(name, n) // another repository for the image: what is in one is not read again
		r, err := x.build(t.Context(), nil, flags...)
		if err != nil {
			t.Fatal(err)
		}
		if r.exit != 0 || r.digest != w.digest {
			t.Errorf("exit code %d, image %s, without a cache %s: %s", r.exit, r.digest, w.digest, r.log)
		}
		return r
	}
	if r := build("--cache-to", place.To+",mode=max"); r.outcome != "ok" {
		t.Fatalf("the first export: %s: %s", r.outcome, r.reason)
	}
	base := strings.HasSuffix(name, "base")
	services.Need(t, before.damage(t.Context(), base, change))
	r := build("--cache-from", place.From, "--cache-to", place.To+",mode=max")
	t.Logf("the job that finds it: import %s, export %s: %s", r.imported, r.outcome, r.reason)
	if stuck(c.Kind, name) {
		next := build("--cache-from", place.From)
		if r.imported != "partial" || r.outcome == "ok" || !strings.Contains(r.reason, "does not part with") {
			t.Errorf("its import is %s, its export %s: %s", r.imported, r.outcome, r.reason)
		}
		if base { // all steps need it, so that no other cache could be saved
			if len(next.ran) > 0 {
				t.Errorf("ran %q, although the registry of the base has the blob", next.ran)
			}
		} else if next.outcome != "ok" || len(next.ran) == 0 {
			t.Errorf("the next import is %s: %s; ran %q", next.outcome, next.reason, next.ran)
		}
		return
	}
	if r.outcome != "ok" || r.imported != "partial" {
		t.Errorf("its import is %s, its export %s: %s", r.imported, r.outcome, r.reason)
	}
	if r := build("--cache-from", place.From); r.outcome != "ok" || len(r.ran) > 0 {
		t.Errorf("the next import is %s: %s; ran %q", r.outcome, r.reason, r.ran)
	}
}

// stuck reports whether a blob stays as it is where it is wrong: GitHub's
// entries are never changed, and a registry takes no blob that it has.
func stuck(kind, damage string) bool {
	return !strings.HasPrefix(damage, "missing") && (kind == "gha" || kind == "gha-v1" || kind == "registry")
}

// A large finds a large blob that was stored since it was made.
type large struct {
	dir string // of files; "" where there is azurite
	az  *service.Client
	old map[string]bool
}

func newLarge(ctx context.Context, c *services.Cache) (*large, error) {
	l := &large{}
	switch c.Kind {
	case "s3":
		l.dir = c.S3.Dir
	case "registry":
		l.dir, _, _ = strings.Cut(c.Registry.BlobPath("sha256:00"), "/docker/")
	case "gha-v1":
		l.dir = c.GHAv1.Dir
	case "local":
		l.dir = filepath.Dir(strings.TrimPrefix(c.Place("x").From, "type=local,src="))
	default:
		a := c.Azurite
		if c.Kind == "gha" {
			a = c.GHA.Azurite
		}
		cred, err := azblob.NewSharedKeyCredential(a.Account, a.Key)
		if err != nil {
			return nil, err
		}
		if l.az, err = service.NewClientWithSharedKeyCredential(a.URL, cred, nil); err != nil {
			return nil, err
		}
	}
	var err error
	l.old, err = l.all(ctx, func(string, int64) {})
	return l, err
}

// all calls found with every blob and its size, and returns their names.
func (l *large) all(ctx context.Context, found func(name string, size int64)) (map[string]bool, error) {
	names := map[string]bool{}
	if l.az == nil {
		err := filepath.WalkDir(l.dir, func(path string, d fs.DirEntry, err error) error {
			if path == l.dir && errors.Is(err, fs.ErrNotExist) {
				return nil // nothing is stored yet
			}
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			fi, err := d.Info()
			if err == nil && !strings.HasSuffix(path, ".db") {
				names[path] = true
				found(path, fi.Size())
			}
			return err
		})
		return names, err
	}
	for cs := l.az.NewListContainersPager(nil); cs.More(); {
		page, err := cs.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, c := range page.ContainerItems {
			for bs := l.az.NewContainerClient(*c.Name).NewListBlobsFlatPager(&container.ListBlobsFlatOptions{}); bs.More(); {
				page, err := bs.NextPage(ctx)
				if err != nil {
					return nil, err
				}
				for _, b := range page.Segment.BlobItems {
					name := *c.Name + "/" + *b.Name
					names[name] = true
					found(name, *b.Properties.ContentLength)
				}
			}
		}
	}
	return names, nil
}

// damage changes the bytes of the new blobs of the base image, or of the largest
// of steps; nil removes them.
func (l *large) damage(ctx context.Context, base bool, change func([]byte) []byte) error {
	const least, most = 700_000, 1_000_000 // bytes of those of steps: twice the file big
	var names []string
	if _, err := l.all(ctx, func(n string, size int64) {
		if !l.old[n] && (base && size > most || !base && size > least && size < most) {
			names = append(names, n)
		}
	}); err != nil {
		return err
	}
	if len(names) == 0 {
		return errors.New("no blob has the size that is looked for")
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, l.change(ctx, name, change))
	}
	return errors.Join(errs...)
}

func (l *large) change(ctx context.Context, name string, change func([]byte) []byte) error {
	if l.az == nil {
		return damageFile(name, change)
	}
	c, b, _ := strings.Cut(name, "/")
	blob := l.az.NewContainerClient(c).NewBlockBlobClient(b)
	resp, err := blob.DownloadStream(ctx, nil)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if data = change(data); data == nil {
		_, err = blob.Delete(ctx, nil)
		return err
	}
	_, err = blob.UploadBuffer(ctx, data, nil)
	return err
}

func damageFile(name string, change func([]byte) []byte) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if data = change(data); data == nil {
		return os.Remove(name)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0) // its attributes stay
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
