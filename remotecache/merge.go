package remotecache

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Limits bound what Merge keeps of the old Index.
type Limits struct {
	Now        time.Time     // what ages are measured from
	MaxAge     time.Duration // results older than this are dropped; 0 means any age
	MaxRecords int           // records in all, those of the new Index counted first; 0 means any number
	MaxBytes   int64         // of all blobs, as stored, those of the new Index counted first; 0 means any number

	// Touch, unless 0, makes results of the new Index that are older than this
	// as old as Now: their age is then how long ago they were last used, and
	// MaxAge keeps what is in use. An Index that is saved often changes only
	// once in this time.
	Touch time.Duration
}

// Merge returns an Index with all records of new and, within the limits, the
// newest of old with what they depend on. Records that lead to nothing and on
// which nothing kept depends are dropped from old. Neither is changed; the
// error is ErrCorrupt when one of them is not sound.
func Merge(old, new *Index, limits Limits) (*Index, error) {
	b := NewBuilder()
	nodes, err := b.load(new)
	if err != nil {
		return nil, err
	}
	used, err := b.load(old) // may merge Nodes of new: hence rep below
	if err != nil {
		return nil, err
	}
	keep := map[*Node]bool{}
	fresh := map[*Node]bool{}
	for _, n := range nodes {
		if n != nil {
			keep[n.rep()] = true
			fresh[n.rep()] = true
		}
	}
	pick := func(n *Node) (result, bool) {
		r, ok := newest(n)
		age := limits.Now.Sub(r.createdAt)
		if fresh[n] && limits.Touch > 0 && age > limits.Touch {
			r.createdAt = limits.Now
		}
		return r, ok && (limits.MaxAge <= 0 || age <= limits.MaxAge || fresh[n])
	}
	size := sizes{pick: pick, seen: map[digest.Digest]bool{}}
	for n := range keep {
		size.add([]*Node{n})
	}
	for _, n := range candidates(used, keep, pick) {
		need := n.closure(keep)
		if limits.MaxRecords > 0 && len(keep)+len(need) > limits.MaxRecords {
			continue
		}
		if limits.MaxBytes > 0 && size.total+size.more(need) > limits.MaxBytes {
			continue
		}
		size.add(need)
		for _, n := range need {
			keep[n] = true
		}
	}
	var kept []*Node
	for _, n := range b.current() {
		if keep[n] {
			kept = append(kept, n)
		}
	}
	return b.assemble(kept, pick), nil
}

// sizes counts the blobs of results, each once.
type sizes struct {
	pick  func(*Node) (result, bool)
	seen  map[digest.Digest]bool
	total int64
}

func (s *sizes) add(nodes []*Node) {
	s.total += s.walk(nodes, s.seen)
}

// more is by how much the total would grow.
func (s *sizes) more(nodes []*Node) int64 {
	return s.walk(nodes, map[digest.Digest]bool{})
}

func (s *sizes) walk(nodes []*Node, seen map[digest.Digest]bool) (n int64) {
	for _, node := range nodes {
		r, ok := s.pick(node)
		if !ok {
			continue
		}
		for c := r.top; c != nil; c = c.below {
			if d := c.blob.Digest; !seen[d] && !s.seen[d] {
				seen[d] = true
				n += c.blob.Size
			}
		}
	}
	return n
}

// candidates returns the Nodes with a result, newest first.
func candidates(nodes []*Node, keep map[*Node]bool, pick func(*Node) (result, bool)) []*Node {
	created := map[*Node]time.Time{}
	var out []*Node
	for _, n := range nodes {
		if n == nil {
			continue
		}
		n = n.rep()
		if _, seen := created[n]; seen || keep[n] {
			continue
		}
		if r, ok := pick(n); ok {
			created[n] = r.createdAt
			out = append(out, n)
		}
	}
	slices.SortStableFunc(out, func(a, b *Node) int {
		return cmp.Or(created[b].Compare(created[a]), strings.Compare(string(a.digest), string(b.digest)))
	})
	return out
}

// closure returns n and what it depends on, without what is kept already.
func (n *Node) closure(keep map[*Node]bool) []*Node {
	if keep[n] {
		return nil
	}
	out := []*Node{n}
	seen := map[*Node]bool{n: true}
	for i := 0; i < len(out); i++ {
		for _, links := range out[i].inputs {
			for _, l := range links {
				if in := l.Node.rep(); !keep[in] && !seen[in] {
					seen[in] = true
					out = append(out, in)
				}
			}
		}
	}
	return out
}
