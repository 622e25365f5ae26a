package content

import (
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Blob is an open blob: its bytes stay readable, and the same, until Close,
// even when the store removes it. ReadAt may be called from several goroutines
// at once.
type Blob struct {
	file *os.File
	size int64
}

// Read reads on from where the last Read ended.
func (b *Blob) Read(p []byte) (int, error) { return b.file.Read(p) }

// ReadAt reads at an offset and leaves Read's position alone.
func (b *Blob) ReadAt(p []byte, off int64) (int, error) { return b.file.ReadAt(p, off) }

// WriteTo writes what Read would still give to w, in the kernel where w can.
func (b *Blob) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, b.file) }

// Size is the number of bytes of the whole blob.
func (b *Blob) Size() int64 { return b.size }

// File is the file below the Blob, open for reading; Close closes it.
func (b *Blob) File() *os.File { return b.file }

// Close ends the use of the Blob.
func (b *Blob) Close() error { return b.file.Close() }

// Verify returns a reader of r's bytes that ends with io.EOF only when they
// were those of desc.Digest, and ErrCorrupt when they were not. Bytes beyond
// desc.Size are ErrCorrupt at once, unless desc.Size is 0: not known.
func Verify(r io.Reader, desc ocispec.Descriptor) io.Reader {
	if err := desc.Digest.Validate(); err != nil {
		return &verifier{err: fmt.Errorf("blob %q: %w", string(desc.Digest), err)}
	}
	return &verifier{r: r, want: desc, hash: desc.Digest.Algorithm().Hash()}
}

type verifier struct {
	r    io.Reader
	want ocispec.Descriptor
	hash hash.Hash
	n    int64
	err  error // sticky
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	v.n += int64(n)
	if v.want.Size != 0 && v.n > v.want.Size {
		n, err = 0, fmt.Errorf("blob %s: more than its %d bytes: %w", v.want.Digest, v.want.Size, ErrCorrupt)
	}
	// The end is looked at with the last byte, not after it: what takes the bytes
	// never has all of a blob that is a wrong one.
	if err == io.EOF || err == nil && v.want.Size != 0 && v.n == v.want.Size {
		if bad := check(v.want.Digest, v.want.Size, v.hash, v.n); bad != nil {
			n, err = 0, bad
		}
	}
	v.err = err
	return n, err
}

// check compares what was read with what was wanted; size 0 or less is not
// known.
func check(want digest.Digest, size int64, h hash.Hash, n int64) error {
	got := digest.NewDigest(want.Algorithm(), h)
	if got != want {
		return fmt.Errorf("blob %s: %d bytes with digest %s: %w", want, n, got, ErrCorrupt)
	}
	if size > 0 && size != n {
		return fmt.Errorf("blob %s: %d bytes, descriptor says %d: %w", want, n, size, ErrCorrupt)
	}
	return nil
}
