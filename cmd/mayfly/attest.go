package main

import (
	"os"
	"strconv"
	"strings"

	"github.com/tonistiigi/go-csvvalue"

	"github.com/mayfly-build/mayfly/ci"
	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/provenance"
	"github.com/mayfly-build/mayfly/internal/hint"
)

// attestations reads --attest, --provenance and --sbom, as docker buildx does:
// of several of one type the last one counts, and images that are pushed have
// provenance of mode=min unless it is turned off.
func attestations(w world, o buildOptions, req *engine.Request) error {
	req.Hidden = credentials(req.Frontend)
	byType := map[string]*attrs{}
	for _, text := range attestFlags(o) {
		a, _, err := parseAttrs("attest", text)
		if err != nil {
			return err
		}
		if a == nil {
			return usagef("--attest %s: it has no type; give type=provenance or type=sbom", text)
		}
		byType[a.oneOf("type", "", "provenance", "sbom")] = a
		if a.err != nil {
			return a.err
		}
	}
	if a := byType["sbom"]; a != nil {
		if err := sbomAttrs(a, req); err != nil {
			return err
		}
	}
	if a := byType["provenance"]; a != nil {
		return provenanceAttrs(w, a, req)
	}
	return impliedProvenance(w, req)
}

// credentials returns the values of build arguments whose names say that they
// are credentials. They are no place for one; where one is there, an attestation
// that others can read must not tell it.
func credentials(opts map[string]string) (values []string) {
	for k, v := range opts {
		if name, ok := strings.CutPrefix(k, "build-arg:"); ok && (isCredential(name) || isSignature(name)) && v != "" {
			values = append(values, v)
		}
	}
	return values
}

// attestFlags returns all flags in the form of --attest.
func attestFlags(o buildOptions) []string {
	list := append([]string(nil), o.attests...)
	for _, f := range []struct{ kind, value string }{{"provenance", o.provenance}, {"sbom", o.sbom}} {
		if f.value == "" {
			continue
		}
		if on, err := strconv.ParseBool(f.value); err == nil {
			list = append(list, "type="+f.kind+",disabled="+strconv.FormatBool(!on))
		} else {
			list = append(list, "type="+f.kind+","+f.value)
		}
	}
	return list
}

// sbomAttrs hands what is asked of an SBOM to the frontend, which runs the
// scanner.
func sbomAttrs(a *attrs, req *engine.Request) error {
	disabled := a.boolean("disabled", false)
	if a.err != nil || disabled {
		return a.err
	}
	// What else there is are parameters of the scanner, for whom the case of
	// their names counts.
	fields, err := csvvalue.Fields(a.text, nil)
	if err != nil {
		return usagef("--attest %s: %v", redact(a.text), err)
	}
	var rest []string
	for _, f := range fields {
		key, _, _ := strings.Cut(f, "=")
		if strings.EqualFold(key, "type") || strings.EqualFold(key, "disabled") {
			continue
		}
		if strings.ContainsAny(f, `,"`) {
			f = `"` + strings.ReplaceAll(f, `"`, `""`) + `"`
		}
		rest = append(rest, f)
	}
	req.Frontend["attest:sbom"] = strings.Join(rest, ",")
	return nil
}

func provenanceAttrs(w world, a *attrs, req *engine.Request) error {
	p := &engine.Provenance{}
	disabled := a.boolean("disabled", false)
	switch mode := a.oneOf("mode", "max", "min", "max", "full"); mode {
	case "full":
		p.Mode = provenance.Max
	default:
		p.Mode = provenance.Mode(mode)
	}
	p.Version = provenance.Version(a.oneOf("version", "v1", "v0.2", "v1"))
	p.BuilderID = a.str("builder-id", builderID(w))
	p.Reproducible = a.boolean("reproducible", false)
	p.InlineOnly = a.boolean("inline-only", false)
	if err := a.done(); err != nil {
		return err
	}
	if !disabled {
		req.Provenance = p
	}
	return nil
}

func impliedProvenance(w world, req *engine.Request) error {
	const name = "BUILDX_NO_DEFAULT_ATTESTATIONS"
	if v := w.env(name); v != "" {
		off, err := strconv.ParseBool(v)
		if err != nil {
			return usagef("%s: %q is not true or false", name, v)
		}
		if off {
			return nil
		}
	}
	req.Provenance = &engine.Provenance{
		Options:    provenance.Options{Mode: provenance.Min, Version: provenance.V1, BuilderID: builderID(w)},
		InlineOnly: true, Implied: true,
	}
	return nil
}

func builderID(w world) string { return ci.Detect(w.env, os.ReadFile).BuilderID() }

// recordMode reads what the metadata file is to have of the provenance.
func recordMode(w world, o buildOptions) (provenance.Mode, error) {
	const name = "BUILDX_METADATA_PROVENANCE"
	if o.metadataFile == "" {
		return "", nil
	}
	v := w.env(name)
	switch v {
	case "", "min", "true", "1":
		return provenance.Min, nil
	case "max":
		return provenance.Max, nil
	case "disabled", "false", "0":
		return "", nil
	}
	return "", hint.With(usagef("%s: %q is none of min, max, disabled", name, v), "unset it for min")
}
