package report

import (
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/progress/steplog"
)

// A Recorder keeps the events of one build. Its methods may be called from
// several goroutines at once.
type Recorder struct {
	cfg Config

	mu    sync.Mutex // guards what follows
	steps map[digest.Digest]*recorded
	order []*recorded     // as they were seen first
	lints steplog.Watcher // of the linter's warnings alone
	size  int             // bytes of all logs
}

// A recorded step is a vertex and what was said of it.
type recorded struct {
	digest digest.Digest
	name   string
	inputs []digest.Digest
	cached bool
	err    string
	runs   []span
	parts  map[string]*part
	listed []*part // as they were seen first
	log    stepLog
	why    string // the line of the log that says why the step runs
}

// A span is a piece of time; to is zero while it lasts.
type span struct{ from, to time.Time }

// A part is a piece of a step's work, such as a layer that is pushed.
type part struct {
	id             string
	current, total int64 // bytes
	span
}

// maxParts is how many parts of a step are kept: an import may read 10,000
// blobs.
const maxParts = 500

// NewRecorder returns a Recorder that has seen nothing.
func NewRecorder(cfg Config) *Recorder {
	if cfg.Began.IsZero() {
		cfg.Began = time.Now()
	}
	if cfg.Redact == nil {
		cfg.Redact = func(s string) string { return s }
	}
	if cfg.LogBytes == 0 {
		cfg.LogBytes = logBytes
	}
	return &Recorder{cfg: cfg, steps: map[digest.Digest]*recorded{}}
}

// Event takes an event; it is a sink of a progress.Stream.
func (r *Recorder) Event(st *client.SolveStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range st.Vertexes {
		r.step(v.Digest).vertex(v)
	}
	for _, s := range st.Statuses {
		r.step(s.Vertex).part(s)
	}
	for _, l := range st.Logs {
		r.log(l)
	}
	if len(st.Warnings) > 0 {
		r.lints.Read(&client.SolveStatus{Warnings: st.Warnings})
	}
}

func (r *Recorder) step(d digest.Digest) *recorded {
	s := r.steps[d]
	if s == nil {
		s = &recorded{digest: d, parts: map[string]*part{}}
		r.steps[d] = s
		r.order = append(r.order, s)
	}
	return s
}

func (s *recorded) vertex(v *client.Vertex) {
	s.name, s.inputs, s.cached, s.err = v.Name, v.Inputs, v.Cached, v.Error
	if v.Started == nil {
		return
	}
	if n := len(s.runs); n == 0 || !s.runs[n-1].from.Equal(*v.Started) {
		s.runs = append(s.runs, span{from: *v.Started})
	}
	if v.Completed != nil {
		s.runs[len(s.runs)-1].to = *v.Completed
	}
}

// ended is when a step ended; zero for one that has not.
func (s *recorded) ended() time.Time {
	if len(s.runs) == 0 {
		return time.Time{}
	}
	return s.runs[len(s.runs)-1].to
}

func (s *recorded) part(v *client.VertexStatus) {
	p := s.parts[v.ID]
	if p == nil {
		if len(s.parts) == maxParts {
			return
		}
		p = &part{id: v.ID}
		s.parts[v.ID] = p
		s.listed = append(s.listed, p)
	}
	p.current, p.total = v.Current, v.Total
	if v.Started != nil {
		p.from = *v.Started
	}
	if v.Completed != nil {
		p.to = *v.Completed
	}
}

// whyPrefix begins the line of a step's log in which the engine says why the
// step runs.
const whyPrefix = "why: "

func (r *Recorder) log(l *client.VertexLog) {
	s := r.step(l.Vertex)
	if text, ok := strings.CutPrefix(string(l.Data), whyPrefix); ok && s.why == "" && l.Stream == 2 && strings.HasSuffix(text, "\n") {
		s.why = strings.TrimSuffix(text, "\n")
		return
	}
	r.size += s.log.write(l.Data, l.Timestamp)
	if r.size > 2*r.cfg.LogBytes {
		r.fit(nil)
	}
}

// fit makes the logs as short as a page takes them.
func (r *Recorder) fit(keep *stepLog) {
	logs := make([]*stepLog, len(r.order))
	for i, s := range r.order {
		logs[i] = &s.log
	}
	fit(logs, r.cfg.LogBytes, keep)
	r.size = 0
	for _, l := range logs {
		r.size += l.size
	}
}
