package gha

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-build/mayfly/remotecache"
)

func (b *Backend) put(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	key, looks := blobKey(blob.Digest), b.cfg.Mode.reads()
	if looks && !b.isAbsent(key) {
		if _, ok, err := b.lookup(ctx, key, false); err != nil {
			return err
		} else if ok {
			return b.sound(ctx, blob, src)
		}
	}
	err := b.send(ctx, blob, src)
	switch {
	case !errors.Is(err, errExists):
		return err
	case !looks:
		return nil // the service says so, and nothing else will
	}
	if err := b.await(ctx, key, blob.Size); err != nil {
		return err
	}
	return b.sound(ctx, blob, src)
}

// sound returns nil when the entry that is there for a blob has its size. One
// that has not is replaced where that is possible.
func (b *Backend) sound(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	err := b.probe(ctx, blob)
	if b.rest == nil || !errors.Is(err, remotecache.ErrCorrupt) {
		return err
	}
	if err := b.rest.removeKey(ctx, blobKey(blob.Digest), b.branch()); err != nil {
		return err
	}
	b.dropURL(blobKey(blob.Digest))
	return b.send(ctx, blob, src)
}

// send stores a blob that is not there. The error is errExists when there is
// an entry for it by now, finished or not.
func (b *Backend) send(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	check := func(ctx context.Context) error { return checkDigest(ctx, blob, src) }
	if blob.Size <= smallBlob {
		// An entry that was begun and cannot be finished blocks its key for
		// everybody: what a source has wrong is found before, if that is cheap.
		data := make([]byte, blob.Size)
		if n, err := src.ReadAt(data, 0); int64(n) < blob.Size {
			return fmt.Errorf("read byte %d of %d: %w", n, blob.Size, err)
		}
		src = bytes.NewReader(data)
		if err := check(ctx); err != nil {
			return err
		}
		check = func(context.Context) error { return nil }
	}
	return b.store(ctx, blobKey(blob.Digest), blob.Size, src, check)
}

// checkDigest reads src and returns ErrCorrupt unless it is the blob.
func checkDigest(ctx context.Context, blob ocispec.Descriptor, src io.ReaderAt) error {
	v := blob.Digest.Verifier()
	r := io.NewSectionReader(src, 0, blob.Size)
	for ctx.Err() == nil {
		n, err := io.CopyN(v, r, mib)
		if err != nil && err != io.EOF {
			return err
		}
		if n < mib {
			if !v.Verified() {
				return fmt.Errorf("the source has another digest: %w", remotecache.ErrCorrupt)
			}
			return nil
		}
	}
	return context.Cause(ctx)
}

// store makes an entry of src, once check has found nothing wrong with it
// while it was sent. The error is errExists when there is an entry, finished or
// not, that is not ours.
func (b *Backend) store(ctx context.Context, key string, size int64, src io.ReaderAt, check func(context.Context) error) error {
	s, ok := b.takeSlot(key, size)
	if !ok {
		if err := b.cfg.Uploads.Wait(ctx); err != nil {
			return err
		}
		var err error
		if s, err = b.svc.reserve(ctx, key, size); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return check(gctx) })
	g.Go(func() error { return b.svc.upload(gctx, &s, size, src) })
	if err := g.Wait(); err != nil {
		b.keepSlot(s)
		return err
	}
	err := b.svc.commit(ctx, s, size)
	if err == nil {
		return nil
	}
	// It may have been carried out, with only its answer lost.
	if _, ok, lerr := b.lookup(ctx, key, false); lerr == nil && ok {
		return nil
	}
	b.keepSlot(s)
	return err
}

// keepSlot remembers a reservation for who tries again.
func (b *Backend) keepSlot(s slot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slots[s.key] = s
}

// takeSlot returns a reservation that was kept. Protocol v1 has told the
// service the size, so that only an entry of that size can go there.
func (b *Backend) takeSlot(key string, size int64) (slot, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.slots[key]
	delete(b.slots, key)
	return s, ok && (b.cfg.Version != 1 || s.size == size)
}

// isAbsent reports, once, whether the service has said that there is no such
// entry.
func (b *Backend) isAbsent(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	said := b.absent[key]
	delete(b.absent, key)
	return said
}

// Pauses between looks at an entry that somebody else is making.
const (
	firstLook = 50 * time.Millisecond
	lastLook  = 2 * time.Second // BuildKit's
)

// slowest is the least that a job which sends an entry is taken to send in a
// second.
const slowest = 8 * mib

// await returns nil once an entry can be found that another job is making.
func (b *Backend) await(ctx context.Context, key string, size int64) error {
	begin, most := time.Now(), b.cfg.Patience+time.Duration(size/slowest)*time.Second
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		_, ok, err := b.lookup(ctx, key, false)
		if ok || err != nil {
			return err
		}
		if time.Since(begin)+pause > most {
			return fmt.Errorf("the entry was begun by another job, and is not finished after %s: that job is slow or was killed", most)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// probe reads a byte of a blob that is there: the answer tells its size.
func (b *Backend) probe(ctx context.Context, blob ocispec.Descriptor) error {
	if blob.Size == 0 {
		return nil
	}
	r, err := b.fetch(ctx, blobKey(blob.Digest), blob.Size, 0, 1)
	if err != nil {
		return err
	}
	return r.Close()
}
