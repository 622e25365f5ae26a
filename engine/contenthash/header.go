package contenthash

import (
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

// appendHeader appends what of e, besides its bytes, goes into its digest: the
// fields of a tar header without name and time, in the order and spelling of
// Docker's "tarsum v1", from which the format comes. Device numbers count in a
// build context only: BuildKit means to take them from a stat as well, but
// tests the file type in a way that no device passes.
func appendHeader(b []byte, e *fsdiff.Entry, inContext bool) []byte {
	num := func(key string, n int64) {
		b = append(b, key...)
		b = strconv.AppendInt(b, n, 10)
	}
	b = append(b, "name"...)
	num("mode", tarMode(e.Mode))
	num("uid", int64(e.UID))
	num("gid", int64(e.GID))
	num("size", e.Size)
	b = append(b, "typeflag"...)
	b = append(b, typeflag(e.Mode))
	b = append(b, "linkname"...)
	b = append(b, e.Linkname...)
	b = append(b, "unamegname"...)
	major, minor := e.Devmajor, e.Devminor
	if !inContext {
		major, minor = 0, 0
	}
	num("devmajor", int64(major))
	num("devminor", int64(minor))
	if len(e.Xattrs) == 0 {
		return b
	}
	keys := make([]string, 0, len(e.Xattrs))
	for k := range e.Xattrs {
		if k == "security.capability" || !strings.HasPrefix(k, "security.") && !strings.HasPrefix(k, "system.") {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		b = append(b, k...)
		b = append(b, e.Xattrs[k]...)
	}
	return b
}

func tarMode(m fs.FileMode) int64 {
	if m&fs.ModeSymlink != 0 {
		return 0o777
	}
	n := int64(m.Perm())
	if m&fs.ModeSetuid != 0 {
		n |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		n |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		n |= 0o1000
	}
	return n
}

// typeflag is archive/tar's; a socket has none and counts as a file.
func typeflag(m fs.FileMode) byte {
	switch {
	case m.IsDir():
		return '5'
	case m&fs.ModeSymlink != 0:
		return '2'
	case m&fs.ModeCharDevice != 0:
		return '3'
	case m&fs.ModeDevice != 0:
		return '4'
	case m&fs.ModeNamedPipe != 0:
		return '6'
	}
	return '0'
}
