package report

import (
	"strconv"
	"strings"
	"time"
)

// A cacheRow is what became of a cache.
type cacheRow struct {
	Name, Way, Outcome, Reason, Hint string
	Blobs, Bytes, Spent              string // "" where it is not known
	Carried                          int
}

// caches tells what became of them: as the Result has it, or else as far as
// the events say.
func (r *Recorder) caches(b Build) (out []cacheRow) {
	if b.Result != nil {
		for _, c := range b.Result.Caches {
			out = append(out, cacheRow{
				Name: r.text(c.Name), Way: way(c.Export), Outcome: c.Outcome, Reason: r.text(c.Reason), Hint: r.text(c.Hint),
				Blobs: strconv.Itoa(c.Blobs), Bytes: size(c.Bytes), Carried: c.Carried,
				Spent: duration(time.Duration(c.Seconds * float64(time.Second))),
			})
		}
		return out
	}
	for _, s := range r.order {
		name, export, ok := cacheOf(s.name)
		if !ok {
			continue
		}
		row := cacheRow{Name: r.text(name), Way: way(export), Outcome: "done", Reason: r.text(s.err)}
		switch state := r.stateOf(s, b.Failure); {
		case s.err != "":
			row.Outcome = "failed"
		case state == stopped, state == notRun:
			row.Outcome = "stopped"
		}
		if n := len(s.runs); n > 0 && !s.runs[n-1].to.IsZero() {
			row.Spent = duration(s.runs[n-1].to.Sub(s.runs[0].from))
		}
		out = append(out, row)
	}
	return out
}

func way(export bool) string {
	if export {
		return "export"
	}
	return "import"
}

// cacheOf returns the cache that a step reads or writes.
func cacheOf(step string) (name string, export, ok bool) {
	for _, s := range []struct {
		prefix string
		export bool
	}{
		{"importing cache manifest from ", false}, {"restoring cache mount ", false},
		{"exporting cache to ", true}, {"exporting cache mount ", true},
	} {
		if name, ok := strings.CutPrefix(step, s.prefix); ok {
			return name, s.export, true
		}
	}
	return "", false, false
}
