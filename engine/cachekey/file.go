package cachekey

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"slices"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/contenthash"
)

// File returns the map of a file operation with n inputs.
func File(op *pb.FileOp, n int) (Map, error) {
	k := fileKey{n: n, reads: map[int][]contenthash.Selector{}, changes: map[int]bool{}}
	actions := make([][]byte, 0, len(op.Actions))
	indexes := make([][]int, 0, len(op.Actions))
	for i, a := range op.Actions {
		dt, err := k.action(a)
		if err != nil {
			return Map{}, fmt.Errorf("file action %d: %w", i, err)
		}
		actions = append(actions, dt)
		indexes = append(indexes, []int{int(a.Input), int(a.SecondaryInput), int(a.Output)})
	}
	if isPlainChain(indexes) {
		indexes = nil
	}
	dt, err := json.Marshal(struct {
		Type    string
		Actions [][]byte
		Indexes [][]int `json:"indexes,omitempty"`
	}{"buildkit.file.v0", actions, indexes})
	if err != nil {
		return Map{}, fmt.Errorf("marshal file operation: %w", err)
	}
	m := Map{Digest: digest.FromBytes(dt), Inputs: make([]Input, n)}
	for i, sels := range k.reads {
		if i >= n {
			return Map{}, fmt.Errorf("file operation reads input %d of %d", i, n)
		}
		if k.changes[i] {
			continue
		}
		paths := make([][]byte, len(sels))
		for j, s := range sels {
			paths[j] = []byte(s.Path)
		}
		slices.SortFunc(paths, func(a, b []byte) int { return bytes.Compare(b, a) })
		m.Inputs[i] = Input{
			Selector:  digest.FromBytes(joinNul(paths)),
			ByContent: true,
			Content:   withoutCovered(sels),
		}
	}
	return m, nil
}

type fileKey struct {
	n       int
	reads   map[int][]contenthash.Selector // by input
	changes map[int]bool                   // inputs that an action changes
}

// action returns what of an action goes into the key, and notes what it reads.
func (k *fileKey) action(a *pb.FileAction) ([]byte, error) {
	if a.Input != -1 {
		k.changes[int(a.Input)] = true
	}
	switch a := a.Action.(type) {
	case *pb.FileAction_Mkdir:
		return k.owned(a.Mkdir, a.Mkdir.GetOwner())
	case *pb.FileAction_Mkfile:
		return k.owned(a.Mkfile, a.Mkfile.GetOwner())
	case *pb.FileAction_Symlink:
		return k.owned(a.Symlink, a.Symlink.GetOwner())
	case *pb.FileAction_Rm:
		return json.Marshal(a.Rm)
	}
	c, ok := a.Action.(*pb.FileAction_Copy)
	if !ok {
		return nil, fmt.Errorf("unknown kind %T", a.Action)
	}
	p := c.Copy.CloneVT()
	if i := int(a.SecondaryInput); i != -1 && i < k.n {
		if err := k.owner(p.Owner); err != nil {
			return nil, err
		}
		k.reads[i] = append(k.reads[i], contenthash.Selector{
			Path: p.Src, FollowLinks: p.FollowSymlink,
			Wildcard:        p.AllowWildcard && hasWildcard(p.Src),
			IncludePatterns: p.IncludePatterns, ExcludePatterns: p.ExcludePatterns,
			RequiredPaths: p.RequiredPaths,
		})
		p.Src = path.Base(p.Src)
		return json.Marshal(p)
	}
	return k.owned(p, p.Owner)
}

func (k *fileKey) owned(action any, owner *pb.ChownOpt) ([]byte, error) {
	if err := k.owner(owner); err != nil {
		return nil, err
	}
	return json.Marshal(action)
}

// owner notes the files in which a named user or group is looked up.
func (k *fileKey) owner(o *pb.ChownOpt) error {
	for _, u := range []struct {
		opt  *pb.UserOpt
		file string
	}{{o.GetUser(), "/etc/passwd"}, {o.GetGroup(), "/etc/group"}} {
		if by, ok := u.opt.GetUser().(*pb.UserOpt_ByName); ok {
			if by.ByName == nil || by.ByName.Input < 0 {
				return fmt.Errorf("named owner without an input to look in")
			}
			i := int(by.ByName.Input)
			k.reads[i] = append(k.reads[i], contenthash.Selector{Path: u.file, FollowLinks: true})
		}
	}
	return nil
}

// isPlainChain reports whether each action changes what the one before made,
// reading at most the second input: keys of that shape carry no indexes, as
// before indexes were part of a key.
func isPlainChain(idx [][]int) bool {
	last := len(idx) - 1
	for i, x := range idx {
		input, output := last+i, -1 // results of actions count on from len(idx), whatever the number of inputs
		if i == 0 {
			input = 0
		}
		if i == last {
			output = 0
		}
		if x[0] != input || (x[1] != -1 && x[1] != 1) || x[2] != output {
			return false
		}
	}
	return last >= 0
}

// withoutCovered drops plain paths that lie below another one of their kind.
func withoutCovered(sels []contenthash.Selector) []contenthash.Selector {
	var plain, follow []string
	var out []contenthash.Selector
	for _, s := range sels {
		switch {
		case s.Wildcard || len(s.IncludePatterns) > 0 || len(s.ExcludePatterns) > 0:
		case s.FollowLinks:
			follow = append(follow, s.Path)
		default:
			plain = append(plain, s.Path)
		}
	}
	for _, p := range outermost(plain) {
		out = append(out, contenthash.Selector{Path: p})
	}
	for _, p := range outermost(follow) {
		out = append(out, contenthash.Selector{Path: p, FollowLinks: true})
	}
	for _, s := range sels {
		if s.Wildcard || len(s.IncludePatterns) > 0 || len(s.ExcludePatterns) > 0 {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b contenthash.Selector) int { return cmp.Compare(a.Path, b.Path) })
	return out
}

func hasWildcard(p string) bool {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}
