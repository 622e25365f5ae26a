// Package sections writes a build's progress for CI services whose logs fold:
// a section for each step that says something, folded, and the step that failed
// last of all, open.
//
//	progress.Stream ──SolveStatus──▶ Log ──text──▶ the job's log: GitLab, Azure Pipelines, Buildkite
//	                                  └─ steplog.Watcher: the failed step's tail, lint warnings
//
// In: events. Out: text whose sections do not mix, though steps run side by
// side: the log follows one step, and what others say meanwhile waits until
// that has ended.
package sections

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/progress/steplog"
)

// A Log writes the progress of one build. Its methods are called by one
// goroutine at a time, as a progress.Stream does. Text that cannot be written
// is lost: no build fails for its log.
type Log struct {
	style Style
	out   io.Writer
	now   func() time.Time
	watch steplog.Watcher

	steps    map[digest.Digest]*step
	order    []*step // as they were seen first
	front    *step   // whose section is open
	sections int     // opened so far
	folded   bool    // the last line is a section's
}

// New returns a Log to out in the style of a service.
func New(out io.Writer, style Style) *Log {
	return &Log{style: style, out: out, now: time.Now, steps: map[digest.Digest]*step{}}
}

// A step is one that is going on, or whose end is not told yet.
type step struct {
	digest  digest.Digest
	name    string
	began   time.Time
	ended   time.Time
	outcome string // "" while it goes on
	failed  bool
	told    bool   // all that has happened so far
	known   bool   // it was told before
	section string // of the one that is open

	why     string
	part    string // of a line whose end has not come
	waiting bytes.Buffer
	lost    int // bytes of it that were too many
}

const (
	maxWaiting = 1 << 20                // bytes of a step that the log does not follow
	slow       = 100 * time.Millisecond // that an end worth a line takes: a second one, or one of what no user wrote
)

// Read takes an event; it is a sink of a progress.Stream.
func (l *Log) Read(st *client.SolveStatus) {
	l.watch.Read(st)
	for _, v := range st.Vertexes {
		s := l.step(v.Digest)
		if v.Completed != nil {
			l.endLine(s, *v.Completed)
		}
		s.vertex(v)
	}
	for _, s := range st.Statuses {
		if s.Completed != nil && s.Started != nil {
			l.say(l.step(s.Vertex), s.Timestamp, statusText(s))
		}
	}
	for _, e := range st.Logs {
		l.output(l.step(e.Vertex), e)
	}
	l.write()
}

// End tells what is left, the lint warnings, and the end of what the step said
// that failed the build; "" names none.
func (l *Log) End(failed digest.Digest) {
	for _, s := range l.order {
		l.endLine(s, l.now())
		if s.outcome == "" && !s.began.IsZero() {
			s.outcome, s.ended = "STOPPED", l.now()
		}
	}
	l.write()
	l.warnings()
	for _, s := range l.watch.Steps() {
		if s.Digest == failed {
			l.tail(s)
		}
	}
}

func (l *Log) step(d digest.Digest) *step {
	s := l.steps[d]
	if s == nil {
		s = &step{digest: d, told: true}
		l.steps[d] = s
		l.order = append(l.order, s)
	}
	return s
}

func (s *step) vertex(v *client.Vertex) {
	s.name = v.Name
	if v.Started == nil {
		return
	}
	s.began, s.told = *v.Started, false
	if v.Completed == nil {
		s.outcome = ""
		return
	}
	s.ended = *v.Completed
	spent := s.ended.Sub(s.began)
	switch {
	case v.Cached:
		s.outcome = "CACHED"
	case strings.HasSuffix(v.Error, "context canceled"):
		s.outcome = "STOPPED"
	case v.Error != "":
		s.outcome, s.failed = "ERROR "+line(v.Error), true
	default:
		s.outcome = fmt.Sprintf("DONE %.1fs", spent.Seconds())
	}
	s.told = s.known && !s.failed && s.waiting.Len() == 0 && spent < slow
}

func (s *step) reason() string { return (steplog.Step{Name: s.name, Why: s.why}).Reason() }

func statusText(s *client.VertexStatus) string {
	name := s.Name
	if name == "" {
		name = s.ID
	}
	if s.Current == 0 {
		return line(name)
	}
	return line(name) + " " + units.HumanSize(float64(s.Current))
}

// output takes what a step prints. A line that a program draws again and again
// is what it was last.
func (l *Log) output(s *step, e *client.VertexLog) {
	for text := range strings.Lines(s.part + string(e.Data)) {
		if !strings.HasSuffix(text, "\n") {
			s.part = text[max(0, len(text)-maxWaiting):]
			return
		}
		text = strings.TrimRight(text, "\r\n")
		if why, ok := strings.CutPrefix(text, "why: "); ok && s.why == "" {
			s.why = why
			continue
		}
		l.say(s, e.Timestamp, text)
	}
	s.part = ""
}

// endLine takes the line of a step whose end will not come.
func (l *Log) endLine(s *step, at time.Time) {
	if s.part != "" {
		l.say(s, at, s.part)
		s.part = ""
	}
}

func (l *Log) say(s *step, at time.Time, text string) {
	if i := strings.LastIndexByte(text, '\r'); i >= 0 {
		text = text[i+1:]
	}
	if s.began.IsZero() {
		s.began = at
	}
	s.told = false
	fmt.Fprintf(&s.waiting, "%7.3f %s\n", max(0, at.Sub(s.began).Seconds()), l.style.text(text))
	if n := s.waiting.Len() - maxWaiting; n > 0 && s != l.front {
		all := s.waiting.Bytes()
		n += bytes.IndexByte(all[n:], '\n') + 1
		s.lost += n
		s.waiting.Next(n)
	}
}

// write tells what can be told: all of the step that the log follows, then the
// steps that have ended, then it follows another.
func (l *Log) write() {
	for {
		if l.front != nil {
			l.flush(l.front)
			if l.front.outcome == "" {
				return
			}
			l.close(l.front)
			l.front = nil
		}
		for _, s := range l.order {
			if s.outcome != "" && !s.told {
				l.tell(s)
			}
		}
		if l.front = l.next(); l.front == nil {
			return
		}
		l.open(l.front)
	}
}

// next returns the step to follow: of those that go on and say something the
// first one, of the Dockerfile's if there is one.
func (l *Log) next() *step {
	var found *step
	for _, s := range l.order {
		if s.outcome != "" || s.waiting.Len() == 0 {
			continue
		}
		if (steplog.Step{Name: s.name}).IsInstruction() {
			return s
		}
		if found == nil {
			found = s
		}
	}
	return found
}

// tell writes a step that has ended.
func (l *Log) tell(s *step) {
	s.told, s.known = true, true
	if s.waiting.Len() > 0 {
		l.open(s)
		l.flush(s)
		l.close(s)
		return
	}
	if strings.HasPrefix(s.name, "[internal]") && !s.failed && s.ended.Sub(s.began) < slow {
		return // the user wrote none of it
	}
	text := s.outcome + " " + line(s.name)
	if s.failed {
		text = "ERROR " + line(s.name) + ": " + strings.TrimPrefix(s.outcome, "ERROR ")
	}
	if s.outcome != "CACHED" && s.why != "" {
		text += " (" + line(s.reason()) + ")"
	}
	l.plain(l.style.text(text) + "\n")
	s.why = ""
}

// plain writes a line that is in no section.
func (l *Log) plain(text string) {
	if l.folded {
		l.print(l.style.between())
		l.folded = false
	}
	l.print(text)
}

func (l *Log) open(s *step) {
	s.section = l.newSection()
	l.print(l.style.open(s.section, s.name, s.began, true))
	if s.why != "" {
		l.print(l.style.text("why: "+line(s.reason())) + "\n")
		s.why = ""
	}
}

// newSection returns the id of a section. A job may build several times.
func (l *Log) newSection() string {
	l.sections++
	return fmt.Sprintf("mayfly_%d_%d", l.now().UnixMilli(), l.sections)
}

func (l *Log) flush(s *step) {
	if s.lost > 0 {
		l.print(fmt.Sprintf("… %s before this are left out\n", units.HumanSize(float64(s.lost))))
		s.lost = 0
	}
	_, _ = s.waiting.WriteTo(l.out)
}

func (l *Log) close(s *step) {
	s.told, s.known = true, true
	l.print(l.style.text(s.outcome) + "\n" + l.style.close(s.section, s.ended, true))
	l.folded = true
}

func (l *Log) warnings() {
	all := l.watch.Warnings()
	slices.SortStableFunc(all, func(a, b steplog.Warning) int { return a.Start - b.Start })
	for _, w := range all {
		place := w.File
		if place != "" && w.Start > 0 {
			place = fmt.Sprintf("%s:%d", place, w.Start)
		}
		if place != "" {
			place += ": "
		}
		l.plain(l.style.warning(line(place + w.Text)))
	}
}

// tail shows the end of what a step said, in a section that is open: nobody has
// to look for it.
func (l *Log) tail(s steplog.Step) {
	id := l.newSection()
	l.print(l.style.open(id, "failed: "+s.Name, s.Began, false))
	for _, text := range s.Tail {
		if i := strings.LastIndexByte(text, '\r'); i >= 0 {
			text = text[i+1:]
		}
		l.print("  " + l.style.text(text) + "\n")
	}
	l.print(l.style.close(id, l.now(), false))
	l.folded = false
}

func (l *Log) print(text string) { _, _ = io.WriteString(l.out, text) }
