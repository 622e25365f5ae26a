package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/engine"
)

func TestAnnotations(t *testing.T) {
	for flag, want := range map[string][]engine.Annotation{
		"a=b":                       {{On: engine.OnManifest, Key: "a", Value: "b"}},
		"a=b:c=d":                   {{On: engine.OnManifest, Key: "a", Value: "b:c=d"}},
		"index:a=b":                 {{On: engine.OnIndex, Key: "a", Value: "b"}},
		"manifest,index:a=b":        {{On: engine.OnManifest, Key: "a", Value: "b"}, {On: engine.OnIndex, Key: "a", Value: "b"}},
		"index-descriptor:a=":       {{On: engine.OnIndexDescriptor, Key: "a"}},
		"manifest[linux/arm64]:a=b": {{On: engine.OnManifest, Platform: "linux/arm64", Key: "a", Value: "b"}},
		"manifest-descriptor[linux/arm64/v8]:a=b": {
			{On: engine.OnManifestDescriptor, Platform: "linux/arm64", Key: "a", Value: "b"},
		},
	} {
		got, err := annotationsOf(buildOptions{annotations: []string{flag}})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", flag, got, err, want)
		}
	}
	for flag, want := range map[string]string{
		"a":                        "not KEY=VALUE",
		"layer:a=b":                `"layer" is none of manifest`,
		"manifest:=b":              "the key is missing",
		"index[linux/arm64]:a=b":   "index has no platform",
		"manifest[linux/arm64:a=b": "is not manifest[PLATFORM]",
		"manifest[a/b/c/d/e]:a=b":  "a/b/c/d/e",
	} {
		if _, err := annotationsOf(buildOptions{annotations: []string{flag}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", flag, err, want)
		}
	}
}

func TestAnnotationAttrs(t *testing.T) {
	e, err := output(world{}, "type=image,annotation.a.b=1,annotation-index.c=2,annotation-manifest[linux/arm64].d=3,annotation-manifest-descriptor.e=4", nil)
	want := []engine.Annotation{
		{On: engine.OnIndex, Key: "c", Value: "2"},
		{On: engine.OnManifestDescriptor, Key: "e", Value: "4"},
		{On: engine.OnManifest, Platform: "linux/arm64", Key: "d", Value: "3"},
		{On: engine.OnManifest, Key: "a.b", Value: "1"},
	}
	if err != nil || !slices.Equal(e.Annotations, want) {
		t.Errorf("%v, %v, want %v", e.Annotations, err, want)
	}
	if _, err := output(world{}, "type=image,annotation-layer.a=1", nil); err == nil || !strings.Contains(err.Error(), "layer") {
		t.Errorf("an unknown place: %v", err)
	}
}

func TestParsePlatforms(t *testing.T) {
	got, err := parsePlatforms([]string{"linux/arm64/v8, linux/amd64", "linux/arm64", "arm"})
	if want := []string{"linux/arm64", "linux/amd64", "linux/arm/v7"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	if got, err := parsePlatforms([]string{"local"}); err != nil || len(got) != 1 || !strings.HasPrefix(got[0], "linux/") {
		t.Errorf("local: %q, %v", got, err)
	}
	if _, err := parsePlatforms([]string{"a/b/c/d/e"}); err == nil {
		t.Error("a/b/c/d/e is a platform")
	}
}
