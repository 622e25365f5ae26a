// Command vectors writes engine/cachekey/testdata.
//
//	cases ──llb──▶ buildkitd ──cache export──▶ vectors ──▶ engine/cachekey/testdata/*.txtar
//
// BuildKit is the judge of cache keys: each case is solved by a real buildkitd
// with all results exported, and the file has the definition and the records
// of the export. It needs root and what hack/setup.sh installs:
//
//	go run ./hack/vectors [case...]
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/mayfly-build/mayfly/e2e/services"
)

const outDir = "engine/cachekey/testdata"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only []string) (err error) {
	tmp, err := os.MkdirTemp("", "mayfly-vectors-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	w, err := newWorld(ctx, tmp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	d, err := services.StartBuildkitd(services.BuildkitdConfig{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	c, err := client.New(ctx, d.Addr)
	if err != nil {
		return err
	}
	defer c.Close()
	info, err := c.Info(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(outDir, 0o755); err != nil {
		return err
	}
	var errs []error
	for _, k := range w.cases() {
		if len(only) > 0 && !slices.Contains(only, k.name) {
			continue
		}
		v := vector{client: c, version: info.BuildkitVersion.Version, dir: filepath.Join(tmp, k.name), sources: w.sources}
		dt, err := v.of(ctx, k)
		if err != nil {
			errs = append(errs, fmt.Errorf("case %s: %w", k.name, err))
			continue
		}
		if err := os.WriteFile(filepath.Join(outDir, k.name+".txtar"), dt, 0o644); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// A vector is one case on its way through buildkitd.
type vector struct {
	client  *client.Client
	version string
	dir     string            // takes the cache export
	sources map[string]string // source identifier → what it stands for
}

func (v vector) of(ctx context.Context, k testCase) ([]byte, error) {
	def, err := k.definition(ctx)
	if err != nil {
		return nil, err
	}
	// No case may be found in the cache of the one before.
	if err := v.client.Prune(ctx, nil, client.PruneAll); err != nil {
		return nil, err
	}
	_, err = v.client.Solve(ctx, def, client.SolveOpt{
		LocalMounts:  k.locals,
		CacheExports: []client.CacheOptionsEntry{{Type: "local", Attrs: map[string]string{"dest": v.dir, "mode": "max"}}},
	}, nil)
	if err != nil {
		return nil, err
	}
	records, err := readRecords(v.dir)
	if err != nil {
		return nil, err
	}
	encoded, err := def.ToPB().MarshalVT()
	if err != nil {
		return nil, err
	}
	return txtar.Format(&txtar.Archive{
		Comment: fmt.Appendf(nil, "written by buildkitd %s, --export-cache type=local,mode=max: go run ./hack/vectors %s\n", v.version, k.name),
		Files: []txtar.File{
			{Name: "definition", Data: wrapped(base64.StdEncoding.EncodeToString(encoded))},
			{Name: "sources", Data: v.used(def)},
			{Name: "records", Data: records},
		},
	}), nil
}

// used lists the sources of a definition: identifier, space, what it stands for.
func (v vector) used(def *llb.Definition) []byte {
	var lines []string
	for _, dt := range def.Def {
		op := &pb.Op{}
		if op.UnmarshalVT(dt) != nil {
			continue // buildkitd has read it
		}
		if key, ok := v.sources[op.GetSource().GetIdentifier()]; ok {
			lines = append(lines, op.GetSource().GetIdentifier()+" "+key+"\n")
		}
	}
	slices.Sort(lines)
	return []byte(strings.Join(lines, ""))
}

func wrapped(s string) []byte {
	var b bytes.Buffer
	for line := range slices.Chunk([]byte(s), 100) {
		b.Write(line)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// readRecords returns the records of a cache in a directory, one per line: its
// number, its digest and a field per input. A field has the number of each
// record that the input is known as, with "=" and the selector if there is one.
func readRecords(dir string) ([]byte, error) {
	var index, manifest struct {
		Manifests, Layers []struct{ MediaType, Digest string }
		Config            struct{ MediaType, Digest string }
	}
	if err := readJSON(filepath.Join(dir, "index.json"), &index); err != nil {
		return nil, err
	}
	blob := func(d string) string { return filepath.Join(dir, "blobs", strings.Replace(d, ":", "/", 1)) }
	if len(index.Manifests) != 1 {
		return nil, fmt.Errorf("the export has %d manifests", len(index.Manifests))
	}
	if err := readJSON(blob(index.Manifests[0].Digest), &manifest); err != nil {
		return nil, err
	}
	conf := manifest.Config
	for _, m := range manifest.Manifests {
		if strings.Contains(m.MediaType, "cacheconfig") {
			conf = m
		}
	}
	var config struct {
		Records []struct {
			Digest string
			Inputs [][]struct {
				Selector string
				Link     int
			}
		}
	}
	if err := readJSON(blob(conf.Digest), &config); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for i, r := range config.Records {
		fmt.Fprintf(&b, "%d %s", i, r.Digest)
		for _, links := range r.Inputs {
			for j, l := range links {
				sep := ","
				if j == 0 {
					sep = " "
				}
				fmt.Fprintf(&b, "%s%d", sep, l.Link)
				if l.Selector != "" {
					fmt.Fprintf(&b, "=%s", l.Selector)
				}
			}
		}
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}

func readJSON(file string, v any) error {
	dt, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(dt, v); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return nil
}
