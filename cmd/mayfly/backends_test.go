package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/compression"
	"github.com/mayfly-build/mayfly/internal/registry"
)

func TestCaches(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	w := worldOf(nil, "")
	req := engine.Request{Registry: registry.New(registry.Config{})}
	err := caches(newCacheOpener(w, req.Registry, buildOptions{}), parse(t, w,
		"--cache-from", "host.example/a:1,host.example/b", "--cache-from", "type=registry,ref=host.example/c",
		"--cache-from", "type=local,src="+dir+",tag=t",
		"--cache-to", "type=inline", "--cache-to", "host.example/d:x",
		"--cache-to", "type=registry,ref=host.example/e,mode=max,ignore-error=false,timeout=90s,compression=zstd,force-compression=true",
		"--cache-to", "type=local,dest="+dir+",tag=t",
	), &req)
	if err != nil {
		t.Fatal(err)
	}
	var from []string
	for _, im := range req.Imports {
		from = append(from, im.Name)
	}
	if want := []string{"registry host.example/a:1", "registry host.example/b", "registry host.example/c", "local " + dir}; !slices.Equal(from, want) {
		t.Errorf("imports %q, not %q", from, want)
	}
	if !req.Inline || len(req.Exports) != 3 {
		t.Fatalf("inline %v, %d exports", req.Inline, len(req.Exports))
	}
	d, e, l := req.Exports[0], req.Exports[1], req.Exports[2]
	if d.Name != "registry host.example/d:x" || d.Max || d.FailBuild || d.Timeout != 0 || d.ForceCompression {
		t.Errorf("by default: %+v", d)
	}
	if !e.Max || !e.FailBuild || e.Timeout != 90*time.Second || e.Compression.Type != compression.Zstd || !e.ForceCompression {
		t.Errorf("with everything set: %+v", e)
	}
	if l.Name != "local "+dir || l.Ref != "t" || l.Backend == nil || l.Manifest == nil {
		t.Errorf("local: %+v", l)
	}
	if _, _, err := req.Imports[3].Load(t.Context()); err == nil {
		t.Error("a cache directory that is missing was read")
	}
}

func TestCacheErrors(t *testing.T) {
	for args, want := range map[string]string{
		"--cache-from type=tape":                         "tape is none of registry, local, gha, s3, azblob",
		"--cache-from ref=x/y":                           "none of registry, local, gha",
		"--cache-from type=registry":                     "ref",
		"--cache-from type=local":                        "src is missing",
		"--cache-from type=registry,ref=x/y,mode=max":    "unknown attribute mode",
		"--cache-to type=tape":                           "tape is none of registry, local, gha, s3, azblob, inline",
		"--cache-to type=registry":                       "ref",
		"--cache-to type=local":                          "dest is missing",
		"--cache-to type=inline,ref=x/y":                 "unknown attribute ref",
		"--cache-to type=registry,ref=x/y,mode=most":     "most is none of min, max",
		"--cache-to type=registry,ref=x/y,timeout=long":  "timeout=long is not a duration",
		"--cache-to type=registry,ref=x/y,ignore-error=": "",
	} {
		w := worldOf(nil, "")
		req := engine.Request{Registry: registry.New(registry.Config{})}
		err := caches(newCacheOpener(w, req.Registry, buildOptions{}), parse(t, w, strings.Fields(args)...), &req)
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", args, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || !isUsage(err) {
			t.Errorf("%s: %v does not say %q", args, err, want)
		}
	}
}

func TestInsecureHosts(t *testing.T) {
	w := worldOf(nil, "")
	got := insecureHosts(parse(t, w,
		"--cache-from", "type=registry,ref=a.example:5000/x,registry.insecure=true", "--cache-from", "b.example/x",
		"--cache-to", "type=registry,ref=c.example/x,registry.insecure=true", "--cache-to", "type=registry,ref=d.example/x",
		"-o", "type=image,registry.insecure=true,name=e.example/x", "-t", "f.example/x",
	))
	slices.Sort(got)
	if want := []string{"a.example:5000", "c.example", "e.example", "f.example"}; !slices.Equal(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
}
