package layertar

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"time"
)

// Rewrite copies the uncompressed layer tar r to w with every time after epoch
// made epoch, as BuildKit's rewrite-timestamp=true does, down to the way in
// which the headers are written anew: the diff ID of the result is BuildKit's.
// r is read to its end, also behind the end of the tar.
func Rewrite(ctx context.Context, r io.Reader, w io.Writer, epoch time.Time) error {
	br := bufio.NewReaderSize(r, copyBuffer)
	bw := bufio.NewWriterSize(w, copyBuffer)
	tr, tw := tar.NewReader(br), tar.NewWriter(bw)
	buf := make([]byte, copyBuffer)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("rewrite layer: %w", err)
		}
		for _, t := range []*time.Time{&hdr.ModTime, &hdr.AccessTime, &hdr.ChangeTime} {
			if t.After(epoch) {
				*t = epoch
			}
		}
		if err := tw.WriteHeader(hdr); err != nil {
			return fmt.Errorf("rewrite layer: %q: %w", hdr.Name, err)
		}
		if _, err := io.CopyBuffer(tw, tr, buf); err != nil {
			return fmt.Errorf("rewrite layer: %q: %w", hdr.Name, err)
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("rewrite layer: %w", err)
	}
	if err := bw.Flush(); err != nil {
		return fmt.Errorf("rewrite layer: %w", err)
	}
	if _, err := io.Copy(io.Discard, br); err != nil {
		return fmt.Errorf("rewrite layer: %w", err)
	}
	return nil
}
