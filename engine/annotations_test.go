package engine

import (
	"maps"
	"strings"
	"testing"

	"github.com/moby/buildkit/exporter/containerimage/exptypes"
)

func TestAnnotations(t *testing.T) {
	amd, arm := &target{platform: exptypes.Platform{ID: "linux/amd64"}}, &target{platform: exptypes.Platform{ID: "linux/arm64"}}
	o := Output{Kind: OutputImage, Annotations: []Annotation{
		{On: OnManifest, Platform: "linux/arm64", Key: "a", Value: "arm"},
		{On: OnManifest, Key: "a", Value: "all"}, {On: OnManifest, Key: "b", Value: "1"}, {On: OnManifest, Key: "b", Value: "2"},
		{On: OnIndex, Key: "i", Value: "x"}, {On: OnIndexDescriptor, Key: "j", Value: "y"},
	}}
	for _, tt := range []struct {
		on   AnnotationPlace
		t    *target
		want map[string]string
	}{
		{OnManifest, amd, map[string]string{"a": "all", "b": "2"}},
		{OnManifest, arm, map[string]string{"a": "arm", "b": "2"}},
		{OnManifestDescriptor, arm, map[string]string{}},
		{OnIndex, nil, map[string]string{"i": "x"}},
		{OnIndexDescriptor, nil, map[string]string{"j": "y"}},
	} {
		if got := o.annotations(tt.on, tt.t); !maps.Equal(got, tt.want) {
			t.Errorf("%s of %v: %v, want %v", tt.on, tt.t, got, tt.want)
		}
	}
	both := &product{targets: []*target{amd, arm}, multi: true}
	one := &product{targets: []*target{amd}}
	if err := o.checkAnnotations(true, both); err != nil {
		t.Error(err)
	}
	for name, tt := range map[string]struct {
		o     Output
		index bool
		p     *product
		want  string
	}{
		"no index":    {Output{Annotations: o.Annotations[4:]}, false, one, "has no index"},
		"platform":    {Output{Annotations: o.Annotations[:1]}, true, one, "no image is built for linux/arm64"},
		"media types": {Output{Annotations: o.Annotations[4:], DockerTypes: true}, true, both, "oci-mediatypes=false"},
		"no key":      {Output{Annotations: []Annotation{{On: OnManifest}}}, true, both, "no key"},
	} {
		if err := tt.o.checkAnnotations(tt.index, tt.p); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (Output{Kind: OutputLocal, Annotations: o.Annotations}).checkAnnotations(false, one); err != nil {
		t.Errorf("files have no annotations, and need none: %v", err)
	}
}

func TestCarries(t *testing.T) {
	implied := &Provenance{InlineOnly: true, Implied: true}
	inline, asked := &Provenance{InlineOnly: true}, &Provenance{}
	for name, tt := range map[string]struct {
		o                      Output
		implied, inline, asked bool
	}{
		"pushed":      {Output{Kind: OutputImage, Push: true}, true, true, true},
		"kept":        {Output{Kind: OutputImage}, false, true, true},
		"docker's":    {Output{Kind: OutputImage, Push: true, DockerTypes: true}, false, true, true}, // refused before
		"layout":      {Output{Kind: OutputOCI}, false, false, true},
		"layout also": {Output{Kind: OutputOCI, InlineAttestations: true}, true, true, true},
		"local":       {Output{Kind: OutputLocal}, false, false, true},
		"tar":         {Output{Kind: OutputTar}, false, false, true},
		"docker":      {Output{Kind: OutputDocker}, false, false, false},
	} {
		if implied.carries(tt.o) != tt.implied || inline.carries(tt.o) != tt.inline || asked.carries(tt.o) != tt.asked || (*Provenance)(nil).carries(tt.o) {
			t.Errorf("%s: %v %v %v", name, implied.carries(tt.o), inline.carries(tt.o), asked.carries(tt.o))
		}
	}
}
