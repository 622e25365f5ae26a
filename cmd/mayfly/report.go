package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"

	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/solver"
	"github.com/mayfly-build/mayfly/internal/hint"
)

// A place is lines of a source file.
type place struct {
	info       *pb.SourceInfo
	start, end int // lines, from 1
}

// placeOf finds where in a Dockerfile an error comes from: the step that
// failed, or what the frontend stumbled over.
func placeOf(err error) (place, bool) {
	var se *solver.StepError
	if errors.As(err, &se) {
		if p, ok := placeOfVertex(se.Vertex); ok {
			return p, true
		}
	}
	for _, s := range errdefs.Sources(err) {
		if s.Info != nil && len(s.Ranges) > 0 {
			return rangePlace(s.Info, s.Ranges), true
		}
	}
	return place{}, false
}

func placeOfVertex(v *llb.Vertex) (place, bool) {
	if len(v.Sources) == 0 {
		return place{}, false
	}
	s := v.Sources[0]
	return rangePlace(s.Info, s.Ranges), true
}

func rangePlace(info *pb.SourceInfo, ranges []*pb.Range) place {
	p := place{info: info, start: int(ranges[0].Start.GetLine()), end: int(ranges[0].End.GetLine())}
	for _, r := range ranges {
		p.start = min(p.start, int(r.Start.GetLine()))
		p.end = max(p.end, int(r.End.GetLine()))
	}
	p.end = max(p.end, p.start)
	return p
}

func (p place) String() string {
	name := p.info.GetFilename()
	if name == "" {
		name = "Dockerfile"
	}
	return fmt.Sprintf("%s:%d", name, p.start)
}

const excerptAround = 2 // lines shown above and below the one in question

// excerpt shows the lines around a place, those in question marked.
func (p place) excerpt(w io.Writer) {
	lines := bytes.Split(bytes.TrimSuffix(p.info.GetData(), []byte("\n")), []byte("\n"))
	if p.start < 1 || p.start > len(lines) {
		return
	}
	fmt.Fprintln(w, "--------------------")
	for n := max(p.start-excerptAround, 1); n <= min(p.end+excerptAround, len(lines)); n++ {
		mark := "   "
		if n >= p.start && n <= p.end {
			mark = ">>>"
		}
		fmt.Fprintf(w, "%4d | %s %s\n", n, mark, bytes.TrimSuffix(lines[n-1], []byte("\r")))
	}
	fmt.Fprintln(w, "--------------------")
}

// printError prints an error: the lines of the Dockerfile it is about, what went
// wrong, and what to do.
func printError(w io.Writer, err error) {
	text := err.Error()
	if p, ok := placeOf(err); ok {
		fmt.Fprintln(w, p)
		p.excerpt(w)
		text = p.String() + ": " + stepText(err)
	}
	fmt.Fprintf(w, "error: %s\n", strings.TrimSpace(text))
	if h := hint.Of(err); h != "" {
		fmt.Fprintf(w, "hint:  %s\n", h)
	}
}

// stepText returns an error's text, beginning with the instruction when it is
// a step's.
func stepText(err error) string {
	var se *solver.StepError
	if !errors.As(err, &se) {
		return err.Error()
	}
	name := se.Vertex.Name
	if strings.HasPrefix(name, "[") { // "[stage 2/3] RUN make": the place says the rest
		if _, rest, ok := strings.Cut(name, "] "); ok {
			name = rest
		}
	}
	return name + ": " + se.Err.Error()
}
