package fsdiff

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// capability is the one attribute that Same compares: overlayfs copies a file
// up for every change of one, and only this one is worth a new layer entry.
const capability = "security.capability"

// Same says whether b, found in an upper layer where a was below, is no
// change: an overlay upper directory holds copies of what was touched and put
// back. It is BuildKit's judgement, so that layers come out alike: owner,
// mode, device and file capability, and for all but directories size and
// mtime. Bytes are compared only when the times agree to the second and
// neither has a fraction of one, as after unpacking a tar.
func Same(a, b *Entry) (bool, error) {
	if a == b {
		return true, nil
	}
	if a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID ||
		a.Devmajor != b.Devmajor || a.Devminor != b.Devminor ||
		!bytes.Equal(a.Xattrs[capability], b.Xattrs[capability]) {
		return false, nil
	}
	if a.Mode.IsDir() {
		return true, nil
	}
	if a.Size != b.Size || len(a.Linkname) != len(b.Linkname) || a.ModTime.Unix() != b.ModTime.Unix() {
		return false, nil
	}
	an, bn := a.ModTime.Nanosecond(), b.ModTime.Nanosecond()
	if an != 0 || bn != 0 {
		return an == bn, nil
	}
	if a.Mode&fs.ModeSymlink != 0 {
		return a.Linkname == b.Linkname, nil
	}
	if a.Size == 0 {
		return true, nil
	}
	return sameBytes(a, b)
}

func sameBytes(a, b *Entry) (same bool, err error) {
	if a.Content == nil || b.Content == nil {
		return a.Content == b.Content, nil
	}
	if a.Content == b.Content {
		return true, nil
	}
	ra, err := a.Content.Open()
	if err != nil {
		return false, fmt.Errorf("compare %s: %w", a.Path, err)
	}
	defer func() { err = errors.Join(err, ra.Close()) }()
	rb, err := b.Content.Open()
	if err != nil {
		return false, fmt.Errorf("compare %s: %w", b.Path, err)
	}
	defer func() { err = errors.Join(err, rb.Close()) }()
	return equalReaders(bufio.NewReaderSize(ra, 64<<10), bufio.NewReaderSize(rb, 64<<10))
}

func equalReaders(a, b *bufio.Reader) (bool, error) {
	for {
		pa, erra := a.Peek(max(1, a.Buffered()))
		pb, errb := b.Peek(max(1, b.Buffered()))
		if errors.Is(erra, io.EOF) || errors.Is(errb, io.EOF) {
			return errors.Is(erra, io.EOF) && errors.Is(errb, io.EOF), nil
		}
		if err := errors.Join(erra, errb); err != nil {
			return false, err
		}
		n := min(len(pa), len(pb))
		if !bytes.Equal(pa[:n], pb[:n]) {
			return false, nil
		}
		a.Discard(n)
		b.Discard(n)
	}
}
