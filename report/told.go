package report

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// totals are counted as the job summary counts them.
func (r *Recorder) totals(p *Page, b Build) totals {
	t := totals{Pulled: size(b.BytesIn), Pushed: size(b.BytesOut)}
	for _, s := range p.Steps {
		if !s.isInstruction() {
			t.Other++
			if s.State == failed && s.Kind != cacheIn && s.Kind != cacheOut {
				t.Failed++
			}
			continue
		}
		t.Steps++
		switch s.State {
		case cached:
			t.Cached++
		case failed:
			t.Failed++
		case ran:
			t.Ran++
		}
	}
	if b.Result == nil || len(b.Result.Caches) == 0 {
		return t
	}
	var in, out int64
	for _, c := range b.Result.Caches {
		if c.Export {
			out += c.Bytes
		} else {
			in += c.Bytes
		}
	}
	t.CacheIn, t.CacheOut = size(in), size(out)
	return t
}

// isInstruction reports whether a step is one of a Dockerfile.
func (s *stepBox) isInstruction() bool { return s.Stage != "" && s.Stage != "internal" }

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
		switch r.stateOf(s, b.Failure) {
		case failed:
			row.Outcome = "failed"
		case stopped, notRun:
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

func (r *Recorder) lintRows() (out []lintRow) {
	for _, w := range r.lints {
		row := lintRow{Text: r.text(string(w.Short)), URL: r.text(w.URL)}
		var detail []string
		for _, d := range w.Detail {
			detail = append(detail, r.text(string(d)))
		}
		row.Detail = strings.Join(detail, "\n")
		place := lintPlace(w)
		row.Place = placeText(place.file, place.start)
		if w.SourceInfo != nil {
			row.Excerpt = r.excerpt(w.SourceInfo.Data, place.start, place.end, 0)
		}
		out = append(out, row)
	}
	return out
}

func placeText(file string, start int) string {
	switch {
	case file == "" && start == 0:
		return ""
	case file == "":
		file = "Dockerfile"
	}
	if start == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, start)
}

// excerpt returns lines of a file and what stands around them.
func (r *Recorder) excerpt(data []byte, start, end, around int) (out []sourceLine) {
	lines := bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
	if start < 1 || start > len(lines) {
		return nil
	}
	end = max(start, end)
	for n := max(start-around, 1); n <= min(end+around, len(lines)); n++ {
		text := r.text(string(bytes.TrimSuffix(lines[n-1], []byte("\r"))))
		out = append(out, sourceLine{n, text, n >= start && n <= end})
	}
	return out
}

func (r *Recorder) failure(f *Failure, boxes map[digest.Digest]*stepBox) *failureBox {
	out := &failureBox{Text: r.text(f.Text), Hint: r.text(f.Hint), Step: boxes[f.Step]}
	if f.Place.Start > 0 || f.Place.File != "" {
		out.Place = r.text(placeText(f.Place.File, f.Place.Start))
		out.Excerpt = r.excerpt(f.Place.Source, f.Place.Start, f.Place.End, excerptAround)
	}
	if out.Step != nil {
		if n := len(out.Step.Log); n > 0 {
			lines := out.Step.Log[n-1].lines
			for _, l := range lines[max(0, len(lines)-failureTail):] {
				out.Tail = append(out.Tail, l.text)
			}
		}
	}
	return out
}
