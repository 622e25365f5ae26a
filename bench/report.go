package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A report gathers samples and writes them as a table.
type report struct {
	o       options
	begin   time.Time
	samples map[cell][]sample
	seen    []workload // in the order in which they were measured
}

// A cell is a row of a workload, measured with a tool.
type cell struct{ workload, row, tool string }

func newReport(o options) *report {
	return &report{o: o, begin: time.Now(), samples: map[cell][]sample{}}
}

func (r *report) add(w workload, tool string, s sample) {
	if !slices.ContainsFunc(r.seen, func(v workload) bool { return v.name == w.name }) {
		r.seen = append(r.seen, w)
	}
	c := cell{w.name, s.row, tool}
	r.samples[c] = append(r.samples[c], s)
}

func (r *report) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# mayfly and BuildKit v0.33.1 side by side\n\n")
	fmt.Fprintf(&b, "`make bench`, %s, %s. Medians of %d runs in which the tools took turns (fastest–slowest in brackets).\n", r.begin.UTC().Format("2006-01-02"), machineName(), r.o.runs)
	b.WriteString("Every measurement starts with an empty state directory. *total* and *fresh machine* hold BuildKit's boot and stop;\nthe other rows are the build alone. Both tools make an image (gzip), pushed where the row says so; caches are `type=registry,mode=max`.\n")
	if r.o.delay > 0 {
		fmt.Fprintf(&b, "Every request to the registry took %v longer.\n", r.o.delay)
	}
	b.WriteString("\n| workload | |")
	for _, t := range r.o.tools {
		fmt.Fprintf(&b, " %s, s |", t)
	}
	both := slices.Contains(r.o.tools, "buildkit") && slices.Contains(r.o.tools, "mayfly")
	if both {
		b.WriteString(" mayfly / buildkit |")
	}
	b.WriteString(" requests | received, MiB | peak memory, MiB |\n|---|---|" + strings.Repeat("---|", len(r.o.tools)))
	if both {
		b.WriteString("---|")
	}
	b.WriteString("---|---|---|\n")
	for _, w := range r.seen {
		for i, row := range w.rows {
			name := ""
			if i == 0 {
				name = fmt.Sprintf("**%s** %s", w.name, w.what)
			}
			fmt.Fprintf(&b, "| %s | %s |", name, row)
			for _, t := range r.o.tools {
				fmt.Fprintf(&b, " %s |", seconds(r.samples[cell{w.name, row, t}]))
			}
			if both {
				theirs, ours := median(r.samples[cell{w.name, row, "buildkit"}]), median(r.samples[cell{w.name, row, "mayfly"}])
				fmt.Fprintf(&b, " %s |", ratio(ours, theirs))
			}
			for _, f := range []func(sample) float64{
				func(s sample) float64 { return float64(s.requests) },
				func(s sample) float64 { return math.Round(float64(s.down)/(1<<20)*10) / 10 },
				func(s sample) float64 { return float64(s.peak >> 20) },
			} {
				fmt.Fprintf(&b, " %s |", r.each(w.name, row, f))
			}
			b.WriteString("\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// each gives a number of the first sample of every tool, "a / b"; nothing
// where it was not counted.
func (r *report) each(w, row string, f func(sample) float64) string {
	var out []string
	known := false
	for _, t := range r.o.tools {
		s := r.samples[cell{w, row, t}]
		if len(s) == 0 {
			return ""
		}
		known = known || s[0].requests > 0 || f(s[0]) > 0
		out = append(out, fmt.Sprint(f(s[0])))
	}
	if !known {
		return ""
	}
	return strings.Join(out, " / ")
}

func times(samples []sample) []time.Duration {
	var out []time.Duration
	for _, s := range samples {
		out = append(out, s.took)
	}
	slices.Sort(out)
	return out
}

func median(samples []sample) time.Duration {
	t := times(samples)
	if len(t) == 0 {
		return 0
	}
	return (t[(len(t)-1)/2] + t[len(t)/2]) / 2
}

func seconds(samples []sample) string {
	t := times(samples)
	if len(t) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.3f (%.3f–%.3f)", median(samples).Seconds(), t[0].Seconds(), t[len(t)-1].Seconds())
}

func ratio(a, b time.Duration) string {
	if a <= 0 || b <= 0 {
		return "–"
	}
	return fmt.Sprintf("**%.2f**", a.Seconds()/b.Seconds())
}

// machineName says on what the figures were taken.
func machineName() string {
	model := runtime.GOARCH
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(b), "model name"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			model = strings.TrimSpace(strings.TrimLeft(line, "\t :"))
		}
	}
	var u syscall.Utsname
	kernel := ""
	if syscall.Uname(&u) == nil {
		for _, c := range u.Release {
			if c == 0 {
				break
			}
			kernel += string(rune(c))
		}
	}
	version, _, _ := strings.Cut(kernel, "-")
	return fmt.Sprintf("%d cores of %s, Linux %s", runtime.NumCPU(), model, version)
}
