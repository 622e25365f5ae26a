package explain

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxFiles is how many files a Manifest lists. Of more it keeps digests of
// directories.
const MaxFiles = 20_000

// A Manifest is what a content digest was taken of.
type Manifest struct {
	Files []Entry // sorted by path

	// Depth is 0 when every file is listed. Otherwise an Entry is a directory
	// of the first Depth components of a path, and stands for all below it
	// that is not behind another Entry.
	Depth int
}

// An Entry is a file as the content digest sees it; its time plays no part.
type Entry struct {
	Path     string // below the root, without a slash in front; "" is the root
	Type     Type
	Mode     uint32 // permission bits, with setuid, setgid and sticky
	UID, GID uint32
	Size     int64  // bytes; of a Group the number of files
	Sum      uint64 // start of the digest of header and bytes
	Xattrs   uint64 // start of the digest of the extended attributes; 0 for none
}

// A Type says what kind of file an Entry is.
type Type byte

// The types of files.
const (
	Regular Type = 'f'
	Dir     Type = 'd'
	Link    Type = 'l'
	Special Type = 's' // a device, a socket, a pipe
	Group   Type = 'g' // of a Manifest with a Depth
)

// NewManifest returns the Manifest of files, which it sorts; of one path the
// first counts. With more than limit files it lists directories, as deep as
// the limit lets it; 0 means MaxFiles.
func NewManifest(files []Entry, limit int) *Manifest {
	if limit <= 0 {
		limit = MaxFiles
	}
	for i := range files { // JSON has no other text
		if !utf8.ValidString(files[i].Path) {
			files[i].Path = strings.ToValidUTF8(files[i].Path, string(utf8.RuneError))
		}
	}
	slices.SortStableFunc(files, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	files = slices.CompactFunc(files, func(a, b Entry) bool { return a.Path == b.Path })
	m := &Manifest{Files: files}
	if len(files) <= limit {
		return m
	}
	depth := 1
	for _, f := range files {
		depth = max(depth, strings.Count(f.Path, "/"))
	}
	for ; depth > 1 && m.groups(depth) > limit; depth-- {
	}
	return m.grouped(depth)
}

// atMost returns m with at most n entries, nil when that cannot be.
func (m *Manifest) atMost(n int) *Manifest {
	if len(m.Files) > n && m.Depth == 0 {
		m = NewManifest(slices.Clone(m.Files), n)
	}
	for len(m.Files) > n {
		if m.Depth <= 1 {
			return nil
		}
		m = m.grouped(m.Depth - 1)
	}
	return m
}

// grouped returns m with directories for files, depth components deep at most.
// It is m when it is no finer than that. The sum of a directory is that of its
// files' hashes, so that it is the same by whatever steps it came about.
func (m *Manifest) grouped(depth int) *Manifest {
	if depth == 0 || m.Depth != 0 && m.Depth <= depth {
		return m
	}
	out := &Manifest{Depth: depth}
	at := map[string]int{}
	for _, f := range m.Files {
		dir := groupOf(f, depth)
		i, ok := at[dir]
		if !ok {
			i = len(out.Files)
			at[dir] = i
			out.Files = append(out.Files, Entry{Path: dir, Type: Group})
		}
		n, sum := f.Size, f.Sum
		if f.Type != Group {
			n, sum = 1, hashOf(f)
		}
		out.Files[i].Size += n
		out.Files[i].Sum += sum
	}
	slices.SortFunc(out.Files, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return out
}

func hashOf(f Entry) uint64 {
	s := sha256.Sum256(binary.LittleEndian.AppendUint64([]byte(f.Path), f.Sum))
	return binary.LittleEndian.Uint64(s[:])
}

// groups is how many entries grouped makes.
func (m *Manifest) groups(depth int) int {
	seen := map[string]bool{}
	for _, f := range m.Files {
		seen[groupOf(f, depth)] = true
	}
	return len(seen)
}

// groupOf returns the directory that a file counts in.
func groupOf(f Entry, depth int) string {
	dir := f.Path
	if f.Type != Group {
		i := strings.LastIndexByte(dir, '/')
		dir = dir[:max(i, 0)]
	}
	for i, n := 0, 0; i < len(dir); i++ {
		if dir[i] == '/' {
			if n++; n == depth {
				return dir[:i]
			}
		}
	}
	return dir
}

// A FileChange is a file, or a directory with files, that differs.
type FileChange struct {
	Path  string       `json:"path"`            // of a directory with a slash at its end; "/" is the root
	Files int          `json:"files,omitempty"` // of a directory that stands for its files: how many there are
	What  []Difference `json:"what"`
}

// A Difference is one way in which a file differs.
type Difference struct {
	Kind   string `json:"kind"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// The kinds of differences.
const (
	Added   = "added"
	Removed = "removed"
	Content = "content" // the bytes; of a directory with files, any of them
	Mode    = "mode"
	Owner   = "owner"
	FType   = "type"
	Target  = "target" // of a symbolic link
	Xattrs  = "xattrs"
)

// sameBytes says whether the file at path, as it is now, has the bytes it had
// when it was e; ok is false when that cannot be told.
type sameBytes func(path string, e Entry) (same, ok bool)

// fileChanges compares two Manifests.
func fileChanges(before, after *Manifest, same sameBytes) []FileChange {
	if before.Depth != after.Depth {
		depth := min(before.Depth, after.Depth)
		if depth == 0 {
			depth = max(before.Depth, after.Depth)
		}
		before, after = before.grouped(depth), after.grouped(depth)
	}
	var out []FileChange
	a, b := before.Files, after.Files
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Path < b[0].Path:
			out = append(out, change(a[0], Difference{Kind: Removed}))
			a = a[1:]
		case len(a) == 0 || b[0].Path < a[0].Path:
			out = append(out, change(b[0], Difference{Kind: Added}))
			b = b[1:]
		default:
			if d := differences(a[0], b[0], same); len(d) > 0 {
				out = append(out, change(b[0], d...))
			}
			a, b = a[1:], b[1:]
		}
	}
	return out
}

func change(e Entry, what ...Difference) FileChange {
	c := FileChange{Path: e.Path, What: what}
	switch e.Type {
	case Group:
		c.Files = int(e.Size)
		c.Path += "/"
	case Dir:
		c.Path += "/"
	}
	return c
}

// differences compares what lies at one path.
func differences(a, b Entry, same sameBytes) (out []Difference) {
	if a.Sum == b.Sum {
		return nil
	}
	if a.Type == Group {
		return []Difference{{Kind: Content}}
	}
	if a.Type != b.Type {
		return []Difference{{FType, a.Type.String(), b.Type.String()}}
	}
	var header []Difference
	if a.Mode != b.Mode && a.Type != Link {
		header = append(header, Difference{Mode, octal(a.Mode), octal(b.Mode)})
	}
	if a.UID != b.UID || a.GID != b.GID {
		header = append(header, Difference{Owner, owner(a), owner(b)})
	}
	if a.Xattrs != b.Xattrs {
		header = append(header, Difference{Kind: Xattrs})
	}
	switch a.Type {
	case Regular:
		bytes := len(header) == 0 || a.Size != b.Size
		if !bytes && a.Xattrs == b.Xattrs && b.Size > 0 && same != nil {
			if eq, ok := same(b.Path, a); ok {
				bytes = !eq
			}
		}
		if bytes {
			out = append(out, Difference{Kind: Content})
		}
	case Link:
		if len(header) == 0 {
			out = append(out, Difference{Kind: Target})
		}
	default:
		if len(header) == 0 {
			out = append(out, Difference{Kind: Content})
		}
	}
	return append(out, header...)
}
