package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
)

// A cacheList is what `mayfly cache ls` prints.
type cacheList struct {
	Cache       string     `json:"cache"`
	Refs        []cacheRef `json:"refs"`
	StoredBlobs int        `json:"storedBlobs,omitempty"`
	StoredBytes int64      `json:"storedBytes,omitempty"`
	UnusedBlobs int        `json:"unusedBlobs,omitempty"` // that no ref names
	UnusedBytes int64      `json:"unusedBytes,omitempty"`
}

// A cacheRef is one ref of a cacheList.
type cacheRef struct {
	Ref     string    `json:"ref"`
	Records int       `json:"records"`
	Steps   int       `json:"steps"` // records with a result
	Blobs   int       `json:"blobs"`
	Bytes   int64     `json:"bytes"`
	Newest  time.Time `json:"newest,omitzero"`
	Oldest  time.Time `json:"oldest,omitzero"`
	Saved   time.Time `json:"saved,omitzero"`
	Mount   string    `json:"mount,omitempty"` // id and platform, when it is that of a cache mount
	Problem string    `json:"problem,omitempty"`
}

func (l cacheList) print(w world, listsBlobs bool) error {
	t := tabwriter.NewWriter(w.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REF\tSTEPS\tBLOBS\tSIZE\tNEWEST\tOLDEST")
	for _, r := range l.Refs {
		if r.Problem != "" {
			fmt.Fprintf(t, "%s\t%s\n", r.Ref, r.Problem)
			continue
		}
		ref := r.Ref
		if r.Mount != "" {
			ref += " (" + r.Mount + ")"
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\t%s\n", ref, r.Steps, r.Blobs, units.HumanSize(float64(r.Bytes)), age(r.Newest), age(r.Oldest))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if listsBlobs {
		_, err := fmt.Fprintf(w.stdout, "\n%d blobs stored (%s), %d of them named by no ref (%s)\n", l.StoredBlobs,
			units.HumanSize(float64(l.StoredBytes)), l.UnusedBlobs, units.HumanSize(float64(l.UnusedBytes)))
		return err
	}
	return nil
}

// cacheSteps are what `mayfly cache show` prints of a ref.
type cacheSteps struct {
	Ref   string      `json:"ref"`
	Steps []cacheStep `json:"steps"`
}

// A cacheStep is one result.
type cacheStep struct {
	Step    string    `json:"step"`
	Layer   string    `json:"layer"`
	Layers  int       `json:"layers"`
	Bytes   int64     `json:"bytes"` // of its own layer
	Total   int64     `json:"total"` // with those below
	Created time.Time `json:"created"`
	Keys    int       `json:"keys"`
}

func printSteps(w world, shown []cacheSteps) error {
	t := tabwriter.NewWriter(w.stdout, 0, 0, 2, ' ', 0)
	for _, c := range shown {
		fmt.Fprintf(t, "%s: %d results\nAGE\tSIZE\tTOTAL\tLAYER\tSTEP\n", c.Ref, len(c.Steps))
		for _, s := range c.Steps {
			_, hex, _ := strings.Cut(s.Layer, ":")
			fmt.Fprintf(t, "%s\t%s\t%s\t%.12s\t%s\n", age(s.Created), units.HumanSize(float64(s.Bytes)), units.HumanSize(float64(s.Total)), hex, oneLine(s.Step))
		}
	}
	return t.Flush()
}

const shownStep = 100 // characters of a step's description

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > shownStep {
		s = string(r[:shownStep-1]) + "…"
	}
	return s
}

func age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return units.HumanDuration(time.Since(t))
}
