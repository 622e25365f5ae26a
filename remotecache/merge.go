package remotecache

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Limits bound what Merge keeps of the old Index.
type Limits struct {
	Now        time.Time     // what ages are measured from
	MaxAge     time.Duration // results older than this are dropped; 0 means any age
	MaxRecords int           // records in all, those of the new Index counted first; 0 means any number
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
		young := limits.MaxAge <= 0 || limits.Now.Sub(r.createdAt) <= limits.MaxAge
		return r, ok && (young || fresh[n])
	}
	for _, n := range candidates(used, keep, pick) {
		need := n.closure(keep)
		if limits.MaxRecords > 0 && len(keep)+len(need) > limits.MaxRecords {
			continue
		}
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
