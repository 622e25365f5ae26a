package main

import (
	"encoding/json"
	"strings"

	"github.com/containerd/platforms"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/explain"
)

// writeMetadata writes what was built, with buildx's keys and our own under
// "mayfly.".
func writeMetadata(path string, res *engine.Result) error {
	m := map[string]any{
		"buildx.build.ref": "mayfly/mayfly/" + res.Ref,
		"mayfly.steps":     steps(res),
		"mayfly.bytes":     map[string]int64{"pulled": res.BytesIn, "pushed": res.BytesOut},
		"mayfly.cache":     cacheOutcomes(res),
		"mayfly.seconds":   res.Seconds,
	}
	if len(res.Warnings) > 0 {
		m["mayfly.warnings"] = res.Warnings
	}
	if res.Descriptor != nil {
		m["containerimage.digest"] = res.Digest
		if res.Config != "" {
			m["containerimage.config.digest"] = res.Config
		}
		m["containerimage.descriptor"] = res.Descriptor
		m["mayfly.images"] = platformImages(res)
		if len(res.Names) > 0 {
			m["image.name"] = strings.Join(res.Names, ",")
		}
	}
	for _, p := range res.Provenance {
		key := "buildx.build.provenance"
		if p.Platform != "" {
			key += "/" + p.Platform
		}
		m[key] = p.Predicate
	}
	if res.Manifest != nil {
		m["cache.manifest"] = res.Manifest
	}
	dt, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return writeWhole(path, append(dt, '\n'))
}

// An imageEntry is the image for one platform in the metadata file.
type imageEntry struct {
	Platform string `json:"platform"`
	Digest   string `json:"digest"`       // of the manifest
	Config   string `json:"configDigest"` // of the image config
	Size     int64  `json:"size"`         // bytes as stored
}

func platformImages(res *engine.Result) []imageEntry {
	out := []imageEntry{}
	for _, i := range res.Images {
		out = append(out, imageEntry{platforms.FormatAll(i.Platform), i.Digest.String(), i.Config.String(), i.Size})
	}
	return out
}

// A stepEntry is a step in the metadata file.
type stepEntry struct {
	Name    string  `json:"name"`
	Digest  string  `json:"digest"`
	Cached  bool    `json:"cached"`
	Seconds float64 `json:"seconds"`

	Why *explain.Reason `json:"why,omitempty"` // of one that ran
}

// listedFiles is how many changed files a reason lists in the metadata file;
// `mayfly debug why` has the others.
const listedFiles = 20

func steps(res *engine.Result) []stepEntry {
	out := []stepEntry{}
	for _, s := range res.Steps {
		e := stepEntry{Name: s.Name, Digest: s.Digest.String(), Cached: s.Cached, Seconds: s.Seconds}
		if s.Reason != nil {
			e.Why = s.Reason.Brief(listedFiles)
		}
		out = append(out, e)
	}
	return out
}

// A cacheEntry is a cache in the metadata file.
type cacheEntry struct {
	Name    string  `json:"name"`
	Action  string  `json:"action"` // import or export
	Outcome string  `json:"outcome"`
	Reason  string  `json:"reason,omitempty"`
	Hint    string  `json:"hint,omitempty"`
	Blobs   int     `json:"blobs,omitempty"`
	Bytes   int64   `json:"bytes,omitempty"`
	Seconds float64 `json:"seconds"`
}

func cacheOutcomes(res *engine.Result) []cacheEntry {
	out := []cacheEntry{}
	for _, c := range res.Caches {
		e := cacheEntry{Name: c.Name, Action: "import", Outcome: c.Outcome, Reason: c.Reason, Hint: c.Hint, Blobs: c.Blobs, Bytes: c.Bytes, Seconds: c.Seconds}
		if c.Export {
			e.Action = "export"
		}
		out = append(out, e)
	}
	return out
}
