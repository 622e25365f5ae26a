package report

import (
	"bytes"
	"fmt"
	"strings"

	digest "github.com/opencontainers/go-digest"
)

const (
	excerptAround = 3  // lines shown above and below those in question
	failureTail   = 25 // lines of the failed step's log beside the error
)

// A failureBox is why the build failed.
type failureBox struct {
	Text, Hint string
	Place      string // "Dockerfile:12"; "" for none
	Excerpt    []sourceLine
	Step       *stepBox // nil for none
	Tail       []string // the end of its log
}

// A lintRow is a warning of the linter.
type lintRow struct {
	Text, Detail, URL, Place string
	Excerpt                  []sourceLine
}

// A sourceLine is a line of a Dockerfile.
type sourceLine struct {
	Number int
	Text   string
	Marked bool
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

// lintRows are the linter's warnings.
func (r *Recorder) lintRows() (out []lintRow) {
	for _, w := range r.lints.Warnings() {
		row := lintRow{Text: r.text(w.Text), Detail: r.text(w.Detail), URL: r.text(w.URL), Place: placeText(w.File, w.Start)}
		if w.Source != "" {
			for i, text := range strings.Split(r.text(w.Source), "\n") {
				row.Excerpt = append(row.Excerpt, sourceLine{Number: w.Start + i, Text: strings.TrimSuffix(text, "\r")})
			}
		}
		out = append(out, row)
	}
	return out
}

// warnings are the engine's: those of the Result, or else what the log has of
// them.
func (r *Recorder) warnings(b Build) (out []string) {
	if b.Result != nil {
		for _, w := range b.Result.Warnings {
			out = append(out, r.text(w))
		}
		return out
	}
	for _, s := range r.order {
		if s.name != warningsStep {
			continue
		}
		chunks, _ := s.log.chunks(r.cfg.Redact, r.cfg.Began)
		for _, c := range chunks {
			for _, l := range c.lines {
				out = append(out, strings.TrimPrefix(l.text, "warning: "))
			}
		}
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
