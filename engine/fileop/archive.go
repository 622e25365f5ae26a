package fileop

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/ulikunitz/xz"
)

const (
	zstdSkippable     = 0x184d2a50 // to 0x184d2a5f, RFC 8878
	zstdSkippableMask = 0xfffffff0
	zstdWindow        = 128 << 20 // bytes, at most
)

// openArchive returns the bytes of e decompressed. The caller closes.
func openArchive(e *fsdiff.Entry) (io.ReadCloser, error) {
	f, err := e.Content.Open()
	if err != nil {
		return nil, err
	}
	a := &archive{file: f}
	if err := a.decompress(bufio.NewReaderSize(f, 64<<10)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return a, nil
}

type archive struct {
	io.Reader
	file io.Closer
	stop func() // nil: nothing to stop
}

func (a *archive) decompress(r *bufio.Reader) error {
	start, err := r.Peek(10)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case bytes.HasPrefix(start, []byte("BZh")):
		a.Reader = bzip2.NewReader(r)
	case bytes.HasPrefix(start, []byte("\x1f\x8b\x08")):
		a.Reader, err = gzip.NewReader(r)
		return err
	case bytes.HasPrefix(start, []byte("\xfd7zXZ\x00")):
		a.Reader, err = xz.NewReader(r)
		return err
	case bytes.HasPrefix(start, []byte("\x28\xb5\x2f\xfd")),
		len(start) >= 8 && binary.LittleEndian.Uint32(start)&zstdSkippableMask == zstdSkippable:
		d, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return err
		}
		a.Reader, a.stop = d, d.Close
	default:
		a.Reader = r
	}
	return nil
}

// Close implements io.Closer.
func (a *archive) Close() error {
	if a.stop != nil {
		a.stop()
	}
	return a.file.Close()
}

// isArchive says whether e is a tar, compressed or not, with something in it.
// The error is that of reading e.
func isArchive(e *fsdiff.Entry) (bool, error) {
	f, err := e.Content.Open()
	if err != nil {
		return false, err
	}
	a := &archive{file: f}
	if err := a.decompress(bufio.NewReader(f)); err != nil {
		return false, f.Close()
	}
	_, err = tar.NewReader(a).Next()
	is := err == nil
	return is, a.Close()
}

// An unpackDir holds the files of archives.
type unpackDir struct {
	path  string
	files *fsdiff.FileDir
	n     int
}

func newUnpackDir(path string) (*unpackDir, error) {
	files, err := fsdiff.OpenFileDir(path)
	if err != nil {
		return nil, err
	}
	return &unpackDir{path: path, files: files}, nil
}

// add returns the rest of r as the content of a file.
func (d *unpackDir) add(r io.Reader) (fsdiff.Content, error) {
	d.n++
	name := strconv.Itoa(d.n)
	f, err := os.OpenFile(filepath.Join(d.path, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(f, r)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("write file of archive: %w", err)
	}
	return d.files.File(name)
}
