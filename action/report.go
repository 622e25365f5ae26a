package action

import (
	"fmt"
	"html"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/docker/go-units"
	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/progress/steplog"
)

// A Report is what is said of a build in the job summary.
type Report struct {
	Image   string         // what was built
	Result  *engine.Result // nil for a build that failed
	Error   string         // why it failed: "Dockerfile:12: RUN make: exit status 2"
	Failed  digest.Digest  // the step that failed; "" for none
	Steps   []steplog.Step
	Elapsed time.Duration
}

const (
	maxRows  = 60  // of steps; GitHub takes a MiB of summary from a step
	fewSteps = 12  // all of so many are shown, of more those that matter
	maxNames = 300 // of cached steps
	maxText  = 100 // characters of a step's name, or of what is said of it
	barSize  = 16  // cells of the bar of time
	matters  = 50  // a step that took one of so many parts of the time matters
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
	r.tail(&b)
	r.counts(&b)
	r.images(&b)
	r.steps(&b)
	r.cached(&b)
	r.caches(&b)
	r.warnings(&b)
	return b.String()
}

// tail quotes the end of the log of what failed.
func (r *Report) tail(b *strings.Builder) {
	for _, s := range r.Steps {
		if r.Failed != "" && s.Digest == r.Failed && len(s.Tail) > 0 {
			block(b, s.Tail)
		}
	}
}

// counts says in one line how many steps there are, and what was moved.
func (r *Report) counts(b *strings.Builder) {
	cached, ran, all := 0, 0, 0
	for _, s := range r.Steps {
		if !s.IsInstruction() {
			continue
		}
		all++
		switch {
		case s.Cached:
			cached++
		case s.Error == "" && !s.Began.IsZero():
			ran++
		}
	}
	if all == 0 {
		return
	}
	steps := fmt.Sprintf("%d steps", all)
	if all == 1 {
		steps = "1 step"
	}
	fmt.Fprintf(b, "**%s**: %d cached, %d ran", steps, cached, ran)
	if r.Failed != "" {
		b.WriteString(", 1 failed")
	}
	if res := r.Result; res != nil {
		var in, out int64
		for _, c := range res.Caches {
			if c.Export {
				out += c.Bytes
			} else {
				in += c.Bytes
			}
		}
		fmt.Fprintf(b, " · registries: %s read, %s written", sizeOf(res.BytesIn), sizeOf(res.BytesOut))
		if len(res.Caches) > 0 {
			fmt.Fprintf(b, " · caches: %s read, %s written", sizeOf(in), sizeOf(out))
		}
	}
	b.WriteString("\n\n")
}

// images names what was made so that it can be copied.
func (r *Report) images(b *strings.Builder) {
	res := r.Result
	if res == nil || res.Digest == "" {
		return
	}
	var lines []string
	for _, name := range res.Names {
		lines = append(lines, name+"@"+res.Digest.String())
	}
	if len(lines) == 0 {
		lines = []string{res.Digest.String()}
	}
	lines[0] += "  " + sizeOf(res.Size)
	if len(res.Images) > 1 {
		for _, im := range res.Images {
			lines = append(lines, fmt.Sprintf("%s  %s  %s", platforms.Format(im.Platform), im.Digest, sizeOf(im.Size)))
		}
	}
	if res.Config != "" {
		lines = append(lines, "config "+res.Config.String())
	}
	block(b, lines)
}

// steps writes those that ran, with a bar that shows when each of them did.
func (r *Report) steps(b *strings.Builder) {
	ran := slices.DeleteFunc(slices.Clone(r.Steps), func(s steplog.Step) bool { return s.Cached || !isShown(s) })
	if len(ran) == 0 {
		return
	}
	begin, end := span(ran)
	shown := ran
	if len(ran) > fewSteps {
		shown = slices.DeleteFunc(slices.Clone(ran), func(s steplog.Step) bool {
			return s.Error == "" && s.Spent < end.Sub(begin)/matters && !isRoot(s)
		})
	}
	shown = shown[:min(len(shown), maxRows)]
	explained := slices.ContainsFunc(shown, func(s steplog.Step) bool { return s.Why != "" })
	row := func(step, spent, when, why string) {
		fmt.Fprintf(b, "| %s | %s | %s |", step, spent, when)
		if explained {
			fmt.Fprintf(b, " %s |", why)
		}
		b.WriteString("\n")
	}
	row("step", "time", "when", "why it ran")
	row("---", "--:", "---", "---")
	for _, s := range shown {
		mark, spent, when := "", seconds(s.Spent), bar(s, begin, end)
		switch {
		case r.isStopped(s):
			mark = "⏹ "
		case s.Error != "":
			mark = "❌ "
		case s.Began.IsZero():
			spent, when = "", "not run"
		}
		row(mark+code(short(nameOf(s))), spent, when, escape(short(why(s))))
	}
	if more := len(ran) - len(shown); more > 0 {
		row(fmt.Sprintf("and %d more", more), "", "", "")
	}
	b.WriteString("\n")
}

// why is the reason of a step without those of the steps before it, which have
// rows of their own.
func why(s steplog.Step) string {
	reason := s.Reason()
	if strings.HasPrefix(reason, "after ") {
		reason, _, _ = strings.Cut(reason, ": ")
	}
	reason, _, _ = strings.Cut(reason, ", after ")
	return reason
}

// isStopped reports whether a step ended because another one had failed.
func (r *Report) isStopped(s steplog.Step) bool {
	if s.Cancelled || s.Error == "" || r.Failed == "" || s.Digest == r.Failed {
		return s.Cancelled
	}
	return slices.ContainsFunc(r.Steps, func(first steplog.Step) bool {
		return first.Digest == r.Failed && s.Ended.After(first.Ended)
	})
}

// isRoot reports whether a step ran for a reason of its own, not since another
// one ran before it.
func isRoot(s steplog.Step) bool {
	reason := s.Reason()
	return reason != "" && !strings.Contains(reason, "after ") && !strings.HasPrefix(reason, "it is built on ")
}

var imageDigest = regexp.MustCompile(`@sha256:[0-9a-f]{64}`)

// nameOf returns a step's name without what nobody reads.
func nameOf(s steplog.Step) string {
	return strings.Join(strings.Fields(imageDigest.ReplaceAllString(s.Name, "")), " ")
}

// cached lists the instructions that were found in a cache, folded.
func (r *Report) cached(b *strings.Builder) {
	var names []string
	for _, s := range r.Steps {
		if s.Cached && s.IsInstruction() {
			names = append(names, short(nameOf(s)))
		}
	}
	if len(names) == 0 {
		return
	}
	title := fmt.Sprintf("%d cached steps", len(names))
	if len(names) == 1 {
		title = "1 cached step"
	}
	if more := len(names) - maxNames; more > 0 {
		names = append(names[:maxNames], fmt.Sprintf("and %d more", more))
	}
	fmt.Fprintf(b, "<details><summary>%s</summary>\n\n", title)
	block(b, names)
	b.WriteString("</details>\n\n")
}

// isShown reports whether a step is worth a row: instructions, what failed,
// and what took its time.
func isShown(s steplog.Step) bool {
	const slow = 100 * time.Millisecond
	return s.Name != "" && s.Name != "warnings" && (s.IsInstruction() || s.Spent >= slow || s.Error != "")
}

func span(shown []steplog.Step) (begin, end time.Time) {
	for _, s := range shown {
		if s.Began.IsZero() {
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
	b.WriteString("| cache | | outcome | blobs | bytes | time |\n|---|---|---|--:|--:|--:|\n")
	for _, c := range r.Result.Caches {
		way := "import"
		if c.Export {
			way = "export"
		}
		outcome := escape(c.Outcome)
		if c.Reason != "" {
			outcome += ": " + escape(short(c.Reason))
		}
		fmt.Fprintf(b, "| %s | %s | %s | %d | %s | %s |\n", code(short(c.Name)), way, outcome, c.Blobs, sizeOf(c.Bytes),
			seconds(time.Duration(c.Seconds*float64(time.Second))))
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

// block quotes lines as they are.
func block(b *strings.Builder, lines []string) {
	text := strings.Join(lines, "\n")
	fence := "```"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	fmt.Fprintf(b, "%s\n%s\n%s\n\n", fence, text, fence)
}

// seconds has a space that no line is broken at.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f\u00a0s", d.Seconds()) }

func sizeOf(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

func short(s string) string {
	r := []rune(s)
	if len(r) <= maxText {
		return s
	}
	return string(r[:maxText-1]) + "…"
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
