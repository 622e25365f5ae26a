package explain

import (
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
)

// A BytesSame says whether a file below a content of the build being explained
// has the bytes that it had when it was as given; ok is false when that cannot
// be told.
type BytesSame func(content digest.Digest, path string, was Entry) (same, ok bool)

// An Explainer compares the steps of a build with those of earlier ones. Its
// methods are called from one goroutine at a time.
type Explainer struct {
	now     *Set
	earlier []*Set
	same    BytesSame

	index   map[*Set]*index
	diffs   map[pair][]Detail
	whys    map[int]*Reason
	fresh   map[int]*Detail
	newArgs map[*Set][]fieldChange
}

// A pair is a step now and one of an earlier Set.
type pair struct{ step, set, old int }

// An index finds the steps of a Set.
type index struct {
	ids   map[string]int
	seats map[seat]int
}

type seat struct {
	name string
	kind Kind
}

func newIndex(s *Set) *index {
	x := &index{ids: map[string]int{}, seats: map[seat]int{}}
	for i := range s.Steps {
		r := &s.Steps[i]
		x.ids[r.ID] = i
		if r.Seat != "" {
			x.seats[seat{r.Seat, r.Kind}] = i
		}
	}
	return x
}

// New returns the Explainer of now. Earlier Sets come newest first; at most
// eight of those that have a step are compared. same may be nil.
func New(now *Set, earlier []*Set, same BytesSame) *Explainer {
	x := &Explainer{
		now: now, earlier: earlier, same: same, index: map[*Set]*index{},
		diffs: map[pair][]Detail{}, whys: map[int]*Reason{}, fresh: map[int]*Detail{}, newArgs: map[*Set][]fieldChange{},
	}
	for _, s := range append(earlier, now) {
		x.index[s] = newIndex(s)
	}
	return x
}

// maxEarlier is how many earlier records of a step are compared.
const maxEarlier = 8

// Explain says why the step of now with an ID ran: nil when it did not, or
// there is none. Earlier Sets come newest first.
func Explain(now *Set, earlier []*Set, id string) *Reason { return New(now, earlier, nil).Why(id) }

// Why says why a step ran; nil when it did not, or there is none with that ID.
func (x *Explainer) Why(id string) *Reason {
	i, ok := x.index[x.now].ids[id]
	if !ok || !x.now.Steps[i].ran() {
		return nil
	}
	return x.why(i)
}

func (x *Explainer) why(i int) *Reason {
	if r, ok := x.whys[i]; ok {
		return r
	}
	causes := x.causes(i)
	r := &Reason{Kind: causes[0].Kind, Causes: causes}
	r.Text = r.line(x.now.Steps[i].Text)
	x.whys[i] = r
	return r
}

func (x *Explainer) causes(i int) []Detail {
	rec := &x.now.Steps[i]
	switch {
	case rec.NoCache:
		return []Detail{{Kind: CauseNoCache}}
	case rec.Lost:
		return []Detail{{Kind: CauseEvicted, Blob: rec.Blob}}
	case rec.Kind == Local:
		return []Detail{{Kind: CauseNever}}
	}
	set, old := x.nearest(i)
	if old < 0 {
		return []Detail{{Kind: CauseFirst}}
	}
	if d := x.diff(pair{i, set, old}); len(d) > 0 {
		return d
	}
	if d := x.forced(i); d != nil {
		return []Detail{*d}
	}
	switch {
	case x.earlier[set].Steps[old].State == Failed:
		return []Detail{{Kind: CauseFailed}}
	case rec.Known:
		return []Detail{{Kind: CauseKeyOnly}}
	}
	return []Detail{{Kind: CauseGone}}
}

// forced looks below a step for another one that the user wanted to run: this
// one then is not found, though nothing differs.
func (x *Explainer) forced(i int) *Detail {
	if d, ok := x.fresh[i]; ok {
		return d
	}
	var found *Detail
	for _, in := range x.now.Steps[i].Inputs {
		rec := &x.now.Steps[in.Step]
		if in.Content != "" {
			continue
		}
		if rec.NoCache && rec.ran() {
			found = &Detail{Kind: CauseParent, Step: rec.Text, Root: []Detail{{Kind: CauseNoCache}}}
		} else {
			found = x.forced(in.Step)
		}
		if found != nil {
			break
		}
	}
	x.fresh[i] = found
	return found
}

// nearest returns the earlier record of a step that differs in the fewest
// things, the newest of several; old is -1 when there is none.
func (x *Explainer) nearest(i int) (set, old int) {
	old = -1
	best, seen := 0, 0
	for s := range x.earlier {
		o := x.find(i, s)
		if o < 0 || x.earlier[s].Steps[o].Op == "" {
			continue
		}
		n := weight(x.diff(pair{i, s, o}))
		if x.earlier[s].Steps[o].State == Failed { // one that was made says more
			n++
		}
		if old < 0 || n < best {
			best, set, old = n, s, o
		}
		if seen++; best == 0 || seen == maxEarlier {
			break
		}
	}
	return set, old
}

func weight(all []Detail) int {
	n := 0
	for _, d := range all {
		n += 100 + min(len(d.Files), 99)
		if d.Kind == CauseInstruction { // not even the same step
			n += 10_000
		}
	}
	return n
}

// find returns the step of an earlier Set that is step i, or that stood in its
// place and is gone now; -1 when there is none.
func (x *Explainer) find(i, set int) int {
	rec, old := &x.now.Steps[i], x.index[x.earlier[set]]
	if o, ok := old.ids[rec.ID]; ok {
		return o
	}
	o, ok := old.seats[seat{rec.Seat, rec.Kind}]
	if !ok {
		return -1
	}
	if _, moved := x.index[x.now].ids[x.earlier[set].Steps[o].ID]; moved {
		return -1
	}
	return o
}

// diff compares a step with an earlier record of it, and what it is built on
// with what that was built on. None means that the two have the same result.
func (x *Explainer) diff(p pair) []Detail {
	if d, ok := x.diffs[p]; ok {
		return d
	}
	rec, was := &x.now.Steps[p.step], &x.earlier[p.set].Steps[p.old]
	var out []Detail
	switch {
	case rec.Kind == Local: // what is read of it is compared where it is read
	case rec.Op == "" || was.Op == "":
		out = []Detail{{Kind: CauseUnknown}}
	case rec.Kind.IsSource():
		out = source(rec, was)
	default:
		out = append(x.fields(p.set, rec, was), x.inputs(p)...)
		out = withoutEchoes(out)
	}
	x.diffs[p] = out
	return out
}

// withoutEchoes drops steps before in which nothing differs but what differs
// in the step itself: an argument that all of them have.
func withoutEchoes(all []Detail) []Detail {
	own := map[string]bool{}
	for _, d := range all {
		if d.Kind == CauseField {
			own[d.Name] = true
		}
	}
	return slices.DeleteFunc(all, func(d Detail) bool {
		return d.Kind == CauseParent && len(d.Root) > 0 && !slices.ContainsFunc(d.Root, func(r Detail) bool {
			return r.Kind != CauseField || !own[r.Name]
		})
	})
}

// source compares what comes from outside.
func source(rec, was *Record) []Detail {
	if rec.Op == was.Op {
		return nil
	}
	d := Detail{Kind: CauseSource, Name: rec.sourceName()}
	for _, c := range fieldChanges(was.Fields, rec.Fields) {
		d.Before, d.After = c.before.text(), c.after.text()
		if d.Before != d.After {
			break
		}
	}
	if d.Before == d.After { // it differs where it may not be shown
		d.Before, d.After = "", ""
	}
	return []Detail{d}
}

// sourceName says what a source is: its first field names it.
func (r *Record) sourceName() string {
	name := r.Text
	if len(r.Fields) > 0 && r.Fields[0].Text != "" {
		name = r.Fields[0].Text
	}
	switch r.Kind {
	case Image:
		return "base image " + name
	case Git:
		return "repository " + name
	case HTTP:
		return "download " + name
	}
	return name
}

func (f *Field) text() string {
	if f == nil {
		return ""
	}
	return f.Text
}

// fields compares two operations.
func (x *Explainer) fields(set int, rec, was *Record) (out []Detail) {
	edited := rec.ID != was.ID
	if edited {
		out = append(out, Detail{Kind: CauseInstruction, Before: was.Text, After: rec.Text})
	}
	if rec.Op == was.Op && sameSelectors(rec, was) {
		return out
	}
	found := false
	for _, c := range fieldChanges(was.Fields, rec.Fields) {
		found = true
		if edited && !isContext(c.name) {
			continue // the instruction's text says it
		}
		d := Detail{Kind: CauseField, Name: c.name, Before: c.before.text(), After: c.after.text()}
		switch {
		case c.before == nil:
			d.Change = Added
		case c.after == nil:
			d.Change = Removed
		case d.Before == d.After && !strings.HasPrefix(d.Name, "arg "):
			d.Args = x.because(set, rec)
		}
		out = append(out, d)
	}
	if !found && !edited && rec.Op != was.Op {
		out = append(out, Detail{Kind: CauseUnknown})
	}
	return out
}

// isContext reports whether a field comes from what stands above an
// instruction rather than from its own text.
func isContext(field string) bool {
	switch name, _, _ := strings.Cut(field, " "); name {
	case "env", "arg", "user", "cwd":
		return true
	}
	return false
}

// because names the build arguments in a step's text that have other values
// than in an earlier Set.
func (x *Explainer) because(set int, rec *Record) []string {
	s := x.earlier[set]
	changed, ok := x.newArgs[s]
	if !ok {
		changed = fieldChanges(s.Args, x.now.Args)
		x.newArgs[s] = changed
	}
	var names []string
	for _, c := range changed {
		if mentions(rec.Text, c.name) {
			names = append(names, c.name)
		}
	}
	return names
}

// mentions reports whether text uses the variable name.
func mentions(text, name string) bool {
	for {
		_, rest, ok := strings.Cut(text, "$")
		if !ok {
			return false
		}
		text = rest
		tail, ok := strings.CutPrefix(strings.TrimPrefix(rest, "{"), name)
		if ok && (tail == "" || !isWord(tail[0])) {
			return true
		}
	}
}

func isWord(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func sameSelectors(a, b *Record) bool {
	return slices.EqualFunc(a.Inputs, b.Inputs, func(a, b Input) bool {
		return a.Selector == b.Selector || a.Content != "" && a.Content == b.Content
	})
}
