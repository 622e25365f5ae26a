package action

import (
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

// A LintWarning is a place in a source file that the frontend warns of.
type LintWarning struct {
	Text       string
	Detail     string
	URL        string
	File       string // as the frontend names it; "" when it is not known
	Start, End int    // lines; 0 when they are not known
}

// A Watcher keeps what the progress of a build says. Its methods may be called
// from several goroutines at once.
type Watcher struct {
	mu       sync.Mutex
	steps    map[digest.Digest]*watched
	order    []*watched
	warnings []LintWarning
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
		if l := lintWarning(warn); !slices.Contains(w.warnings, l) { // the frontend may run twice
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

func lintWarning(v *client.VertexWarning) LintWarning {
	l := LintWarning{Text: string(v.Short), URL: v.URL}
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
	return l
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
func (w *Watcher) Warnings() []LintWarning {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.warnings)
}
