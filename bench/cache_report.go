package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// A cacheReport gathers what exports and imports took.
type cacheReport struct {
	o       options
	begin   time.Time
	rows    []cacheRow
	samples map[cacheCell][]sample
}

type cacheRow struct {
	context cacheContext
	service string
	delay   time.Duration
}

type cacheCell struct {
	dir, service, way string
	delay             time.Duration
	tool              string
}

func (r *cacheReport) add(c cacheContext, service, way string, delay time.Duration, tool string, s sample) {
	if r.samples == nil {
		r.samples = map[cacheCell][]sample{}
	}
	row := cacheRow{c, service, delay}
	if !slices.Contains(r.rows, row) {
		r.rows = append(r.rows, row)
	}
	cell := cacheCell{c.dir, service, way, delay, tool}
	r.samples[cell] = append(r.samples[cell], s)
}

func (r *cacheReport) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Caches: mayfly and BuildKit v0.33.1 side by side\n\n")
	fmt.Fprintf(&b, "`make bench-cache`, %s, %s. Medians of %d runs in which the tools took turns, in seconds (fastest–slowest in brackets), BuildKit's boot not counted.\n\n",
		r.begin.UTC().Format("2006-01-02"), machineName(), r.o.runs)
	b.WriteString("*export*: a build whose steps are all in the state directory, with `mode=max` to an empty place: what the cache costs, with nothing to overlap with.\n" +
		"*import*: a build on an empty state directory that has all but the last step in the cache: index, download, unpacking, one `RUN`.\n" +
		"Each tool reads what it wrote. Both compress with gzip. The services run on the same cores: docker-registry, a directory, versitygw,\nazurite, and a GitHub cache service (protocol v2) over azurite.\n")
	for _, way := range []string{"export", "import"} {
		fmt.Fprintf(&b, "\n## %s\n\n| cache of | service | delay a request |", way)
		for _, t := range r.o.tools {
			fmt.Fprintf(&b, " %s |", t)
		}
		b.WriteString(" mayfly / buildkit | peak memory, MiB |\n|---|---|---|" + strings.Repeat("---|", len(r.o.tools)+2) + "\n")
		last := ""
		for _, row := range r.rows {
			what := ""
			if row.context.what != last {
				last, what = row.context.what, "**"+row.context.what+"**"
			}
			fmt.Fprintf(&b, "| %s | %s | %v |", what, row.service, row.delay)
			var peaks []string
			cell := cacheCell{row.context.dir, row.service, way, row.delay, ""}
			for _, t := range r.o.tools {
				cell.tool = t
				fmt.Fprintf(&b, " %s |", seconds(r.samples[cell]))
				peaks = append(peaks, fmt.Sprint(peak(r.samples[cell])>>20))
			}
			ours, theirs := cell, cell
			ours.tool, theirs.tool = "mayfly", "buildkit"
			fmt.Fprintf(&b, " %s | %s |\n", ratio(median(r.samples[ours]), median(r.samples[theirs])), strings.Join(peaks, " / "))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// peak is the most memory of all samples, in bytes.
func peak(samples []sample) (n int64) {
	for _, s := range samples {
		n = max(n, s.peak)
	}
	return n
}
