package local

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
)

// imageName is the annotation that has an image's full name in index.json.
const imageName = "io.containerd.image.name"

func (b *Backend) indexPath() string { return filepath.Join(b.cfg.Dir, ocispec.ImageIndexFile) }

// readIndex reads index.json. BuildKit's clients write it in place, so that
// what is read may be half of it: a moment later it is whole. No lock is
// taken, since the directory may be one that cannot be written to.
func (b *Backend) readIndex() (*ocispec.Index, error) {
	for n := 0; ; n++ {
		data, err := readFile(b.indexPath(), maxManifest)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, remotecache.ErrNotFound
		}
		if err != nil {
			return nil, err
		}
		index, err := decodeIndex(data)
		if err == nil || n == 20 {
			return index, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// find returns the manifest that index.json names ref.
func find(index *ocispec.Index, ref string) (ocispec.Descriptor, bool) {
	for _, key := range []string{imageName, ocispec.AnnotationRefName} {
		for _, m := range index.Manifests {
			if m.Annotations[key] == ref {
				return m, true
			}
		}
	}
	return ocispec.Descriptor{}, false
}

// tag makes index.json name the manifest ref, given that ref has the version
// (see remotecache.Backend).
func (b *Backend) tag(ctx context.Context, ref string, m ocispec.Descriptor, version string) error {
	return b.change(ctx, func(index *ocispec.Index) error {
		if version != "" {
			now := remotecache.Absent
			if at, ok := find(index, ref); ok {
				now = at.Digest.String()
			}
			if now != version {
				return remotecache.ErrConflict
			}
		}
		remove(index, ref)
		m.Annotations = map[string]string{ocispec.AnnotationRefName: ref}
		index.Manifests = append(index.Manifests, m)
		return nil
	})
}

// remove makes index.json forget a ref.
func remove(index *ocispec.Index, ref string) {
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool {
		return d.Annotations[ocispec.AnnotationRefName] == ref && d.Annotations[imageName] == ""
	})
}

// change writes index.json anew under its lock, with what edit makes of it.
func (b *Backend) change(ctx context.Context, edit func(*ocispec.Index) error) error {
	unlock, err := b.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := b.createIfAbsent(filepath.Join(b.cfg.Dir, ocispec.ImageLayoutFile), layout); err != nil {
		return err
	}
	index, err := b.readIndex()
	switch {
	case errors.Is(err, remotecache.ErrNotFound):
		index = &ocispec.Index{}
	case err != nil:
		return err
	}
	if index.SchemaVersion == 0 {
		index.Versioned = specs.Versioned{SchemaVersion: 2}
	}
	if index.MediaType == "" {
		index.MediaType = ocispec.MediaTypeImageIndex
	}
	if err := edit(index); err != nil {
		return err
	}
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if err := b.create(b.indexPath(), func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}); err != nil {
		return err
	}
	b.sweep()
	if b.cfg.Reset {
		return b.reset(index)
	}
	return nil
}

func (b *Backend) createIfAbsent(path string, data []byte) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return b.create(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// lockPoll is how often a lock that another process holds is asked for again.
const lockPoll = 10 * time.Millisecond

// lock takes the lock of index.json that BuildKit's clients take. They, and
// we, remove its file after use: it counts only while its name leads to it.
func (b *Backend) lock(ctx context.Context) (unlock func(), err error) {
	path := b.indexPath() + ".lock"
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, readOnly(err)
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil && sameFile(f, path) {
			return func() {
				os.Remove(path)
				f.Close()
			}, nil
		}
		f.Close()
		if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

func isReadOnlyFS(err error) bool { return errors.Is(err, syscall.EROFS) }

// leftover is how old a temporary file is when its process is surely gone.
const leftover = 24 * time.Hour

// sweep removes the temporary files of processes that were killed.
func (b *Backend) sweep() {
	entries, err := os.ReadDir(b.cfg.Dir)
	if err != nil {
		return // nothing that matters now
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tmpPrefix) {
			continue
		}
		if fi, err := e.Info(); err == nil && time.Since(fi.ModTime()) > leftover {
			os.Remove(filepath.Join(b.cfg.Dir, e.Name()))
		}
	}
}

// reset removes the blobs that no manifest of index leads to. If one of these
// cannot be read, nothing is removed.
func (b *Backend) reset(index *ocispec.Index) error {
	used, err := b.reachable(index)
	if err != nil {
		return err
	}
	return b.eachBlob(func(path string, d digest.Digest, _ fs.FileInfo) error {
		if _, ok := used[d]; !ok {
			return os.Remove(path)
		}
		return nil
	})
}

// reachable returns the blobs that index leads to: true for manifests and
// configs, false for layers.
func (b *Backend) reachable(index *ocispec.Index) (map[digest.Digest]bool, error) {
	out := map[digest.Digest]bool{}
	queue := slices.Clone(index.Manifests)
	for len(queue) > 0 {
		d := queue[0]
		queue = queue[1:]
		if _, seen := out[d.Digest]; seen {
			continue
		}
		out[d.Digest] = isManifest(d.MediaType)
		if !out[d.Digest] {
			continue
		}
		data, err := b.manifest(d)
		if errors.Is(err, remotecache.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		p, err := manifest.Parse(data)
		if err != nil {
			return nil, err
		}
		out[p.Config.Digest] = true
		queue = append(append(queue, p.Layers...), p.Manifests...)
	}
	return out, nil
}

// isManifest reports whether a descriptor of index.json leads further.
func isManifest(mediaType string) bool {
	return mediaType == "" || strings.Contains(mediaType, "manifest") || strings.Contains(mediaType, "image.index")
}
