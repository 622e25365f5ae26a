// Package steplog keeps what a build's events say of each step, for whoever tells
// it step by step.
//
//	progress.Stream ──SolveStatus──▶ Watcher ──Step, Warning──▶ action: annotations, job summary
//	                                                       └──▶ engine/progress/sections: the log of a CI job
//
// In: events in any order in which a Stream sends them. Out: values. It knows
// no CI service and prints nothing.
package steplog

import (
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
)

// A Step is what became of one vertex of a build.
type Step struct {
	Name      string
	Digest    digest.Digest
	Began     time.Time // zero when it never did
	Ended     time.Time // zero when it has not
	Spent     time.Duration
	Cached    bool
	Error     string   // "" unless it failed
	Cancelled bool     // because another one failed
	Why       string   // it ran; "" when nobody says
	Tail      []string // the end of its log, of a step that is not cached
}

// A Warning is a lint warning: a place in a source file that the frontend warns of.
type Warning struct {
	Text       string
	Detail     string
	URL        string
	File       string // as the frontend names it; "" when it is not known
	Start, End int    // lines; 0 when they are not known
	Source     string // what stands there
}

// Rule returns what the warning's text begins with, the name of the rule:
// "FromAsCasing". It is "" where the text has none.
func (w Warning) Rule() string {
	rule, _, ok := strings.Cut(w.Text, ": ")
	if !ok || strings.ContainsAny(rule, " \t\n") {
		return ""
	}
	return rule
}

// FileOf returns the path in the repository of a file that the frontend names,
// "" where that is not known. The frontend names the Dockerfile without its
// directory; dockerfile is where that is in the repository.
func FileOf(name, dockerfile string) string {
	if name != "" {
		name = path.Clean(name)
	}
	if name == "" || dockerfile == name || strings.HasSuffix(dockerfile, "/"+name) {
		return dockerfile
	}
	return name
}

// Reason returns why a step ran, without the step's own text, or the beginning
// of that, before it.
func (s Step) Reason() string {
	text := s.Name
	if _, rest, ok := strings.Cut(text, "] "); ok {
		text = rest
	}
	if rest, ok := strings.CutPrefix(s.Why, text+": "); ok {
		return rest
	}
	if begin, rest, ok := strings.Cut(s.Why, "…: "); ok && strings.HasPrefix(text, begin) {
		return rest
	}
	return s.Why
}

// IsInstruction reports whether a step is one of a Dockerfile.
func (s Step) IsInstruction() bool {
	stage, _, ok := strings.Cut(s.Name, "]")
	return ok && strings.HasPrefix(stage, "[") && stage != "[internal" && !strings.HasSuffix(stage, " internal") // "[linux/arm64 internal]"
}

// A Watcher keeps what the progress of a build says. Its methods may be called
// from several goroutines at once.
type Watcher struct {
	mu       sync.Mutex
	steps    map[digest.Digest]*watched
	order    []*watched
	warnings []Warning
}

type watched struct {
	Step
	part string // of a line whose end has not come
}

const (
	tailLines = 20   // kept of a step's log
	tailLine  = 2000 // bytes of a line
)

// Read takes an event; it is a sink of a progress.Stream.
func (w *Watcher) Read(st *client.SolveStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range st.Vertexes {
		w.step(v.Digest).vertex(v)
	}
	for _, l := range st.Logs {
		w.step(l.Vertex).log(string(l.Data))
	}
	for _, warn := range st.Warnings {
		if l := warningOf(warn); !slices.Contains(w.warnings, l) { // the frontend may run twice
			w.warnings = append(w.warnings, l)
		}
	}
}

func (w *Watcher) step(d digest.Digest) *watched {
	if s, ok := w.steps[d]; ok {
		return s
	}
	if w.steps == nil {
		w.steps = map[digest.Digest]*watched{}
	}
	s := &watched{Step: Step{Digest: d}}
	w.steps[d] = s
	w.order = append(w.order, s)
	return s
}

func (s *watched) vertex(v *client.Vertex) {
	s.Name, s.Cached, s.Error = v.Name, v.Cached, v.Error
	s.Cancelled = strings.HasSuffix(v.Error, "context canceled")
	if v.Started != nil && (s.Began.IsZero() || v.Started.Before(s.Began)) {
		s.Began = *v.Started
	}
	if v.Completed != nil && v.Started != nil && v.Completed.After(s.Ended) {
		s.Ended = *v.Completed
		s.Spent += v.Completed.Sub(*v.Started)
	}
}

// log keeps the last lines. The engine says in one why a step runs.
func (s *watched) log(data string) {
	for line := range strings.Lines(s.part + data) {
		if !strings.HasSuffix(line, "\n") {
			s.part = line[:min(len(line), tailLine)]
			return
		}
		line = strings.TrimRight(line, "\r\n")
		if why, ok := strings.CutPrefix(line, "why: "); ok && s.Why == "" {
			s.Why = why
			continue
		}
		s.Tail = append(s.Tail, line[:min(len(line), tailLine)])
		if n := len(s.Tail) - tailLines; n > 0 {
			s.Tail = slices.Delete(s.Tail, 0, n)
		}
	}
	s.part = ""
}

func warningOf(v *client.VertexWarning) Warning {
	l := Warning{Text: string(v.Short), URL: v.URL}
	var detail []string
	for _, d := range v.Detail {
		detail = append(detail, string(d))
	}
	l.Detail = strings.Join(detail, "\n")
	if v.SourceInfo != nil {
		l.File = v.SourceInfo.Filename
	}
	for _, r := range v.Range {
		start, end := int(r.GetStart().GetLine()), int(r.GetEnd().GetLine())
		if l.Start == 0 || start < l.Start {
			l.Start = start
		}
		l.End = max(l.End, end, start)
	}
	l.Source = lines(v.SourceInfo.GetData(), l.Start, l.End)
	return l
}

// lines returns the lines from start to end of a file, "" when it has none
// there.
func lines(data []byte, start, end int) string {
	all := strings.Split(string(data), "\n")
	if start < 1 || start > len(all) {
		return ""
	}
	return strings.Join(all[start-1:min(end, len(all))], "\n")
}

// Steps returns the steps in the order in which they were seen first.
func (w *Watcher) Steps() []Step {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []Step
	for _, s := range w.order {
		c := s.Step
		c.Tail = slices.Clone(s.Tail)
		if s.part != "" {
			c.Tail = append(c.Tail, s.part)
		}
		out = append(out, c)
	}
	return out
}

// Warnings returns the lint warnings.
func (w *Watcher) Warnings() []Warning {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.warnings)
}
