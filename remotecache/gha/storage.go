package gha

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/mayfly-build/mayfly/internal/parts"
)

// storage writes to signed URLs of Azure Blob storage, or of what speaks as it
// does.
type storage struct {
	c        *client
	parallel int // requests of one blob at once
}

const (
	mib = 1 << 20

	// smallBlob is the most that goes in one request.
	smallBlob = 8 * mib

	// Blocks are between these, so that a blob has enough of them to be sent
	// several at a time, and few enough not to wait for each.
	minBlock, maxBlock = 8 * mib, 64 * mib

	maxBlocks = 50_000 // Azure's limit for a blob
)

func blockSize(size int64, parallel int) int64 {
	n := parts.Size(size, minBlock, 2*parallel)
	return parts.Size(size, min(n, maxBlock), maxBlocks)
}

// upload writes a blob: its end, when it was there before.
func (s storage) upload(ctx context.Context, at string, size int64, src io.ReaderAt) error {
	put := func(ctx context.Context, op, query string, header http.Header, length int64, body func() io.Reader) error {
		u := at
		if query != "" {
			sep := "&" // the signature is a query already
			if !strings.Contains(u, "?") {
				sep = "?"
			}
			u += sep + query
		}
		resp, err := s.c.send(ctx, request{op: op, method: http.MethodPut, url: u, header: header, body: body, length: length})
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
	section := func(off, n int64) func() io.Reader {
		return func() io.Reader { return io.NewSectionReader(src, off, n) }
	}
	if size <= smallBlob {
		return put(ctx, "upload", "", http.Header{"X-Ms-Blob-Type": {"BlockBlob"}, "Content-Type": {octets}}, size, section(0, size))
	}
	block := blockSize(size, s.parallel)
	err := parts.Upload(ctx, size, block, s.parallel, func(ctx context.Context, part int, off, n int64) error {
		return put(ctx, "upload of a block", "comp=block&blockid="+url.QueryEscape(blockID(part)), http.Header{"Content-Type": {octets}}, n, section(off, n))
	})
	if err != nil {
		return err
	}
	var list bytes.Buffer
	list.WriteString(`<?xml version="1.0" encoding="utf-8"?><BlockList>`)
	for i := range parts.Count(size, block) {
		fmt.Fprintf(&list, "<Latest>%s</Latest>", blockID(i))
	}
	list.WriteString("</BlockList>")
	return put(ctx, "upload of the list of blocks", "comp=blocklist", http.Header{"Content-Type": {"application/xml"}, "X-Ms-Blob-Content-Type": {octets}},
		int64(list.Len()), func() io.Reader { return bytes.NewReader(list.Bytes()) })
}

const octets = "application/octet-stream"

// blockID names a block; all names of a blob have to be of one length.
func blockID(part int) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "block-%08d", part))
}
