package action

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tonistiigi/go-csvvalue"

	"github.com/mayfly-build/mayfly/internal/hint"
)

// fields are those of an output or a cache: key=value,… .
type fields struct {
	all   []string
	plain string // what is no list of fields: a directory, or -
}

func parseFields(text string) (fields, error) {
	all, err := csvvalue.Fields(text, nil)
	if err != nil {
		return fields{}, err
	}
	if len(all) == 1 && !strings.Contains(all[0], "=") {
		return fields{plain: all[0]}, nil
	}
	return fields{all: all}, nil
}

// value returns the value of a field, "" when it is not there.
func (f fields) value(key string) string {
	for _, field := range f.all {
		if k, v, _ := strings.Cut(field, "="); strings.EqualFold(strings.TrimSpace(k), key) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// onlyFiles reports whether an output is local or a tar, where docker's action
// writes no image ID.
func (p *planner) onlyFiles() bool {
	return slices.ContainsFunc(p.in.outputs, func(text string) bool {
		f, err := parseFields(text)
		kind := f.value("type")
		return err == nil && (f.plain != "" || kind == "local" || kind == "tar")
	})
}

// outputs adds the outputs. One of type docker without a destination, and the
// input load, go to `docker load`.
func (p *planner) outputs() error {
	loads, cacheOnly := p.in.load, false
	for _, text := range p.in.outputs {
		f, err := parseFields(text)
		if err != nil {
			return fmt.Errorf("input outputs: %s: %w", text, err)
		}
		kind, dest := f.value("type"), f.value("dest")
		toStdout := dest == "" || dest == "-"
		switch {
		case kind == "docker" && dest == "" && f.value("tar") != "false":
			p.loaded(text)
			loads = false
			continue
		case kind == "cacheonly":
			cacheOnly = true
			continue
		case f.plain == "-", toStdout && (kind == "tar" || kind == "oci" || kind == "docker" || kind == "local"):
			return hint.With(fmt.Errorf("input outputs: %s: dest is missing: the log is no place for files", text), "add dest=PATH")
		}
		p.add("output", text)
		p.leaves(text, "local", "tar", "oci", "docker")
	}
	if loads {
		p.loaded("type=docker")
	}
	if !p.in.push && !cacheOnly && len(p.in.outputs) == 0 && !loads && len(p.in.tags) > 0 {
		p.note(Info, "the image is neither pushed nor loaded: push: true or load: true does that")
	}
	return nil
}

// loaded adds an output for `docker load`.
func (p *planner) loaded(text string) {
	file := filepath.Join(p.job.Tmp, fmt.Sprintf("load-%d.tar", len(p.Load)+1))
	p.Load = append(p.Load, file)
	p.add("output", text+","+quoted("dest="+file))
}

// leaves notes where an output or a cache of one of the kinds is left.
func (p *planner) leaves(text string, kinds ...string) {
	f, err := parseFields(text)
	if err != nil {
		return // mayfly build says it
	}
	switch dest := f.value("dest"); {
	case f.plain != "" && slices.Contains(kinds, "tar"): // of outputs, it is a directory
		p.Left = append(p.Left, f.plain)
	case dest != "" && slices.Contains(kinds, f.value("type")):
		p.Left = append(p.Left, dest)
	}
}
