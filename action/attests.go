package action

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/mayfly-build/mayfly/ci"
)

// The types of attestations.
const (
	provenanceType = "provenance"
	sbomType       = "sbom"
)

// attests adds what is attested, as docker's action does: what the inputs
// provenance and sbom say goes before entries of attests, and the builder is
// the run. Where nobody says anything there is provenance, of a private
// repository only what tells nothing of it.
func (p *planner) attests() error {
	set := map[string]bool{provenanceType: p.in.provenance != "", sbomType: p.in.sbom != ""}
	for _, text := range p.in.attests {
		f, err := parseFields(text)
		kind := f.value("type")
		if err != nil || kind == "" {
			return errors.New("input attests: " + text + ": it is no list of fields with a type")
		}
		if set[kind] {
			continue
		}
		if kind == provenanceType {
			text = p.withBuilder(text)
		}
		p.add("attest", text)
	}
	if p.in.sbom != "" {
		p.add("attest", attestOf(sbomType, p.in.sbom))
	}
	switch {
	case p.in.provenance != "":
		p.add("attest", p.withBuilder(attestOf(provenanceType, p.in.provenance)))
	case p.hasProvenance():
		// one of the entries
	case isSet(p.job.Getenv, "BUILDX_NO_DEFAULT_ATTESTATIONS") || p.toDocker():
	case p.job.isPrivate():
		p.add("attest", p.withBuilder("type=provenance,mode=min,inline-only=true"))
	default:
		p.add("attest", p.withBuilder("type=provenance,mode=max"))
	}
	return nil
}

// attestOf returns the argument for an input, which is a boolean or fields.
func attestOf(kind, value string) string {
	switch on, err := parseBool(value); {
	case err == nil && on:
		return "type=" + kind
	case err == nil:
		return "type=" + kind + ",disabled=true"
	}
	return "type=" + kind + "," + value
}

// withBuilder adds the builder's id to what has none.
func (p *planner) withBuilder(text string) string {
	id := ci.Detect(func(name string) string { v, _ := p.job.Getenv(name); return v }, nil).BuilderID()
	f, err := parseFields(text)
	if id == "" || err != nil || f.value("builder-id") != "" || f.value("disabled") == "true" {
		return text
	}
	return text + "," + quoted("builder-id="+id)
}

// hasProvenance reports whether an entry of attests speaks of provenance.
func (p *planner) hasProvenance() bool {
	return slices.ContainsFunc(p.in.attests, func(text string) bool {
		f, err := parseFields(text)
		return err == nil && f.value("type") == provenanceType
	})
}

// toDocker reports whether the image goes to `docker load`.
func (p *planner) toDocker() bool {
	return p.in.load || slices.ContainsFunc(p.in.outputs, func(text string) bool {
		f, err := parseFields(text)
		return err == nil && f.value("type") == "docker"
	})
}

// hasIndex reports whether the image is an index: of several platforms, or with
// attestations.
func (p *planner) hasIndex() bool {
	if len(p.in.platforms) > 1 {
		return true
	}
	return slices.ContainsFunc(p.Args, func(a string) bool {
		return (strings.HasPrefix(a, "type=provenance") || strings.HasPrefix(a, "type=sbom")) && !strings.Contains(a, "disabled=true")
	}) && !p.toDocker()
}

// isPrivate reports whether the event says that the repository is private.
func (j job) isPrivate() bool {
	var ev struct {
		Repository struct {
			Private bool `json:"private"`
		} `json:"repository"`
	}
	path, _ := j.Getenv("GITHUB_EVENT_PATH")
	if path == "" || j.ReadFile == nil {
		return false
	}
	data, err := j.ReadFile(path)
	return err == nil && json.Unmarshal(data, &ev) == nil && ev.Repository.Private
}
