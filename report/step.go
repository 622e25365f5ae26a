package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/explain"
	"github.com/mayfly-build/mayfly/engine/progress/steplog"
)

// A stepBox is a step and all that is told of it.
type stepBox struct {
	Number      int
	Name        string
	Stage, Text string // of an instruction "[build 2/5] RUN make": "build 2/5", "RUN make"
	Kind        stepKind
	State       stepState
	Spent       string // "" when it took no time
	Starts      string
	Long        bool // it took much of the build's time, or failed
	Bars        []bar
	Error       string
	Why         string // without the step's own text
	Causes      string // in full; "" when Why says it all
	Uses        []*stepBox
	Parts       []partRow
	Log         []logChunk
	LogLines    int // with those that were left out

	digest digest.Digest
	from   time.Time
	took   time.Duration
}

// ID is the anchor of a step.
func (s *stepBox) ID() string { return fmt.Sprintf("step-%d", s.Number) }

// Short is what a list has room for.
func (s *stepBox) Short() string { return clip(s.Text, shortText) }

type partRow struct{ Name, Bytes, Spent string }

// A logChunk is lines that follow each other.
type logChunk struct {
	Missing int // lines that were left out before it
	From    int // number of its first line, from 1
	Text    string
	Times   string // of each line since the step began, in milliseconds

	lines []line
}

// A stepState is what became of a step.
type stepState string

const (
	ran     stepState = "ran"
	cached  stepState = "cached"
	failed  stepState = "failed"
	stopped stepState = "stopped"
	notRun  stepState = "not run"
)

// Class is the state as the style has it.
func (s stepState) Class() string { return strings.ReplaceAll(string(s), " ", "-") }

// A stepKind is what a step does.
type stepKind string

const (
	instruction stepKind = "instruction"
	source      stepKind = "source"
	setup       stepKind = "setup" // reads the Dockerfile, asks what names mean
	cacheIn     stepKind = "cache-in"
	cacheOut    stepKind = "cache-out"
	export      stepKind = "export"
)

const (
	listedFiles = 50   // changed files that a reason lists
	maxName     = 4000 // bytes of a step's name: a RUN may have a script in it
	listedParts = 100  // of a step
	shortText   = 60   // characters
)

// stepBoxes makes the steps, in the order in which they began, and sets p's.
func (r *Recorder) stepBoxes(p *page, b Build) map[digest.Digest]*stepBox {
	var keep *stepLog
	if b.Failure != nil {
		if s := r.steps[b.Failure.Step]; s != nil {
			keep = &s.log
		}
	}
	for _, s := range r.order {
		s.log.close()
	}
	r.fit(keep)
	reasons := map[digest.Digest]engine.Step{}
	if b.Result != nil {
		for _, s := range b.Result.Steps {
			reasons[s.Digest] = s
		}
	}
	boxes := map[digest.Digest]*stepBox{}
	missing := 0
	for _, s := range r.order {
		if s.name == "" || s.name == warningsStep {
			continue
		}
		box := r.stepBox(s, b, reasons[s.digest])
		boxes[s.digest] = box
		p.Steps = append(p.Steps, box)
		missing += s.log.left
	}
	slices.SortStableFunc(p.Steps, func(a, b *stepBox) int { return a.from.Compare(b.from) })
	for i, box := range p.Steps {
		box.Number = i + 1
		for _, in := range r.steps[box.digest].inputs {
			if uses := boxes[in]; uses != nil && !slices.Contains(box.Uses, uses) {
				box.Uses = append(box.Uses, uses)
			}
		}
	}
	if missing > 0 {
		p.LogNote = fmt.Sprintf("The logs are longer than a page has: %d lines in their middle are left out.", missing)
	}
	return boxes
}

// warningsStep is the step under which the engine shows its warnings, which a
// Result has.
const warningsStep = "warnings"

func (r *Recorder) stepBox(s *recorded, b Build, told engine.Step) *stepBox {
	name := r.text(s.name)
	if len(name) > maxName {
		name = strings.ToValidUTF8(name[:maxName], "") + "…"
	}
	box := &stepBox{Name: name, State: r.stateOf(s, b.Failure), Kind: kindOf(s), digest: s.digest, Error: r.text(s.err)}
	box.Stage, box.Text = stageOf(box.Name)
	for _, run := range s.runs {
		if box.from.IsZero() || run.from.Before(box.from) {
			box.from = run.from
		}
		if to := orEnd(run.to, b.Ended); box.State != cached {
			box.took += to.Sub(run.from)
		}
	}
	if len(s.runs) > 0 {
		box.Starts = duration(box.from.Sub(r.cfg.Began))
	}
	if box.State != cached && box.State != notRun {
		box.Spent = duration(box.took)
	}
	box.Long = box.State == failed || box.took > b.Ended.Sub(r.cfg.Began)/longShare
	box.Bars = r.bars(s, box.State, b.Ended)
	box.Why = r.text(steplog.Step{Name: s.name, Why: s.why}.Reason())
	if told.Reason != nil {
		box.Why = r.text(told.Reason.Told())
		if tellsMore(told.Reason) {
			box.Causes = r.text(told.Reason.Brief(listedFiles).Full(""))
		}
	}
	for i, p := range s.listed {
		if i == listedParts {
			box.Parts = append(box.Parts, partRow{Name: fmt.Sprintf("and %d more", len(s.listed)-listedParts)})
			break
		}
		box.Parts = append(box.Parts, r.partRow(p))
	}
	box.Log, box.LogLines = s.log.chunks(r.cfg.Redact, box.from)
	return box
}

// orEnd returns t, or of what has not ended the end of the build.
func orEnd(t, ended time.Time) time.Time {
	if t.IsZero() {
		return ended
	}
	return t
}

// tellsMore reports whether there is more to a reason than its one line.
func tellsMore(r *explain.Reason) bool {
	return len(r.Causes) > 1 || len(r.Causes) == 1 && (len(r.Causes[0].Files) > 0 || len(r.Causes[0].Root) > 0 || r.Causes[0].Before != "")
}

func (r *Recorder) partRow(p *part) partRow {
	row := partRow{Name: r.text(p.id)}
	if n := max(p.current, p.total); n > 0 {
		row.Bytes = size(n)
		if p.to.IsZero() && p.current < p.total {
			row.Bytes = size(p.current) + " of " + size(p.total)
		}
	}
	if !p.from.IsZero() && !p.to.IsZero() {
		row.Spent = duration(p.to.Sub(p.from))
	}
	return row
}

func (r *Recorder) stateOf(s *recorded, f *Failure) stepState {
	var first *recorded // that failed
	if f != nil {
		first = r.steps[f.Step]
	}
	switch {
	case first == s && !f.Stopped:
		return failed
	case first != nil && s.err != "" && s.ended().After(first.ended()): // its failure ended the others
		return stopped
	case strings.HasSuffix(s.err, "context canceled"), f != nil && f.Stopped && s.err != "":
		return stopped
	case s.err != "":
		return failed
	case s.cached:
		return cached
	case len(s.runs) == 0:
		return notRun
	case s.runs[len(s.runs)-1].to.IsZero() && f != nil:
		return stopped
	}
	return ran
}

// contextName is the name of the build context.
const contextName = "load build context"

// kinds are the beginnings of the names of what the engine does beside the
// graph's vertices.
var kinds = []struct {
	prefix string
	kind   stepKind
}{
	{"resolve ", setup},
	{"importing cache ", cacheIn},
	{"restoring cache mount ", cacheIn},
	{"exporting cache ", cacheOut},
	{"exporting to ", export},
	{"pushing ", export},
}

func kindOf(s *recorded) stepKind {
	if stage, text := stageOf(s.name); stage == "internal" || strings.HasSuffix(stage, " internal") { // "linux/arm64 internal"
		if text == contextName {
			return source
		}
		return setup
	}
	for _, k := range kinds {
		if strings.HasPrefix(s.name, k.prefix) {
			return k.kind
		}
	}
	if len(s.inputs) == 0 {
		return source
	}
	return instruction
}

// stageOf takes the name of an instruction apart: "[build 2/5] RUN make".
func stageOf(name string) (stage, text string) {
	if rest, ok := strings.CutPrefix(name, "["); ok {
		if stage, text, ok = strings.Cut(rest, "] "); ok {
			return stage, text
		}
	}
	return "", name
}

// stageName is a stage without the place of an instruction in it: "build" of
// "build 2/5", "" of "2/5".
func stageName(stage string) string {
	at := strings.LastIndexByte(stage, ' ') + 1
	if n, m, ok := strings.Cut(stage[at:], "/"); ok && isNumber(n) && isNumber(m) {
		return strings.TrimSpace(stage[:at]) // numbers are aligned: "build  2/15"
	}
	return stage
}

func isNumber(s string) bool {
	_, err := strconv.Atoi(s)
	return err == nil
}

// isInstruction reports whether a step is one of a Dockerfile.
func (s *stepBox) isInstruction() bool { return steplog.Step{Name: s.Name}.IsInstruction() }
