package main

import (
	"context"

	"io"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/source/image"
	"github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/local"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
	cacheregistry "github.com/mayfly-build/mayfly/remotecache/registry"
)

// caches turns --cache-from and --cache-to into the engine's imports and
// exports.
func caches(o buildOptions, req *engine.Request) error {
	for _, list := range o.cacheFrom {
		for _, text := range refsOrSpec(list) {
			im, err := cacheFrom(text, req.Registry)
			if err != nil {
				return err
			}
			req.Imports = append(req.Imports, im)
		}
	}
	for _, list := range o.cacheTo {
		for _, text := range refsOrSpec(list) {
			ex, inline, err := cacheTo(text, req.Registry)
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

func cacheFrom(text string, client *registry.Client) (engine.Import, error) {
	a, err := cacheAttrs("cache-from", text)
	if err != nil {
		return engine.Import{}, err
	}
	switch kind := a.oneOf("type", "", "registry", "local"); kind {
	case "registry":
		ref := a.str("ref", "")
		a.boolean("registry.insecure", false)
		if err := a.done(); err != nil {
			return engine.Import{}, err
		}
		b, err := cacheregistry.New(cacheregistry.Config{Client: client, Ref: ref})
		if err != nil {
			return engine.Import{}, usagef("--cache-from %s: %v", redact(text), err)
		}
		return importOf("registry "+ref, b, b.Ref(), image.NewOrigin(client, ref, true)), nil
	case "local":
		src := a.str("src", "")
		cfg := local.Config{Dir: src}
		ref := a.str("digest", a.str("tag", "latest"))
		if err := a.done(); err != nil {
			return engine.Import{}, err
		}
		if src == "" {
			return engine.Import{}, usagef("--cache-from %s: src is missing: the directory to read", redact(text))
		}
		b, err := local.New(cfg)
		if err != nil {
			return engine.Import{}, usagef("--cache-from %s: %v", redact(text), err)
		}
		return importOf("local "+src, b, ref, backendOrigin{remotecache.Verify(b)}), nil
	}
	return engine.Import{}, a.done()
}

func importOf(name string, b remotecache.Backend, ref string, origin layer.Origin) engine.Import {
	return engine.Import{Name: name, Load: func(ctx context.Context) ([]*remotecache.Index, layer.Origin, error) {
		idx, err := b.LoadIndex(ctx, ref)
		if err != nil {
			return nil, nil, err
		}
		return []*remotecache.Index{idx}, origin, nil
	}}
}

// A backendOrigin reads layers from a cache backend.
type backendOrigin struct{ b remotecache.Backend }

func (o backendOrigin) Open(ctx context.Context, desc ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	return o.b.Open(ctx, desc, off)
}
func (o backendOrigin) Repository() string { return "" }
func (o backendOrigin) IsCache() bool      { return true }

func cacheTo(text string, client *registry.Client) (ex engine.Export, inline bool, err error) {
	a, err := cacheAttrs("cache-to", text)
	if err != nil {
		return ex, false, err
	}
	kind := a.oneOf("type", "", "registry", "local", "inline")
	ex.Max = a.oneOf("mode", "min", "min", "max") == "max"
	ex.FailBuild = !a.boolean("ignore-error", true)
	if v := a.str("timeout", ""); v != "" {
		if ex.Timeout, err = time.ParseDuration(v); err != nil {
			a.fail("timeout=%s is not a duration, such as 5m", v)
		}
	}
	if kind == "inline" {
		return ex, true, a.done()
	}
	ex.Compression, ex.ForceCompression = compressionAttrs(a)
	form := manifest.Form{
		Index:  !a.boolean("image-manifest", true),
		Docker: !a.boolean("oci-mediatypes", true),
	}
	switch kind {
	case "registry":
		ref := a.str("ref", "")
		a.boolean("registry.insecure", false)
		if err := a.done(); err != nil {
			return ex, false, err
		}
		b, err := cacheregistry.New(cacheregistry.Config{Client: client, Ref: ref, Form: form})
		if err != nil {
			return ex, false, usagef("--cache-to %s: %v", redact(text), err)
		}
		ex.Name, ex.Backend, ex.Ref, ex.Manifest = "registry "+ref, b, b.Ref(), b.Manifest
	case "local":
		dest := a.str("dest", "")
		tag := a.str("tag", "latest")
		reset := a.boolean("reset", false)
		if err := a.done(); err != nil {
			return ex, false, err
		}
		if dest == "" {
			return ex, false, usagef("--cache-to %s: dest is missing: the directory to write", redact(text))
		}
		b, err := local.New(local.Config{Dir: dest, Form: form, Reset: reset})
		if err != nil {
			return ex, false, usagef("--cache-to %s: %v", redact(text), err)
		}
		ex.Name, ex.Backend, ex.Ref, ex.Manifest = "local "+dest, b, tag, b.Manifest
	}
	return ex, false, a.done()
}

// insecureHosts returns the hosts that cache flags call insecure.
func insecureHosts(o buildOptions) (hosts []string) {
	for _, text := range append(append([]string{}, o.cacheFrom...), o.cacheTo...) {
		a, _, err := parseAttrs("cache", text)
		if err != nil || a == nil || !a.boolean("registry.insecure", false) {
			continue
		}
		if ref, err := registry.ParseRef(a.str("ref", "")); err == nil {
			hosts = append(hosts, ref.Host)
		}
	}
	for _, text := range o.outputs {
		a, _, err := parseAttrs("output", text)
		if err != nil || a == nil || !a.boolean("registry.insecure", false) {
			continue
		}
		for _, name := range append(strings.Split(a.str("name", ""), ","), o.tags...) {
			if ref, err := registry.ParseRef(name); err == nil && name != "" {
				hosts = append(hosts, ref.Host)
			}
		}
	}
	return hosts
}
