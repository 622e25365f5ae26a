package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/remotecache"
)

// caches turns --cache-from and --cache-to into the engine's imports and
// exports.
func caches(c *cacheOpener, o buildOptions, req *engine.Request) error {
	for _, list := range o.cacheFrom {
		for _, text := range refsOrSpec(list) {
			im, err := cacheFrom(c, text)
			if err != nil {
				return err
			}
			req.Imports = append(req.Imports, im)
		}
	}
	for _, list := range o.cacheTo {
		for _, text := range refsOrSpec(list) {
			ex, inline, err := cacheTo(c, text)
			if err != nil {
				return err
			}
			if inline {
				req.Inline = true
				continue
			}
			req.Exports = append(req.Exports, ex)
		}
	}
	return nil
}

// refsOrSpec splits a list of references; a list of fields is one cache.
func refsOrSpec(s string) []string {
	if strings.Contains(s, "=") {
		return []string{s}
	}
	return strings.Split(s, ",")
}

// cacheAttrs reads a cache flag; a bare reference means type=registry.
func cacheAttrs(flag, text string) (*attrs, error) {
	a, plain, err := parseAttrs(flag, text)
	if a == nil && err == nil {
		a = &attrs{flag: flag, text: text, fields: map[string]string{"type": "registry", "ref": plain}}
	}
	return a, err
}

func cacheFrom(c *cacheOpener, text string) (engine.Import, error) {
	a, err := cacheAttrs("cache-from", text)
	if err != nil {
		return engine.Import{}, err
	}
	im := engine.Import{Timeout: a.duration("timeout", 0)}
	mounts, ids := mountIDs(a, true)
	s, err := c.open(a, a.oneOf("type", "", kinds...), reading)
	if err := a.firstError(err); err != nil {
		return engine.Import{}, err
	}
	im.Name, im.Load = s.name, s.load
	if mounts {
		im.Mounts = &engine.MountsImport{Backend: s.backend, Refs: s.refs, IDs: ids}
	}
	return im, nil
}

func cacheTo(c *cacheOpener, text string) (ex engine.Export, inline bool, err error) {
	a, err := cacheAttrs("cache-to", text)
	if err != nil {
		return ex, false, err
	}
	kind := a.oneOf("type", "", append(kinds, "inline")...)
	ex.Max = a.oneOf("mode", "min", "min", "max") == "max"
	ex.FailBuild = !a.boolean("ignore-error", true)
	ex.Timeout = a.duration("timeout", 0)
	if kind == "inline" {
		return ex, true, a.done()
	}
	ex.Compression, ex.ForceCompression = compressionAttrs(a)
	ex.Merge = mergeAttrs(a)
	mounts := engine.MountsExport{MaxSize: a.size("mounts-max-size", 0), MaxAge: a.duration("mounts-max-age", 0)}
	isOn, ids := mountIDs(a, false)
	if mounts.IDs = ids; isOn {
		ex.Mounts = &mounts
	}
	s, err := c.open(a, kind, writing)
	if err := a.firstError(err); err != nil {
		return ex, false, err
	}
	ex.Name, ex.Backend, ex.Ref, ex.Manifest, ex.Denied = s.name, s.backend, s.ref, s.manifest, s.denied
	ex.Uploads = uploads(kind)
	if s.keeper != nil {
		ex.Remove = s.keeper.RemoveBlob
	}
	if s.replaces {
		ex.Merge = nil
	}
	return ex, false, nil
}

// uploads is how many blobs travel at once to a kind of store. Many tiny layers
// wait for round trips, and those of an object store are long.
func uploads(kind string) int {
	switch kind {
	case "gha", "s3", "azblob":
		return 16
	case "registry":
		return 8
	}
	return 4
}

// mountIDs reads which cache mounts go along with a cache: mounts=true, false,
// or ids. No ids means all.
func mountIDs(a *attrs, def bool) (bool, []string) {
	v := a.str("mounts", "")
	if v == "" {
		return def, nil
	}
	if on, err := strconv.ParseBool(v); err == nil {
		return on, nil
	}
	return true, list(strings.ReplaceAll(v, ",", ";"))
}

// What a merging export keeps of other jobs, unless the user says.
const (
	mergeMaxAge  = 7 * 24 * time.Hour // GitHub's cache evicts what was not used for as long
	mergeMaxSize = 5 << 30            // half of what GitHub gives a repository

	// BuildKit reads a registry's index only up to a MiB: some 3,000 records.
	mergeMaxRecords = 2500

	// mergeTouch is how exactly it is known when a result was last used.
	mergeTouch = 24 * time.Hour
)

// mergeAttrs reads how an export treats what is there; nil means that it is
// replaced.
func mergeAttrs(a *attrs) *remotecache.Limits {
	merge := a.boolean("merge", true)
	l := &remotecache.Limits{
		Now: time.Now(), MaxRecords: mergeMaxRecords, Touch: mergeTouch,
		MaxAge:   a.duration("merge-max-age", mergeMaxAge),
		MaxBytes: a.size("merge-max-size", mergeMaxSize),
	}
	if !merge {
		return nil
	}
	return l
}

func (a *attrs) duration(key string, def time.Duration) time.Duration {
	v := a.str(key, "")
	if v == "" {
		return def
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		a.fail("%s=%s is not a duration, such as 5m", key, v)
	}
	return d
}

// size reads a number of bytes: 500MB, 5GiB.
func (a *attrs) size(key string, def int64) int64 {
	v := a.str(key, "")
	if v == "" {
		return def
	}
	n, err := units.RAMInBytes(v)
	if err != nil || n < 0 {
		a.fail("%s=%s is not a size, such as 500MB", key, v)
	}
	return n
}

// firstError returns the first error of the attributes, then err as one of
// them, then what done says.
func (a *attrs) firstError(err error) error {
	if a.err != nil {
		return a.err
	}
	if err != nil {
		a.fail("%w", err) // with its hint
	}
	return a.done()
}
