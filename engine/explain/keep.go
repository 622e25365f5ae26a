package explain

import (
	digest "github.com/opencontainers/go-digest"
)

// Keep returns the Sets that are stored after a build: now, and of each older
// one, newest first, the steps that none before it has, with what those are
// built on. What no step needs is left out, and so are the reasons of the time.
func Keep(now *Set, older []*Set) []*Set {
	out := []*Set{now.forOthers()}
	have := map[string]bool{}
	for i := range now.Steps {
		have[now.Steps[i].ID] = true
	}
	for _, s := range older {
		if len(out) == maxSets {
			break
		}
		if rest := s.without(have); rest != nil {
			out = append(out, rest.forOthers())
		}
		for i := range s.Steps {
			have[s.Steps[i].ID] = true
		}
	}
	return out
}

// forOthers returns a copy that says nothing of the build it is of but what
// explains others.
func (s *Set) forOthers() *Set {
	out := *s
	out.Build = ""
	out.Steps = make([]Record, len(s.Steps))
	for i, r := range s.Steps {
		r.Why = nil
		out.Steps[i] = r
	}
	return &out
}

// without returns the steps with other IDs, and what they are built on; nil
// when there are none. Sources alone are none: something has to use them.
func (s *Set) without(have map[string]bool) *Set {
	keep := make([]bool, len(s.Steps))
	found := false
	for i := len(s.Steps) - 1; i >= 0; i-- {
		r := &s.Steps[i]
		if !have[r.ID] && !r.Kind.IsSource() {
			keep[i], found = true, true
		}
		if keep[i] {
			for _, in := range r.Inputs {
				keep[in.Step] = true
			}
		}
	}
	if !found {
		return nil
	}
	out := &Set{Build: s.Build, Created: s.Created, Args: s.Args, Manifests: map[digest.Digest]*Manifest{}}
	at := make([]int, len(s.Steps))
	for i, r := range s.Steps {
		if !keep[i] {
			continue
		}
		at[i] = len(out.Steps)
		inputs := make([]Input, len(r.Inputs))
		for j, in := range r.Inputs {
			in.Step = at[in.Step]
			inputs[j] = in
			if m := s.Manifests[in.Content]; m != nil {
				out.Manifests[in.Content] = m
			}
		}
		r.Inputs = inputs
		out.Steps = append(out.Steps, r)
	}
	return out
}
