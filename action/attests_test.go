package action

import (
	"slices"
	"strings"
	"testing"
)

func TestAttests(t *testing.T) {
	const id = ",builder-id=https://github.com/acme/app/actions/runs/7/attempts/1"
	public := `{"repository": {"private": false}}`
	for name, tt := range map[string]struct {
		inputs map[string]string
		event  string
		want   []string
	}{
		"nothing":        {nil, public, []string{"type=provenance,mode=max" + id}},
		"private":        {nil, `{"repository": {"private": true}}`, []string{"type=provenance,mode=min,inline-only=true" + id}},
		"no event":       {nil, "", []string{"type=provenance,mode=max" + id}},
		"half an event":  {nil, `{"repository": {"private": true}`, []string{"type=provenance,mode=max" + id}},
		"loaded":         {map[string]string{"load": "true"}, public, nil},
		"to docker":      {map[string]string{"outputs": "type=docker,dest=x"}, public, nil},
		"turned off":     {map[string]string{"$BUILDX_NO_DEFAULT_ATTESTATIONS": "true"}, public, nil},
		"true":           {map[string]string{"provenance": "true", "$BUILDX_NO_DEFAULT_ATTESTATIONS": "true"}, public, []string{"type=provenance" + id}},
		"false":          {map[string]string{"provenance": "false"}, public, []string{"type=provenance,disabled=true"}},
		"attributes":     {map[string]string{"provenance": "mode=min"}, public, []string{"type=provenance,mode=min" + id}},
		"builder":        {map[string]string{"provenance": "mode=min,builder-id=me"}, public, []string{"type=provenance,mode=min,builder-id=me"}},
		"sbom":           {map[string]string{"sbom": "true", "provenance": "false"}, public, []string{"type=sbom", "type=provenance,disabled=true"}},
		"no sbom":        {map[string]string{"sbom": "false", "provenance": "false"}, public, []string{"type=sbom,disabled=true", "type=provenance,disabled=true"}},
		"generator":      {map[string]string{"sbom": "generator=a/b", "provenance": "false"}, public, []string{"type=sbom,generator=a/b", "type=provenance,disabled=true"}},
		"attests":        {map[string]string{"attests": "type=sbom\ntype=provenance,mode=min"}, public, []string{"type=sbom", "type=provenance,mode=min" + id}},
		"attests, input": {map[string]string{"attests": "type=sbom,generator=a/b\ntype=provenance,mode=min", "provenance": "mode=max", "sbom": "true"}, public, []string{"type=sbom", "type=provenance,mode=max" + id}},
		"disabled":       {map[string]string{"attests": "type=provenance,disabled=true"}, public, []string{"type=provenance,disabled=true"}},
	} {
		env := map[string]string{
			"GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "acme/app", "GITHUB_SHA": "abc",
			"GITHUB_RUN_ID": "7", "GITHUB_RUN_ATTEMPT": "1", "GITHUB_EVENT_PATH": "event.json",
		}
		for k, v := range tt.inputs {
			if name, ok := strings.CutPrefix(k, "$"); ok {
				env[name] = v
			} else {
				env["INPUT_"+strings.ToUpper(k)] = v
			}
		}
		p, err := New(Config{Getenv: lookup(env), ReadFile: func(string) ([]byte, error) { return []byte(tt.event), nil }, Tmp: "/tmp/step"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for i, a := range p.Args {
			if a == "--attest" {
				got = append(got, p.Args[i+1])
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	if _, err := New(Config{Getenv: lookup(map[string]string{"INPUT_ATTESTS": "mode=max", "INPUT_CONTEXT": "."})}); err == nil || !strings.Contains(err.Error(), "input attests") {
		t.Errorf("an entry without a type: %v", err)
	}
}
