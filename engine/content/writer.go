package content

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// copyBuffer is the size of Ingest's buffer in bytes: large enough that the
// hash, not the system calls, is what a copy costs.
const copyBuffer = 256 << 10

// A Writer writes one new blob. It is used by one goroutine and ends with
// Commit or Abort; a deferred Abort after a Commit does nothing.
type Writer struct {
	store     *Store
	file      *os.File // nil when ended
	algorithm digest.Algorithm
	hash      hash.Hash
	size      int64
}

// Writer starts a new blob whose digest is sha256.
func (s *Store) Writer() (*Writer, error) {
	return s.writer(digest.SHA256)
}

func (s *Store) writer(a digest.Algorithm) (*Writer, error) {
	// Blobs are never changed in place, hence the mode.
	name := filepath.Join(s.tmp, "blob-"+rand.Text())
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o444)
	if err != nil {
		return nil, fmt.Errorf("write blob: %w", err)
	}
	return &Writer{store: s, file: f, algorithm: a, hash: a.Hash()}, nil
}

// Write appends p to the blob.
func (w *Writer) Write(p []byte) (int, error) {
	if w.file == nil {
		return 0, fmt.Errorf("write blob: %w", fs.ErrClosed)
	}
	n, err := w.file.Write(p)
	w.hash.Write(p[:n])
	w.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("write blob: %w", err)
	}
	return n, nil
}

// Size is the number of bytes written.
func (w *Writer) Size() int64 { return w.size }

// Digest is the digest of the bytes written up to now.
func (w *Writer) Digest() digest.Digest { return digest.NewDigest(w.algorithm, w.hash) }

// Commit puts the blob into the store and returns its digest and size, the
// only fields set. When the bytes written are others than expected ("" for any)
// and size (0 or less for any) say, the error is ErrCorrupt, names both, and
// the store is as before. A blob that is there already is success.
func (w *Writer) Commit(expected digest.Digest, size int64) (ocispec.Descriptor, error) {
	if w.file == nil {
		return ocispec.Descriptor{}, fmt.Errorf("commit blob: %w", fs.ErrClosed)
	}
	defer w.Abort()
	if expected == "" {
		expected = w.Digest()
	}
	name, err := w.store.path(expected)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if a := expected.Algorithm(); a != w.algorithm {
		return ocispec.Descriptor{}, fmt.Errorf("commit blob %s: written with %s: %w", expected, w.algorithm, digest.ErrDigestUnsupported)
	}
	if err := check(expected, size, w.hash, w.size); err != nil {
		return ocispec.Descriptor{}, err
	}
	tmp := w.file.Name()
	err = w.file.Close()
	w.file = nil
	if err == nil {
		err = rename(tmp, name)
	}
	if err != nil {
		return ocispec.Descriptor{}, errors.Join(fmt.Errorf("commit blob %s: %w", expected, err), os.Remove(tmp))
	}
	return ocispec.Descriptor{Digest: expected, Size: w.size}, nil
}

// rename moves tmp to name, over what is there (the same bytes, or what a
// power cut left), and makes the directory of name when it is missing.
func rename(tmp, name string) error {
	err := os.Rename(tmp, name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(filepath.Dir(name), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return os.Rename(tmp, name)
	}
	return err
}

// Abort gives the blob up and leaves nothing behind.
func (w *Writer) Abort() error {
	if w.file == nil {
		return nil
	}
	f := w.file
	w.file = nil
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// Ingest stores the blob desc from r, which is not read when the store holds
// the blob. desc.Size 0 means that the size is not known. Other bytes than
// desc.Digest names are ErrCorrupt; after any error the store is as before.
func (s *Store) Ingest(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("blob %q: %w", string(desc.Digest), err)
	}
	if s.Has(desc) {
		return nil
	}
	w, err := s.writer(desc.Digest.Algorithm())
	if err != nil {
		return err
	}
	defer w.Abort()
	buf := make([]byte, copyBuffer)
	for {
		n, err := r.Read(buf)
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		if desc.Size != 0 && w.size > desc.Size {
			return fmt.Errorf("blob %s: more than its %d bytes: %w", desc.Digest, desc.Size, ErrCorrupt)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read blob %s: %w", desc.Digest, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	_, err = w.Commit(desc.Digest, desc.Size)
	return err
}
