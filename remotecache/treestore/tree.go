package treestore

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// A tree is a directory as the manifest has it. nodes[0] is the directory
// itself; every other node comes after its parent, and the nodes of one parent
// are in the order of their names, each once.
type tree struct {
	name   Name
	saved  time.Time     // when it was read
	maxAge time.Duration // how long it is to be restored; 0 means always

	packs  []pack
	chunks []chunk // by pack and offset
	nodes  []node
}

// A pack is a blob that holds chunks: a zstd stream of them, one behind the
// other.
type pack struct {
	digest digest.Digest
	size   int64 // bytes as stored
	raw    int64 // bytes of the stream
}

// A chunk is a piece of a file.
type chunk struct {
	sum  sum
	pack int   // position in packs
	off  int64 // in the pack's stream
	size int64
}

type sum [32]byte // SHA-256

// A node is a file system object.
type node struct {
	parent int // position in nodes; that of nodes[0] is 0
	name   string

	mode     uint32 // with the S_IF bits
	uid, gid uint32
	mtime    stamp
	used     int64 // when it was last written or read, as far as is known; seconds since 1970
	xattrs   []xattr

	size   int64     // regular: bytes
	pieces []piece   // regular: its content, together size bytes
	target string    // symbolic link
	dev    [2]uint32 // device: major and minor number
	link   int       // another name of the node at this position, which has all the rest; 0 for none
}

// A stamp is a time of a file. A time.Time of the far future has no
// nanoseconds since 1970 to compare by.
type stamp struct {
	sec  int64
	nsec int32
}

func (s stamp) time() time.Time      { return time.Unix(s.sec, int64(s.nsec)) }
func (s stamp) before(t stamp) bool  { return s.sec < t.sec || s.sec == t.sec && s.nsec < t.nsec }
func stampOf(ts unix.Timespec) stamp { return stamp{int64(ts.Sec), int32(ts.Nsec)} }
func stampAt(t time.Time) stamp      { return stamp{t.Unix(), int32(t.Nanosecond())} }

type xattr struct {
	name  string
	value []byte
}

// A piece is a part of a file: a chunk, or a hole.
type piece struct {
	chunk int // position in chunks; hole for none
	size  int64
}

const hole = -1

func (n *node) kind() uint32    { return n.mode & unix.S_IFMT }
func (n *node) isDir() bool     { return n.link == 0 && n.kind() == unix.S_IFDIR }
func (n *node) isRegular() bool { return n.link == 0 && n.kind() == unix.S_IFREG }

// content returns the bytes of a file that are not in holes.
func (n *node) content() (bytes int64) {
	for _, p := range n.pieces {
		if p.chunk != hole {
			bytes += p.size
		}
	}
	return bytes
}

// paths returns the path of every node, "" for the first.
func (t *tree) paths() []string {
	out := make([]string, len(t.nodes))
	for i := range t.nodes {
		if i > 0 {
			out[i] = join(out[t.nodes[i].parent], t.nodes[i].name)
		}
	}
	return out
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// counted returns Stats with what a tree is.
func (t *tree) counted() Stats {
	s := Stats{Packs: len(t.packs)}
	for i := range t.nodes {
		if n := &t.nodes[i]; n.isRegular() {
			s.Files++
			s.Bytes += n.content()
		}
	}
	for _, p := range t.packs {
		s.Stored += p.size
	}
	return s
}

// Bounds of what a manifest may say: more than any real directory has, and
// little enough to be held in memory.
const (
	maxName   = 255     // bytes, as Linux has it
	maxTarget = 4095    // bytes of a symbolic link
	maxXattr  = 1 << 16 // bytes of a value, and of all names together
	maxXattrs = 256     // of one node
	maxSize   = 1 << 56 // bytes of a file
	maxRaw    = 1 << 30 // bytes of a pack's stream
)

// check returns an error unless the tree is one that can be written below a
// directory and nowhere else: names are single path components, each once in
// its directory, and whatever has something below it is a directory.
func (t *tree) check() error {
	if err := t.checkChunks(); err != nil {
		return err
	}
	if len(t.nodes) == 0 || !t.nodes[0].isDir() {
		return errors.New("it has no root directory")
	}
	last := make(map[int]string) // the last name seen below a parent
	for i := range t.nodes {
		n := &t.nodes[i]
		if err := t.checkNode(i, n); err != nil {
			return fmt.Errorf("node %d, %q: %w", i, n.name, err)
		}
		if i == 0 {
			continue
		}
		if prev, ok := last[n.parent]; ok && prev >= n.name {
			return fmt.Errorf("node %d: %q comes after %q", i, n.name, prev)
		}
		last[n.parent] = n.name
	}
	return nil
}

func (t *tree) checkChunks() error {
	for i, p := range t.packs {
		if err := p.digest.Validate(); err != nil {
			return fmt.Errorf("pack %d: %w", i, err)
		}
		if p.size <= 0 || p.raw <= 0 || p.raw > maxRaw {
			return fmt.Errorf("pack %d has %d bytes for %d", i, p.size, p.raw)
		}
	}
	at, end := 0, int64(0)
	for i, c := range t.chunks {
		if c.pack < at || c.pack >= len(t.packs) {
			return fmt.Errorf("chunk %d is of pack %d of %d", i, c.pack, len(t.packs))
		}
		if c.pack > at {
			at, end = c.pack, 0
		}
		if c.size <= 0 || c.size > maxChunk || c.off < end || c.off > t.packs[at].raw-c.size {
			return fmt.Errorf("chunk %d has %d bytes from %d on of a pack of %d", i, c.size, c.off, t.packs[at].raw)
		}
		end = c.off + c.size
	}
	return nil
}

func (t *tree) checkNode(i int, n *node) error {
	switch {
	case i == 0 && (n.name != "" || n.parent != 0):
		return errors.New("the root directory has a name")
	case i > 0 && !validName(n.name):
		return errors.New("this is no name")
	case i > 0 && (n.parent < 0 || n.parent >= i || !t.nodes[n.parent].isDir()):
		return fmt.Errorf("its parent %d is no directory before it", n.parent)
	case n.link != 0:
		return t.checkLink(i, n)
	case n.mode&^(unix.S_IFMT|0o7777) != 0:
		return fmt.Errorf("mode %#o", n.mode)
	case n.mtime.nsec < 0 || n.mtime.nsec > 999_999_999:
		return fmt.Errorf("%d nanoseconds", n.mtime.nsec)
	}
	if err := checkXattrs(n); err != nil {
		return err
	}
	switch n.kind() {
	case unix.S_IFREG:
		return t.checkPieces(n)
	case unix.S_IFLNK:
		if n.target == "" || len(n.target) > maxTarget || strings.Contains(n.target, "\x00") {
			return fmt.Errorf("link to %q", n.target)
		}
	case unix.S_IFDIR, unix.S_IFIFO, unix.S_IFCHR, unix.S_IFBLK:
	default:
		return fmt.Errorf("mode %#o", n.mode)
	}
	return nil
}

func validName(s string) bool {
	return s != "" && len(s) <= maxName && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}

func (t *tree) checkLink(i int, n *node) error {
	if n.link < 0 || n.link >= i {
		return fmt.Errorf("it is a link to node %d", n.link)
	}
	if to := &t.nodes[n.link]; to.link != 0 || to.kind() == unix.S_IFDIR {
		return fmt.Errorf("it is a link to %q, which is a directory or a link itself", to.name)
	}
	return nil
}

func checkXattrs(n *node) error {
	if len(n.xattrs) > 0 && n.kind() != unix.S_IFREG && n.kind() != unix.S_IFDIR {
		return errors.New("only files and directories have extended attributes")
	}
	if len(n.xattrs) > maxXattrs {
		return fmt.Errorf("%d extended attributes", len(n.xattrs))
	}
	for _, x := range n.xattrs {
		if !keptXattr(x.name) || len(x.name) > maxName || len(x.value) > maxXattr || strings.Contains(x.name, "\x00") {
			return fmt.Errorf("extended attribute %q of %d bytes", x.name, len(x.value))
		}
	}
	return nil
}

// keptXattr reports whether an extended attribute is part of a directory.
// Those of overlayfs are about where the file is, SELinux's labels are the
// machine's, and trusted ones are nothing a step can set.
func keptXattr(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

func (t *tree) checkPieces(n *node) error {
	left := n.size
	if left < 0 || left > maxSize {
		return fmt.Errorf("it has %d bytes", n.size)
	}
	for _, p := range n.pieces {
		switch {
		case p.size <= 0 || p.size > left:
			return fmt.Errorf("a piece has %d bytes where %d are left", p.size, left)
		case p.chunk != hole && (p.chunk < 0 || p.chunk >= len(t.chunks)):
			return fmt.Errorf("a piece is chunk %d of %d", p.chunk, len(t.chunks))
		case p.chunk != hole && t.chunks[p.chunk].size != p.size:
			return fmt.Errorf("a piece has %d of the %d bytes of its chunk", p.size, t.chunks[p.chunk].size)
		}
		left -= p.size
	}
	if left != 0 {
		return fmt.Errorf("%d of its %d bytes are nowhere", left, n.size)
	}
	return nil
}

// same reports whether two trees are the same directory: all but when it was
// used, and where the chunks are.
func same(a, b *tree) bool {
	return a.name == b.name && a.maxAge == b.maxAge && slices.EqualFunc(a.nodes, b.nodes, func(x, y node) bool {
		return x.parent == y.parent && x.name == y.name && x.link == y.link &&
			x.mode == y.mode && x.uid == y.uid && x.gid == y.gid && x.mtime == y.mtime &&
			x.size == y.size && x.target == y.target && x.dev == y.dev &&
			slices.EqualFunc(x.xattrs, y.xattrs, func(p, q xattr) bool {
				return p.name == q.name && string(p.value) == string(q.value)
			}) &&
			slices.EqualFunc(x.pieces, y.pieces, func(p, q piece) bool {
				return p.size == q.size && (p.chunk == hole) == (q.chunk == hole) &&
					(p.chunk == hole || a.chunks[p.chunk].sum == b.chunks[q.chunk].sum)
			})
	})
}
