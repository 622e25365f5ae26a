package report

import (
	"fmt"
	"time"
)

// A bar is a piece of a step's time, as percentages of the build's.
type bar struct {
	X, W  string
	Class string // run, part or mark
}

// A tick is a mark of the time axis, as a percentage of the build's time.
type tick struct {
	X, Label string // no label where there is no room for it
}

// A stripe is steps of one state, one after another.
type stripe struct {
	X, W  int
	Class string
}

// Strip shows the instructions in their order, a unit wide each.
func (p *page) Strip() (out []stripe) {
	x := 0
	for _, s := range p.Steps {
		if s.isInstruction() {
			if n := len(out); n > 0 && out[n-1].Class == s.State.Class() {
				out[n-1].W++
			} else {
				out = append(out, stripe{x, 1, s.State.Class()})
			}
			x++
		}
	}
	return out
}

// A choice is a part of the timeline that can be shown alone.
type choice struct {
	Show  string
	Count int
}

// Choices are all steps, the long ones, and those of each state.
func (p *page) Choices() []choice {
	n, long := map[stepState]int{}, 0
	for _, s := range p.Steps {
		n[s.State]++
		if s.Long {
			long++
		}
	}
	out := []choice{{"all", len(p.Steps)}}
	if long > 0 && long < len(p.Steps) {
		out = append(out, choice{"long", long})
	}
	for _, st := range []stepState{ran, cached, failed, stopped} {
		if n[st] > 0 {
			out = append(out, choice{string(st), n[st]})
		}
	}
	return out
}

// Whys are the steps of which is known why they ran.
func (p *page) Whys() (out []*stepBox) {
	for _, s := range p.Steps {
		if s.Why != "" && s.State != cached {
			out = append(out, s)
		}
	}
	return out
}

const (
	maxTicks = 8
	minBar   = 0.3 // percent: what is shorter is to be seen too

	lastLabel = 95  // percent
	longShare = 200 // a step that took one of so many parts of the time is a long one
)

// bars shows when a step ran, and when its parts did.
func (r *Recorder) bars(s *recorded, state stepState, ended time.Time) (out []bar) {
	total := ended.Sub(r.cfg.Began)
	if total <= 0 || len(s.runs) == 0 {
		return nil
	}
	at := func(t time.Time) float64 {
		return min(100, max(0, 100*float64(t.Sub(r.cfg.Began))/float64(total)))
	}
	if state == cached {
		return []bar{{X: percent(at(orEnd(s.runs[len(s.runs)-1].to, ended))), Class: "mark"}}
	}
	add := func(sp span, class string) {
		from, to := at(sp.from), at(orEnd(sp.to, ended))
		from = min(from, 100-minBar)
		out = append(out, bar{percent(from), percent(max(minBar, to-from)), class})
	}
	for _, run := range s.runs {
		add(run, "run")
	}
	for i, p := range s.listed {
		if i == listedParts {
			break
		}
		if !p.from.IsZero() {
			add(p.span, "part")
		}
	}
	return out
}

func percent(p float64) string { return fmt.Sprintf("%.2f%%", p) }

// axis returns the ticks of a build's time, at round numbers.
func axis(total time.Duration) (out []tick) {
	if total <= 0 {
		return nil
	}
	step := roundStep(total / maxTicks)
	for d := time.Duration(0); d <= total; d += step {
		x := 100 * float64(d) / float64(total)
		t := tick{X: percent(x)}
		if x < lastLabel {
			t.Label = tickLabel(d, step)
		}
		out = append(out, t)
	}
	return out
}

// roundStep returns the next length that people count in.
func roundStep(least time.Duration) time.Duration {
	for unit := time.Millisecond; unit <= 10*time.Second; unit *= 10 {
		for _, n := range []time.Duration{1, 2, 5} {
			if n*unit >= least {
				return n * unit
			}
		}
	}
	for _, d := range []time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute} {
		if d >= least {
			return d
		}
	}
	return (least + time.Hour - 1).Truncate(time.Hour)
}

func tickLabel(d, step time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case step < time.Second && d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case step < time.Second:
		return fmt.Sprintf("%.4g s", d.Seconds())
	case step < time.Minute && d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case step < time.Minute:
		return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d min", int(d.Minutes()))
}
