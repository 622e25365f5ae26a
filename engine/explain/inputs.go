package explain

import (
	"slices"
	"strings"
)

// inputs compares what two operations are done on.
func (x *Explainer) inputs(p pair) (out []Detail) {
	rec, was := &x.now.Steps[p.step], &x.earlier[p.set].Steps[p.old]
	used := map[int]bool{}
	for j, in := range rec.Inputs {
		k := j
		if rec.Op != was.Op || k >= len(was.Inputs) { // a mount more or less moves the others
			k = x.partner(p, j, used)
		}
		if k < 0 {
			continue // what is different about the operation says it
		}
		used[k] = true
		if d, ok := x.input(p.set, in, was.Inputs[k]); ok && !slices.ContainsFunc(out, d.repeats) {
			out = append(out, d)
		}
	}
	slices.SortStableFunc(out, func(a, b Detail) int { return a.rank() - b.rank() })
	return out
}

// partner returns the input of the earlier record that input j is compared
// with, -1 when there is none.
func (x *Explainer) partner(p pair, j int, used map[int]bool) int {
	step := x.now.Steps[p.step].Inputs[j].Step
	same := x.find(step, p.set)
	for k, in := range x.earlier[p.set].Steps[p.old].Inputs {
		if !used[k] && in.Step == same {
			return k
		}
	}
	if j == 0 && len(x.earlier[p.set].Steps[p.old].Inputs) > 0 { // what it is built on
		return 0
	}
	return -1
}

func (d Detail) repeats(o Detail) bool {
	return d.Kind == o.Kind && d.Kind != CauseFiles && d.Step == o.Step && d.Name == o.Name
}

// rank orders causes: a source or files say more than a step before.
func (d Detail) rank() int {
	switch d.Kind {
	case CauseSource:
		return 0
	case CauseFiles:
		return 1
	}
	return 2
}

// input compares one input; ok is false when it is the same.
func (x *Explainer) input(set int, in, was Input) (d Detail, ok bool) {
	if in.Pending || in.Content != "" && in.Content == was.Content {
		return d, false
	}
	sub := pair{in.Step, set, was.Step}
	if in.Content != "" && was.Content != "" {
		return x.files(sub, in, was), true
	}
	rec := &x.now.Steps[in.Step]
	if rec.Kind == Local { // the content is not known of both
		return Detail{Kind: CauseUnknown}, true
	}
	switch o := x.find(in.Step, set); {
	case o < 0:
		return Detail{Kind: CauseParent, Step: rec.Text, Root: []Detail{{Kind: CauseFirst}}}, true
	case o != was.Step: // it was there, in another place
		return Detail{Kind: CauseParent, Step: rec.Text, Before: x.earlier[set].Steps[was.Step].Text, After: rec.Text}, true
	}
	diff := x.diff(sub)
	if len(diff) == 0 {
		return d, false
	}
	return rootOf(rec.Text, diff), true
}

// rootOf turns what differs in a step into a cause of what is built on it: the
// root, which is where something other than a step before differs.
func rootOf(text string, diff []Detail) Detail {
	own := slices.DeleteFunc(slices.Clone(diff), func(d Detail) bool { return d.Kind == CauseParent })
	switch {
	case len(own) == 0:
		return diff[0]
	case own[0].Kind == CauseSource:
		return own[0]
	}
	return Detail{Kind: CauseParent, Step: text, Root: own}
}

// files compares the contents of an input, which differ.
func (x *Explainer) files(sub pair, in, was Input) Detail {
	d := Detail{Kind: CauseFiles}
	before, after := x.earlier[sub.set].Manifests[was.Content], x.now.Manifests[in.Content]
	if before != nil && after != nil {
		var same sameBytes
		if x.same != nil {
			same = func(path string, e Entry) (bool, bool) { return x.same(in.Content, path, e) }
		}
		d.Files = fileChanges(before, after, same)
		slices.SortStableFunc(d.Files, func(a, b FileChange) int { return a.rank() - b.rank() })
		if len(d.Files) > maxListed {
			d.More = len(d.Files) - maxListed
			d.Files = d.Files[:maxListed:maxListed]
		}
	}
	rec := &x.now.Steps[sub.step]
	if rec.Kind != Local {
		d.Input = rec.Text
		d.Root = x.made(sub)
	}
	return d
}

// rank orders changes: of files, then of directories themselves.
func (c FileChange) rank() int {
	switch {
	case c.Files == 0 && strings.HasSuffix(c.Path, "/"):
		return 3
	case c.What[0].Kind == Added:
		return 1
	case c.What[0].Kind == Removed:
		return 2
	}
	return 0
}

// made says why a step gives other files than it gave.
func (x *Explainer) made(sub pair) []Detail {
	rec := &x.now.Steps[sub.step]
	if x.find(sub.step, sub.set) == sub.old {
		if diff := x.diff(sub); len(diff) > 0 {
			root := rootOf(rec.Text, diff)
			if root.Kind == CauseParent && root.Step == rec.Text {
				return root.Root
			}
			return []Detail{root}
		}
	}
	if rec.ran() && !rec.Kind.IsSource() {
		return x.why(sub.step).Causes
	}
	return nil
}
