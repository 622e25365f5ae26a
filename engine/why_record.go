package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/cachekey"
	"github.com/mayfly-build/mayfly/engine/explain"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/solver"
)

type trace = solver.Trace[*layer.State]

// An identity is what of a step stays the same while a build goes on, and from
// build to build.
type identity struct {
	base, seat        string
	name, text, where string
	dockerfile        *pb.SourceInfo
}

// place matches what the Dockerfile frontend puts before an instruction: the
// platform, the stage, and where in it the instruction stands.
var place = regexp.MustCompile(`^\[(.*?) *(\d+)/(\d+)\] `)

// identify says what a vertex is called by in every build. Instructions are
// taken from the Dockerfile: in the name of the vertex variables are replaced.
func identify(v *llb.Vertex, mask *explain.Masker) identity {
	var id identity
	id.text, _ = mask.Mask(v.Name)
	label, stage, at := "", "stage-0", "" // as the frontend calls the first of several, and the only one not at all
	if m := place.FindStringSubmatch(v.Name); m != nil {
		label, at = m[0], m[2]
		id.text, _ = mask.Mask(v.Name[len(label):])
		for _, word := range strings.Fields(m[1]) {
			if !strings.Contains(word, "/") { // a platform
				stage = word
			}
		}
	}
	full := id.text
	if len(v.Sources) > 0 {
		s := v.Sources[0]
		if text := instruction(s); text != "" {
			full = text
			id.text, _ = mask.Mask(text)
		}
		id.dockerfile = s.Info
		id.where = fmt.Sprintf("%s:%d", s.Info.Filename, s.Ranges[0].GetStart().GetLine())
	}
	if label != "" && strings.HasPrefix(v.Name[len(label):], "LINK ") {
		id.text, full = "LINK "+id.text, "LINK "+full
	}
	const maxText = 300 // bytes; who reads on has the Dockerfile
	if len(id.text) > maxText {
		id.text = strings.ToValidUTF8(id.text[:maxText], "") + "…"
	}
	id.name, _ = mask.Mask(label)
	id.name += id.text
	platform := platforms.FormatAll(v.Platform())
	id.base = hashOf(stage, full, platform)
	if at != "" {
		id.seat = hashOf(stage, at, platform)
	}
	return id
}

// instruction returns the text of a place in a Dockerfile as one line.
func instruction(s *llb.SourceRange) string {
	lines := strings.Split(string(s.Info.Data), "\n")
	from, to := int(s.Ranges[0].GetStart().GetLine()), int(s.Ranges[0].GetEnd().GetLine())
	for _, r := range s.Ranges[1:] {
		to = max(to, int(r.GetEnd().GetLine()))
	}
	if from < 1 || to < from || to > len(lines) {
		return ""
	}
	var words []string
	for _, line := range lines[from-1 : to] {
		line = strings.TrimSuffix(strings.TrimSpace(line), `\`)
		words = append(words, strings.Fields(line)...)
	}
	return strings.Join(words, " ")
}

func hashOf(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// records turns traces, inputs first, into the records of steps: of those that
// use another one, and of what they use. at has the position of each. w.one is
// held.
func (w *why) records(traces []trace) (steps []explain.Record, at map[digest.Digest]int) {
	used := map[digest.Digest]bool{}
	for _, t := range traces {
		for _, in := range t.Vertex.Inputs {
			used[in.Vertex.Digest] = true
		}
	}
	at = map[digest.Digest]int{}
	times := map[string]int{}
	for _, t := range traces {
		v := t.Vertex
		if len(v.Inputs) == 0 && !used[v.Digest] {
			continue
		}
		r := w.record(t, at)
		base := string(r.Kind) + "-" + w.identity(v).base
		times[base]++
		r.ID = base + "-" + strconv.Itoa(times[base])
		at[v.Digest] = len(steps)
		steps = append(steps, r)
	}
	return steps, at
}

// record returns the record of one step, without its ID. w.one is held.
func (w *why) record(t trace, at map[digest.Digest]int) explain.Record {
	id := w.identity(t.Vertex)
	kind, fields := w.fields(t)
	r := explain.Record{
		Seat: id.seat, Name: id.name, Text: id.text, Where: id.where,
		Kind: kind, Op: plainDigest(t.Map.Digest), Fields: fields,
		NoCache: t.Fresh, Known: t.Known, Lost: t.Lost != nil, State: stateOf(t, w.b.obs.became(t.Vertex.Digest)),
	}
	var lost *layer.LostError
	if errors.As(t.Lost, &lost) {
		r.Blob = lost.Blob
	}
	for i, in := range t.Vertex.Inputs {
		input := explain.Input{Step: at[in.Vertex.Digest], Output: in.Index, Content: t.Content[i]}
		if i < len(t.Map.Inputs) {
			input.Selector = t.Map.Inputs[i].Selector
		}
		r.Inputs = append(r.Inputs, input)
	}
	return r
}

// plainDigest returns d, or what stands in for one that only this build has.
func plainDigest(d digest.Digest) digest.Digest {
	if cachekey.IsRandom(d) {
		return digest.FromString("random")
	}
	return d
}

func stateOf(t trace, s Step) explain.State {
	switch {
	case t.Ran:
		return explain.Ran
	case s.Failed:
		return explain.Failed
	case s.Cached:
		return explain.Cached
	}
	return explain.Unused
}

// keyHashes are short digests of keys, by definition where other builds can
// have that and by content where they cannot.
type keyHashes map[*solver.Key]string

func (h keyHashes) of(k *solver.Key) string {
	if s, ok := h[k]; ok {
		return s
	}
	parts := []string{string(plainDigest(k.Record))}
	for _, links := range k.Inputs {
		for _, l := range links {
			if l.Content && links[0].Key.IsRandom() || !l.Content && (len(links) == 1 || !l.Key.IsRandom()) {
				parts = append(parts, string(l.Selector), h.of(l.Key))
				break
			}
		}
	}
	s := hashOf(parts...)
	h[k] = s
	return s
}
