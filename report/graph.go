package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// A graph is the vertices of a build and their inputs, drawn from left to
// right: a box for each stage of the Dockerfile and for each source, in which
// every step has a line, or a cell when there are many. So there are as many
// boxes as a person has written stages, whatever the number of steps.
// Lengths are in pixels.
type graph struct {
	W, H  int
	Boxes []*graphBox
	Edges []graphEdge
}

type graphBox struct {
	X, Y, W, H int
	Title, Sub string
	Source     bool
	Lines      []graphLine
	Cells      []graphCell

	steps   []*stepBox
	column  int
	parents []*graphBox
	center  float64 // of its parents
	used    int     // number of the first step that uses it
}

type graphLine struct {
	Y    int
	Step *stepBox
	Text string
}

type graphCell struct {
	X, Y int
	Step *stepBox
}

// A graphEdge goes from a box to a step that uses what the box makes.
type graphEdge struct {
	Path string
	Far  bool // it passes other columns
}

const (
	boxWidth   = 272
	boxHead    = 40 // title and counts
	lineHeight = 19
	cellSize   = 13
	cellsInRow = (boxWidth - 24) / cellSize
	columnGap  = 64
	rowGap     = 16
	maxListed  = 12 // steps that a box lists; more are cells, and the slowest are listed
	slowest    = 3
	lineText   = 36 // characters
	titleText  = 32
	margin     = 4
)

// graph draws the vertices. Steps that are none, such as exports, are left out.
func (r *Recorder) graph(boxes map[digest.Digest]*stepBox) *graph {
	used := map[*stepBox]bool{}
	for _, s := range boxes {
		for _, in := range s.Uses {
			used[in] = true
		}
	}
	g := &graph{}
	of := map[*stepBox]*graphBox{}
	byKey := map[string]*graphBox{}
	for _, rec := range r.order {
		s := boxes[rec.digest]
		if s == nil || len(rec.inputs) == 0 && !used[s] {
			continue
		}
		key := "stage " + stageName(s.Stage)
		if len(rec.inputs) == 0 || s.Stage == "" {
			key = "vertex " + string(rec.digest)
		}
		b := byKey[key]
		if b == nil {
			b = &graphBox{Title: stageName(s.Stage), Source: len(rec.inputs) == 0}
			byKey[key] = b
			g.Boxes = append(g.Boxes, b)
		}
		b.steps = append(b.steps, s)
		of[s] = b
	}
	if len(g.Boxes) == 0 {
		return nil
	}
	for _, b := range g.Boxes {
		b.fill()
		for _, s := range b.steps {
			for _, in := range s.Uses {
				p := of[in]
				if p == nil || p == b {
					continue
				}
				if !slices.Contains(b.parents, p) {
					b.parents = append(b.parents, p)
				}
				if p.used == 0 || s.Number < p.used {
					p.used = s.Number
				}
			}
		}
	}
	g.layers()
	g.place()
	g.connect(of)
	return g
}

// fill sets what a box shows, and its height.
func (b *graphBox) fill() {
	b.W = boxWidth
	first := b.steps[0]
	switch {
	case b.Source:
		b.Title = sourceTitle(first)
		b.Sub = sourceSub(first)
		b.H = boxHead
		return
	case first.Stage == "":
		b.Title = "step"
	case b.Title == "": // there is but one
		b.Title = "stage"
	}
	b.Title = clip(b.Title, titleText)
	slices.SortStableFunc(b.steps, func(x, y *stepBox) int { return cmp.Compare(x.Number, y.Number) })
	b.Sub = counts(b.steps)
	b.H = boxHead
	listed := b.steps
	if len(listed) > maxListed {
		for i, s := range b.steps {
			b.Cells = append(b.Cells, graphCell{12 + i%cellsInRow*cellSize, boxHead + i/cellsInRow*cellSize, s})
		}
		b.H += (len(b.steps)+cellsInRow-1)/cellsInRow*cellSize + 6
		listed = notable(b.steps)
	}
	for _, s := range listed {
		b.Lines = append(b.Lines, graphLine{b.H + lineHeight/2, s, clip(s.Text, lineText)})
		b.H += lineHeight
	}
	b.H += 6
}

// notable returns the steps that failed, and those that took longest.
func notable(all []*stepBox) []*stepBox {
	some := slices.DeleteFunc(slices.Clone(all), func(s *stepBox) bool { return s.State == cached || s.State == notRun })
	slices.SortStableFunc(some, func(a, b *stepBox) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(b.took, a.took))
	})
	return some[:min(len(some), slowest)]
}

func rank(s *stepBox) int {
	if s.State == failed {
		return 0
	}
	return 1
}

// counts tells of many steps in a few words.
func counts(steps []*stepBox) string {
	n := map[stepState]int{}
	var took time.Duration
	for _, s := range steps {
		n[s.State]++
		took += s.took
	}
	parts := []string{fmt.Sprintf("%d steps", len(steps))}
	if len(steps) == 1 {
		parts[0] = "1 step"
	}
	for _, st := range []stepState{cached, ran, failed, stopped} {
		switch {
		case n[st] == 0:
		case n[st] == len(steps) && n[st] > 1:
			parts = append(parts, "all "+string(st))
		case n[st] == len(steps):
			parts = append(parts, string(st))
		default:
			parts = append(parts, fmt.Sprintf("%d %s", n[st], st))
		}
	}
	if took > 0 {
		parts = append(parts, duration(took))
	}
	return strings.Join(parts, " · ")
}

// sourceTitle is what a source reads.
func sourceTitle(s *stepBox) string {
	text := strings.TrimPrefix(s.Text, "FROM ")
	if text == contextName {
		return "build context"
	}
	name, _, _ := strings.Cut(text, "@sha256:")
	if i := strings.LastIndexByte(name, '/'); len(name) > titleText && i >= 0 {
		name = "…" + name[i:]
	}
	return clip(name, titleText)
}

func sourceSub(s *stepBox) string {
	sub := "source · " + string(s.State)
	if s.Spent != "" {
		sub += " · " + s.Spent
	}
	return sub
}

func clip(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return strings.TrimRight(string(r[:n-1]), " ") + "…"
}

// layers gives each box a column to the right of all that it uses; a source
// stands next to who uses it first.
func (g *graph) layers() {
	const unknown, open = -1, -2
	for _, b := range g.Boxes {
		b.column = unknown
	}
	var visit func(b *graphBox) int
	visit = func(b *graphBox) int {
		switch b.column {
		case open: // stages that share steps may use each other: one edge then goes back
			return -1
		case unknown:
			b.column = open
			column := 0
			for _, p := range b.parents {
				column = max(column, visit(p)+1)
			}
			b.column = column
		}
		return b.column
	}
	for _, b := range g.Boxes {
		visit(b)
	}
	for _, src := range g.Boxes {
		if len(src.parents) > 0 {
			continue
		}
		nearest := -1
		for _, b := range g.Boxes {
			if slices.Contains(b.parents, src) && (nearest < 0 || b.column < nearest) {
				nearest = b.column
			}
		}
		src.column = max(0, nearest-1)
	}
}

// place sets where the boxes stand: each as near to what it uses as the others
// in its column allow.
func (g *graph) place() {
	last := 0
	for _, b := range g.Boxes {
		last = max(last, b.column)
	}
	for column := 0; column <= last; column++ {
		var here []*graphBox
		for _, b := range g.Boxes {
			if b.column == column {
				here = append(here, b)
			}
		}
		for _, b := range here {
			n, sum := 0, 0.0
			for _, p := range b.parents {
				if p.column < column {
					n++
					sum += float64(p.Y) + float64(p.H)/2
				}
			}
			if b.center = 0; n > 0 {
				b.center = sum / float64(n)
			}
		}
		slices.SortStableFunc(here, func(a, b *graphBox) int { return cmp.Or(cmp.Compare(a.center, b.center), cmp.Compare(a.used, b.used)) })
		y := margin
		for _, b := range here {
			b.X = margin + column*(boxWidth+columnGap)
			b.Y = max(y, int(b.center)-b.H/2)
			y = b.Y + b.H + rowGap
			g.H = max(g.H, b.Y+b.H+margin)
			g.W = max(g.W, b.X+b.W+margin)
		}
	}
}

// connect draws an edge for each use of what another box makes, down to the
// line of the step that uses it.
func (g *graph) connect(of map[*stepBox]*graphBox) {
	seen := map[string]bool{}
	for _, b := range g.Boxes {
		y := map[*stepBox]int{}
		for _, l := range b.Lines {
			y[l.Step] = l.Y
		}
		for _, s := range b.steps {
			for _, in := range s.Uses {
				from := of[in]
				if from == nil || from == b {
					continue
				}
				to := y[s]
				if to == 0 || len(b.Cells) > 0 {
					to = boxHead / 2
				}
				path := curve(from.X+from.W, from.Y+boxHead/2, b.X, b.Y+to)
				if !seen[path] {
					seen[path] = true
					g.Edges = append(g.Edges, graphEdge{path, b.column > from.column+1})
				}
			}
		}
	}
}

func curve(x1, y1, x2, y2 int) string {
	bend := max((x2-x1)/2, columnGap/2)
	return fmt.Sprintf("M%d %dC%d %d %d %d %d %d", x1, y1, x1+bend, y1, x2-bend, y2, x2, y2)
}
