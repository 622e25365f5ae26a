package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"

	"github.com/mayfly-build/mayfly/engine"
)

// annotationsOf reads --annotation [PLACE[[PLATFORM]][,PLACE…]:]KEY=VALUE.
func annotationsOf(o buildOptions) ([]engine.Annotation, error) {
	var out []engine.Annotation
	for _, s := range o.annotations {
		k, v, err := keyValue("annotation", s)
		if err != nil {
			return nil, err
		}
		places, key, ok := strings.Cut(k, ":")
		if !ok {
			places, key = string(engine.OnManifest), k
		}
		if key == "" {
			return nil, usagef("--annotation %s: the key is missing", s)
		}
		for _, place := range strings.Split(places, ",") {
			a, err := annotationAt(place)
			if err != nil {
				return nil, usagef("--annotation %s: %v", s, err)
			}
			a.Key, a.Value = key, v
			out = append(out, a)
		}
	}
	return out, nil
}

// annotationAt reads PLACE or PLACE[PLATFORM].
func annotationAt(s string) (a engine.Annotation, err error) {
	place, rest, ok := strings.Cut(s, "[")
	a.On = engine.AnnotationPlace(place)
	places := []engine.AnnotationPlace{engine.OnManifest, engine.OnManifestDescriptor, engine.OnIndex, engine.OnIndexDescriptor}
	if !slices.Contains(places, a.On) {
		return a, usagef("%q is none of manifest, manifest-descriptor, index, index-descriptor", place)
	}
	if !ok {
		return a, nil
	}
	platform, after, ok := strings.Cut(rest, "]")
	if !ok || after != "" {
		return a, usagef("%q is not %s[PLATFORM]", s, place)
	}
	if a.On == engine.OnIndex || a.On == engine.OnIndexDescriptor {
		return a, usagef("%s has no platform", place)
	}
	p, err := platforms.Parse(platform)
	if err != nil {
		return a, err
	}
	a.Platform = platforms.FormatAll(platforms.Normalize(p))
	return a, nil
}

// annotationAttrs takes annotation.KEY, annotation-PLACE.KEY and
// annotation-PLACE[PLATFORM].KEY of an output.
func annotationAttrs(a *attrs) (out []engine.Annotation) {
	for _, k := range slices.Sorted(maps.Keys(a.fields)) {
		key, ok, err := exptypes.ParseAnnotationKey(k)
		if !ok {
			continue
		}
		if err != nil {
			a.fail("%s: %v", k, err)
		}
		an := engine.Annotation{On: engine.AnnotationPlace(key.Type), Key: key.Key, Value: a.fields[k]}
		if key.Platform != nil {
			an.Platform = platforms.FormatAll(platforms.Normalize(*key.Platform))
		}
		out = append(out, an)
		delete(a.fields, k)
	}
	return out
}
