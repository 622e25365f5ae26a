package action

import (
	"fmt"
	"html"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/progress/steplog"
)

// A Report is what is said of a build in the job summary.
type Report struct {
	Image   string         // what was built
	Result  *engine.Result // nil for a build that failed
	Error   string         // why it failed: "Dockerfile:12: RUN make: exit status 2"
	Steps   []steplog.Step
	Elapsed time.Duration
}

const (
	maxRows = 100 // of steps; GitHub takes a MiB of summary from a step
	maxText = 160 // bytes of a step's name, or of what is said of it
	barSize = 24  // cells of the bar of time
)

// Markdown returns the summary.
func (r *Report) Markdown() string {
	var b strings.Builder
	state, mark := "built", "✅"
	if r.Result == nil {
		state, mark = "failed", "❌"
	}
	fmt.Fprintf(&b, "### %s %s %s in %s\n\n", mark, code(r.Image), state, seconds(r.Elapsed))
	if r.Error != "" {
		fmt.Fprintf(&b, "> %s\n\n", escape(r.Error))
	}
	r.images(&b)
	r.steps(&b)
	r.caches(&b)
	r.warnings(&b)
	return b.String()
}

func (r *Report) images(b *strings.Builder) {
	res := r.Result
	if res == nil || res.Digest == "" {
		return
	}
	b.WriteString("| image | digest | size | config digest |\n|---|---|--:|---|\n")
	for _, name := range orNone(res.Names) {
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", code(name), code(res.Digest.String()), sizeOf(res.Size), code(res.Config.String()))
	}
	fmt.Fprintf(b, "\nRead from registries: %s, written: %s.\n\n", sizeOf(res.BytesIn), sizeOf(res.BytesOut))
}

func orNone(names []string) []string {
	if len(names) == 0 {
		return []string{"(no name)"}
	}
	return names
}

// steps writes the steps with a bar that shows when each of them ran.
func (r *Report) steps(b *strings.Builder) {
	shown := slices.DeleteFunc(slices.Clone(r.Steps), func(s steplog.Step) bool { return !isShown(s) })
	if len(shown) == 0 {
		return
	}
	begin, end := span(shown)
	cached, all := 0, 0
	for _, s := range shown {
		if s.IsInstruction() {
			all++
			if s.Cached {
				cached++
			}
		}
	}
	fmt.Fprintf(b, "%d of %d steps came from a cache.\n\n| | step | time | when | why it ran |\n|---|---|--:|---|---|\n", cached, all)
	for i, s := range shown {
		if i == maxRows {
			fmt.Fprintf(b, "| | and %d more | | | |\n", len(shown)-maxRows)
			break
		}
		mark, spent, when := "▶", seconds(s.Spent), bar(s, begin, end)
		switch {
		case s.Cached:
			mark, spent, when = "cached", "", ""
		case s.Cancelled:
			mark = "stopped"
		case s.Error != "":
			mark = "❌"
		case s.Began.IsZero():
			mark, spent, when = "not run", "", ""
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", mark, code(short(s.Name)), spent, when, escape(short(s.Reason())))
	}
	b.WriteString("\n")
}

// isShown reports whether a step is worth a row: instructions, what failed,
// and what took its time.
func isShown(s steplog.Step) bool {
	const slow = 100 * time.Millisecond
	return s.Name != "" && s.Name != "warnings" && (s.IsInstruction() || s.Spent >= slow || s.Error != "")
}

func span(shown []steplog.Step) (begin, end time.Time) {
	for _, s := range shown {
		if s.Cached || s.Began.IsZero() {
			continue
		}
		if begin.IsZero() || s.Began.Before(begin) {
			begin = s.Began
		}
		if s.Ended.After(end) {
			end = s.Ended
		}
	}
	return begin, end
}

// bar shows when a step ran within the build. A cached one may have been looked
// up before anything ran.
func bar(s steplog.Step, begin, end time.Time) string {
	total := end.Sub(begin)
	if total <= 0 || s.Ended.IsZero() {
		return ""
	}
	from := int(s.Began.Sub(begin) * barSize / total)
	to := int((s.Ended.Sub(begin)*barSize + total - 1) / total)
	from = min(max(from, 0), barSize-1)
	to = min(max(to, from+1), barSize)
	return "`" + strings.Repeat("░", from) + strings.Repeat("█", to-from) + strings.Repeat("░", barSize-to) + "`"
}

func (r *Report) caches(b *strings.Builder) {
	if r.Result == nil || len(r.Result.Caches) == 0 {
		return
	}
	b.WriteString("| cache | | outcome | blobs | bytes | time | |\n|---|---|---|--:|--:|--:|---|\n")
	for _, c := range r.Result.Caches {
		way := "in"
		if c.Export {
			way = "out"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %d | %s | %s | %s |\n", code(c.Name), way, escape(c.Outcome), c.Blobs, sizeOf(c.Bytes),
			seconds(time.Duration(c.Seconds*float64(time.Second))), escape(short(c.Reason)))
	}
	b.WriteString("\n")
}

func (r *Report) warnings(b *strings.Builder) {
	if r.Result == nil {
		return
	}
	for _, w := range r.Result.Warnings {
		fmt.Fprintf(b, "- ⚠ %s\n", escape(w))
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func sizeOf(n int64) string { return units.BytesSize(float64(n)) }

func short(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
}

// code returns text that Markdown leaves as it is, in a table too.
func code(s string) string { return "<code>" + escape(s) + "</code>" }

// escape returns text that is none of HTML, of Markdown and of a table.
func escape(s string) string {
	s = html.EscapeString(s)
	var b strings.Builder
	for _, c := range s {
		switch {
		case strings.ContainsRune("|*_`[]\\~@!", c):
			fmt.Fprintf(&b, "&#%d;", c)
		case c == '\n', c == '\r', c == '\t':
			b.WriteByte(' ')
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}
