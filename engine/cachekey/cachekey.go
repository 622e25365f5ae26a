// Package cachekey computes the digest of an operation.
//
//	llb.Vertex ──▶ cachekey ──Map──▶ solver
//	                  └──contenthash.Selector──▶ contenthash
//
// Pure: bytes in, digests out. Every digest equals the one BuildKit v0.33
// computes for the same operation (testdata, written by buildkitd), so that
// either reads the other's cache: one changed byte here empties every user's
// cache.
package cachekey

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/contenthash"
)

// A Map says what an operation's result depends on.
type Map struct {
	Digest digest.Digest // of the operation without its inputs
	Inputs []Input       // one per input of the vertex
}

// An Input says which part of an input the operation reads.
type Input struct {
	Selector digest.Digest // of the paths read; "" means all of it

	// ByContent says that equal content under Content makes an equal result,
	// whatever made the content.
	ByContent bool
	Content   []contenthash.Selector // empty means the whole root
}

// Random marks the digest of something that no other build can have, such as
// the files of this client.
const Random = digest.Algorithm("random")

// IsRandom reports whether d belongs to this build only.
func IsRandom(d digest.Digest) bool { return strings.HasPrefix(string(d), string(Random)+":") }

// Output returns the digest of a record: output index of an operation.
// Index -1 is a content digest rather than an operation.
func Output(op digest.Digest, index int) digest.Digest {
	if IsRandom(op) {
		return op
	}
	return digest.FromString(fmt.Sprintf("%s@%d", op, index))
}

// Source returns the digest of a source operation whose source calls itself key.
func Source(key string) digest.Digest {
	d := digest.FromString("buildkit.source.v0:" + key)
	if strings.HasPrefix(key, "session:") {
		return digest.NewDigestFromEncoded(Random, d.Encoded())
	}
	return d
}

// Image returns the source key of an image manifest for a platform.
func Image(manifest digest.Digest, p ocispec.Platform) (string, error) {
	dt, err := json.Marshal(struct {
		Digest     digest.Digest
		OS         string
		Arch       string
		Variant    string   `json:",omitempty"`
		OSVersion  string   `json:",omitempty"`
		OSFeatures []string `json:",omitempty"`
		Limit      *int     `json:",omitempty"`
	}{manifest, p.OS, p.Architecture, p.Variant, p.OSVersion, p.OSFeatures, nil})
	if err != nil {
		return "", err
	}
	return digest.FromBytes(dt).String(), nil
}

// Exec returns the map of an exec operation with n inputs.
func Exec(op *pb.ExecOp, p ocispec.Platform, n int) (Map, error) {
	inputs, err := execInputs(op, n)
	if err != nil {
		return Map{}, err
	}
	op = op.CloneVT()
	for _, h := range op.Meta.ExtraHosts {
		h.IP = ""
	}
	op.Meta.ProxyEnv = nil
	for _, m := range op.Mounts {
		m.Selector = ""
		if !isDefaultCacheMount(m) {
			m.CacheOpt.ID = ""
			m.CacheOpt.Sharing = 0
		}
	}
	if len(op.Mounts) == 1 && isPlainRoot(op.Mounts[0]) {
		op.Mounts = nil // as the first caches were written
	}
	dt, err := json.Marshal(struct {
		Type       string
		Exec       *pb.ExecOp
		OS         string
		Arch       string
		Variant    string   `json:",omitempty"`
		OSVersion  string   `json:",omitempty"`
		OSFeatures []string `json:",omitempty"`
	}{"buildkit.exec.v0", op, p.OS, p.Architecture, p.Variant, p.OSVersion, p.OSFeatures})
	if err != nil {
		return Map{}, fmt.Errorf("marshal exec: %w", err)
	}
	return Map{Digest: digest.FromBytes(dt), Inputs: inputs}, nil
}

func isPlainRoot(m *pb.Mount) bool {
	return m.Dest == pb.RootMount && !m.Readonly && m.MountType == pb.MountType_BIND &&
		m.CacheOpt == nil && m.SSHOpt == nil && m.SecretOpt == nil && m.ResultID == ""
}

// isDefaultCacheMount reports whether a mount's cache options say no more than
// its destination does; then, and when there are none, they stay in the key.
func isDefaultCacheMount(m *pb.Mount) bool {
	if m.CacheOpt == nil {
		return true
	}
	if m.CacheOpt.Sharing != 0 {
		return false
	}
	if m.CacheOpt.ID == m.Dest {
		return true
	}
	_, id, ok := strings.Cut(m.CacheOpt.ID, "/") // behind a cache namespace
	return ok && id == m.Dest
}

func execInputs(op *pb.ExecOp, n int) ([]Input, error) {
	paths := make([][]string, n)
	byContent := make([]bool, n)
	for _, m := range op.Mounts {
		switch m.MountType {
		case pb.MountType_SECRET, pb.MountType_SSH, pb.MountType_TMPFS:
			continue
		}
		if m.Input == int64(pb.Empty) {
			continue
		}
		sel := path.Join("/", m.Selector)
		paths[m.Input] = append(paths[m.Input], sel)
		// Content may stand for the input only where nothing outside the
		// selected part can reach a result.
		safe := m.Output == int64(pb.SkipOutput) || m.Readonly || sel == pb.RootMount
		switch m.ContentCache {
		case pb.MountContentCache_OFF:
			safe = false
		case pb.MountContentCache_ON:
			if !safe {
				return nil, fmt.Errorf("mount %s: content cache is on for a writable part of an input", m.Dest)
			}
		case pb.MountContentCache_DEFAULT:
			if m.Dest == pb.RootMount {
				safe = false // the whole root is too much to hash for little gain
			}
		}
		byContent[m.Input] = safe
	}
	inputs := make([]Input, n)
	for i, ps := range paths {
		if len(ps) > 0 {
			inputs[i].Selector = digest.FromString(strings.Join(ps, "\x00"))
		}
		if byContent[i] {
			inputs[i].ByContent = true
			inputs[i].Content = followed(outermost(ps))
		}
	}
	return inputs, nil
}

func followed(paths []string) []contenthash.Selector {
	out := make([]contenthash.Selector, 0, len(paths))
	for _, p := range paths {
		if p == "" || p == "/" {
			return nil
		}
		out = append(out, contenthash.Selector{Path: p, FollowLinks: true})
	}
	return out
}

// outermost returns paths without those below another one, sorted unless
// there is at most one.
func outermost(paths []string) []string {
	if len(paths) <= 1 {
		return paths
	}
	sorted := slices.Clone(paths)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	out := []string{}
	for _, p := range sorted {
		below := slices.ContainsFunc(sorted, func(q string) bool {
			return p != q && strings.HasPrefix(p, strings.TrimSuffix(q, "/")+"/")
		})
		if !below {
			out = append(out, p)
		}
	}
	return out
}

// Merge returns the map of a merge operation with n inputs.
func Merge(op *pb.MergeOp, n int) (Map, error) {
	dt, err := json.Marshal(struct {
		Type  string
		Merge *pb.MergeOp
	}{"buildkit.merge.v0", op})
	return Map{Digest: digest.FromBytes(dt), Inputs: make([]Input, n)}, err
}

// Diff returns the map of a diff operation with n inputs.
func Diff(op *pb.DiffOp, n int) (Map, error) {
	dt, err := json.Marshal(struct {
		Type string
		Diff *pb.DiffOp
	}{"buildkit.diff.v0", op})
	return Map{Digest: digest.FromBytes(dt), Inputs: make([]Input, n)}, err
}

func joinNul(parts [][]byte) []byte { return bytes.Join(parts, []byte{0}) }
