package main

import (
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/provenance"
)

func TestAttestations(t *testing.T) {
	implied := &engine.Provenance{Options: provenance.Options{Mode: provenance.Min, Version: provenance.V1}, InlineOnly: true, Implied: true}
	asked := func(mode provenance.Mode) *engine.Provenance {
		return &engine.Provenance{Options: provenance.Options{Mode: mode, Version: provenance.V1}}
	}
	full := &engine.Provenance{
		Options:    provenance.Options{Mode: provenance.Min, Version: provenance.V02, BuilderID: "https://b.test/1", Reproducible: true},
		InlineOnly: true,
	}
	for _, tt := range []struct {
		args string
		env  map[string]string
		want *engine.Provenance
		sbom string // "-" for none
	}{
		{"", nil, implied, "-"},
		{"", map[string]string{"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}, nil, "-"},
		{"", map[string]string{"BUILDX_NO_DEFAULT_ATTESTATIONS": "0"}, implied, "-"},
		{"--provenance=true", map[string]string{"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}, asked(provenance.Max), "-"},
		{"--provenance=false", nil, nil, "-"},
		{"--provenance mode=min", nil, asked(provenance.Min), "-"},
		{"--attest type=provenance,mode=full", nil, asked(provenance.Max), "-"},
		{"--attest type=provenance,mode=max --attest type=provenance,mode=min", nil, asked(provenance.Min), "-"},
		{"--attest type=provenance --provenance=false", nil, nil, "-"},
		{"--attest type=provenance,mode=min,version=v0.2,builder-id=https://b.test/1,reproducible=true,inline-only=true", nil, full, "-"},
		{"--attest type=sbom", nil, implied, ""},
		{"--sbom=true", nil, implied, ""},
		{"--sbom=false --attest type=sbom", nil, implied, "-"},
		{"--sbom generator=ghcr.io/acme/scan:1,SEVERITY=high", nil, implied, "generator=ghcr.io/acme/scan:1,SEVERITY=high"},
		{`--attest type=sbom,"ONLY=a,b"`, nil, implied, `"ONLY=a,b"`},
	} {
		w := worldOf(tt.env, "")
		req := engine.Request{Frontend: map[string]string{}}
		err := attestations(w, parse(t, w, strings.Fields(tt.args)...), &req)
		sbom, ok := req.Frontend["attest:sbom"]
		if !ok {
			sbom = "-"
		}
		if err != nil || sbom != tt.sbom || (req.Provenance == nil) != (tt.want == nil) || tt.want != nil && *req.Provenance != *tt.want {
			t.Errorf("%s %v: %+v, sbom %q, %v; want %+v, %q", tt.args, tt.env, req.Provenance, sbom, err, tt.want, tt.sbom)
		}
	}
}

// In a CI job the builder is the run.
func TestBuilderID(t *testing.T) {
	w := worldOf(map[string]string{
		"GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "acme/app", "GITHUB_RUN_ID": "7", "GITHUB_RUN_ATTEMPT": "1",
	}, "")
	for args, want := range map[string]string{
		"": "https://github.com/acme/app/actions/runs/7/attempts/1", "--provenance builder-id=x": "x",
	} {
		req := engine.Request{}
		if err := attestations(w, parse(t, w, strings.Fields(args)...), &req); err != nil || req.Provenance.BuilderID != want {
			t.Errorf("%q: %+v, %v", args, req.Provenance, err)
		}
	}
}

func TestAttestationErrors(t *testing.T) {
	for args, want := range map[string]string{
		"--attest provenance":                     "it has no type",
		"--attest type=vex":                       "none of provenance, sbom",
		"--attest mode=max":                       "none of provenance, sbom",
		"--provenance mode=most":                  "none of min, max, full",
		"--provenance version=v2":                 "none of v0.2, v1",
		"--provenance reproducible=maybe":         "not true or false",
		"--provenance mode=max,unheard=of":        "unheard",
		"--attest type=sbom,disabled=maybe":       "not true or false",
		"$BUILDX_NO_DEFAULT_ATTESTATIONS=perhaps": "BUILDX_NO_DEFAULT_ATTESTATIONS",
	} {
		env := map[string]string{}
		if v, ok := strings.CutPrefix(args, "$"); ok {
			k, x, _ := strings.Cut(v, "=")
			env[k], args = x, ""
		}
		w := worldOf(env, "")
		req := engine.Request{Frontend: map[string]string{}}
		if err := attestations(w, parse(t, w, strings.Fields(args)...), &req); err == nil || !isUsage(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s %v: %v does not say %q", args, env, err, want)
		}
	}
}
