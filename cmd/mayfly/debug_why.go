package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/explain"
	"github.com/mayfly-build/mayfly/internal/hint"
)

// whyOptions are the options of mayfly debug why.
type whyOptions struct {
	root, build, metadata string
	json                  bool
	step                  string // number or part of the name; "" for all
}

func parseWhy(w world, args []string) (whyOptions, error) {
	var o whyOptions
	f := pflag.NewFlagSet("mayfly debug why", pflag.ContinueOnError)
	f.SetOutput(w.stderr)
	f.StringVar(&o.root, "root", "", "the state `DIR` of the build (default $XDG_CACHE_HOME/mayfly)")
	f.StringVar(&o.build, "build", "", "the build: the last part of buildx.build.ref in its metadata `REF` (default the last build in which a step ran)")
	f.StringVar(&o.metadata, "metadata", "", "the metadata `FILE` of the build, which is enough without the state directory")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.Usage = func() {
		fmt.Fprintf(w.stderr, "Usage: mayfly debug why [OPTIONS] [STEP]\n\n"+
			"Says why the steps of a build ran; with a STEP (its number, or a part of its\nname) all that differed.\n\nOptions:\n%s", f.FlagUsages())
	}
	if err := f.Parse(args); err != nil {
		return o, hint.With(usageError{err}, "`mayfly debug why --help` lists the options")
	}
	if f.NArg() > 1 {
		return o, usagef("mayfly debug why takes one STEP, %d are given", f.NArg())
	}
	if o.build != "" && o.metadata != "" {
		return o, usagef("mayfly debug why takes --build or --metadata, not both")
	}
	o.step = f.Arg(0)
	if o.root == "" {
		o.root = defaultRoot(w)
	}
	return o, nil
}

// A ranStep is a step that ran, and why.
type ranStep struct {
	Number int             `json:"number"`
	Name   string          `json:"name"`
	Where  string          `json:"where,omitempty"`
	Why    *explain.Reason `json:"why"`
}

func debugWhy(w world, args []string) error {
	o, err := parseWhy(w, args)
	if err != nil {
		if isHelp(err) {
			return nil
		}
		return err
	}
	steps, err := ranSteps(o)
	if err != nil {
		return err
	}
	if o.step != "" {
		if steps = pickSteps(steps, o.step); len(steps) == 0 {
			return hint.With(fmt.Errorf("no step that ran is number %q or has that in its name", o.step), "`mayfly debug why` without a STEP lists them")
		}
	}
	switch {
	case o.json:
		enc := json.NewEncoder(w.stdout)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(steps)
	case o.step != "":
		return printReasons(w, steps)
	}
	t := tabwriter.NewWriter(w.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "STEP\tAT\tWHY")
	for _, s := range steps {
		fmt.Fprintf(t, "%d\t%s\t%s\n", s.Number, dash(s.Where), s.Why.Text)
	}
	return t.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// ranSteps returns the steps of a build that ran: as the state dir knows them,
// or else the metadata file.
func ranSteps(o whyOptions) ([]ranStep, error) {
	var known []ranStep
	ref := o.build
	if o.metadata != "" {
		var err error
		if ref, known, err = fromMetadata(o.metadata); err != nil {
			return nil, err
		}
	}
	if ref == "" {
		refs, err := engine.LastBuilds(o.root)
		if err != nil {
			return nil, err
		}
		if len(refs) == 0 {
			return nil, hint.With(fmt.Errorf("%s has no record of a build", o.root), "give the state directory of the build with --root, or its metadata file with --metadata")
		}
		ref = refs[0]
	}
	ref = path.Base(ref)
	dt, err := os.ReadFile(engine.RecordsFile(o.root, ref))
	if errors.Is(err, fs.ErrNotExist) {
		if o.metadata != "" {
			return known, nil
		}
		return nil, hint.With(fmt.Errorf("%s has no record of build %s", o.root, ref), "builds in which no step ran leave none; of the others the last 50 are kept")
	}
	if err != nil {
		return nil, err
	}
	sets, err := explain.Decode(dt)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", ref, err)
	}
	var steps []ranStep
	for _, r := range sets[0].Steps {
		if r.Why != nil {
			steps = append(steps, ranStep{len(steps) + 1, r.Name, r.Where, r.Why})
		}
	}
	return steps, nil
}

func fromMetadata(file string) (ref string, steps []ranStep, err error) {
	dt, err := os.ReadFile(file)
	if err != nil {
		return "", nil, err
	}
	var m struct {
		Ref   string      `json:"buildx.build.ref"`
		Steps []stepEntry `json:"mayfly.steps"`
	}
	if err := json.Unmarshal(dt, &m); err != nil {
		return "", nil, fmt.Errorf("metadata file %s: %w", file, err)
	}
	for _, s := range m.Steps {
		if s.Why != nil {
			steps = append(steps, ranStep{Number: len(steps) + 1, Name: s.Name, Why: s.Why})
		}
	}
	return m.Ref, steps, nil
}

func pickSteps(all []ranStep, step string) (some []ranStep) {
	if n, err := strconv.Atoi(step); err == nil && n >= 1 && n <= len(all) {
		return all[n-1 : n]
	}
	for _, s := range all {
		if strings.Contains(s.Name, step) {
			some = append(some, s)
		}
	}
	return some
}

func printReasons(w world, steps []ranStep) error {
	for i, s := range steps {
		if i > 0 {
			fmt.Fprintln(w.stdout)
		}
		fmt.Fprintf(w.stdout, "%d  %s\n", s.Number, explain.OneLine(s.Name))
		if s.Where != "" {
			fmt.Fprintf(w.stdout, "   %s\n", s.Where)
		}
		if _, err := fmt.Fprint(w.stdout, s.Why.Full("   ")); err != nil {
			return err
		}
	}
	return nil
}
