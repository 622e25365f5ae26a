package mayfly_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/mayfly-build/mayfly/"

// A floor is a row of packages that may import what is on the floors below it
// and nothing beside or above. "x" is the package x alone, "x/..." is x and
// what lies below it, where x itself is the contract: a package below x may
// import x, but not its siblings, and x imports none of them.
type floor struct {
	packages []string
	reason   string
}

// floors is docs/architecture.md's picture of the imports, from the bottom up.
var floors = []floor{
	{[]string{"internal/hint", "internal/memo", "internal/retry", "internal/parts", "ci"}, "leaves: anybody may use them, they use nobody"},
	{[]string{"internal/stall"}, "what ends an exchange may be tried again"},
	{[]string{"internal/registry/...", "tracing/..."}, "one registry client for images and caches, which knows neither; spans are made of events, whoever sends them"},
	{[]string{"merge"}, "an index is made of what registries hold, whoever built it"},
	{[]string{"remotecache"}, "a cache backend must be usable without the engine"},
	{[]string{"remotecache/inline", "remotecache/remotecachetest"}, "the cache inside an image config, as manifests carry it too; and the suite of all backends"},
	{[]string{"remotecache/manifest"}, "caches that are OCI manifests, whatever stores them"},
	{[]string{"remotecache/registry", "remotecache/local", "remotecache/gha", "remotecache/s3", "remotecache/azblob"}, "a backend holds only what its service forces on it, and knows no other"},
	{[]string{"remotecache/signed", "remotecache/treestore", "remotecache/upkeep"}, "what an Index may carry besides results, on any backend"},
	{[]string{"remotecache/scope"}, "which refs a job uses, on any backend"},
	{[]string{"engine/fsdiff", "engine/compression", "engine/content", "engine/secret", "engine/progress/...", "engine/llb", "engine/executor/...", "engine/statedir", "engine/cachemount", "engine/explain"}, "values and single devices: no one of them needs another"},
	{[]string{"engine/contenthash", "engine/layertar", "engine/fileop"}, "functions of a file system diff, without a place to keep it"},
	{[]string{"engine/cachekey", "engine/snapshot/...", "engine/provenance"}, "keys and predicates are pure; snapshots mount diffs and know no blobs"},
	{[]string{"engine/solver", "engine/layer"}, "the solver knows no file, image or registry; a layer knows no graph"},
	{[]string{"engine/source/...", "engine/buildcache"}, "where results come from, without knowing what is done with them"},
	{[]string{"engine/op", "engine/gateway/..."}, "doing a vertex: joins sources, layers and processes"},
	{[]string{"engine/frontend/...", "engine/exporter/..."}, "what makes a graph, and what takes its result out: neither knows the other"},
	{[]string{"engine"}, "the composition root: the only one that sees all of the engine"},
	{[]string{"engine/control/..."}, "BuildKit's API is one more front door of engine.Build"},
	{[]string{"report"}, "a build's events and its result as a page: it knows engine's values, and nobody who asks for it"},
	{[]string{"action"}, "what a step's inputs ask for, and what a build is for GitHub's runner: mayfly action is the command that builds"},
	{[]string{"cmd/..."}, "the edge reads flags and environment and prints; nothing imports it"},
	{[]string{"e2e/..."}, "tests from the outside run the binary: they import nothing of it"},
	{[]string{"bench/..."}, "benchmarks use the services of e2e"},
	{[]string{"hack/..."}, "what writes test data uses the services of e2e"},
}

// A ban forbids the packages of some places an import, whatever their floor.
type ban struct {
	places []string
	imp    string // this package and all below it
	reason string
}

var bans = []ban{
	{[]string{"e2e/...", "bench/..."}, module + "engine", "they measure the binary that users run"},
	{[]string{"e2e/...", "bench/..."}, module + "remotecache", "they measure the binary that users run"},
	{[]string{"engine", "engine/...", "remotecache/...", "internal/...", "tracing/...", "report"}, "flag", "only cmd and action read flags"},
	{[]string{"engine", "engine/...", "remotecache/...", "internal/...", "tracing/...", "report"}, "github.com/spf13/pflag", "only cmd and action read flags"},
	{[]string{"engine", "engine/...", "remotecache/...", "internal/...", "tracing/...", "report"}, "log", "library code sends events; it neither prints nor logs"},
	{[]string{"engine", "engine/...", "remotecache/...", "internal/...", "tracing/...", "report"}, "github.com/sirupsen/logrus", "library code sends events; it neither prints nor logs"},
	{[]string{"engine/solver", "engine/cachekey", "engine/llb"}, "net/http", "decisions are functions of values"},
	{[]string{"engine/solver", "engine/cachekey", "engine/llb"}, "os", "decisions are functions of values"},
}

// buildkitAPI is what may be imported of BuildKit: its formats, protocols and
// the Dockerfile frontend. Its solver, cache, worker, executor, exporter,
// snapshot, source and control packages are the engine that mayfly replaces.
var buildkitAPI = []string{
	"solver/pb", "api", "client", "session", "frontend/dockerfile", "frontend/dockerui", "frontend/subrequests",
	"frontend/attestations", "frontend/gateway/client", "frontend/gateway/pb", "frontend/gateway/grpcclient",
	"exporter/containerimage/exptypes", "exporter/exptypes", "solver/result", "solver/errdefs",
	"solver/llbsolver/provenance/types", "util/progress", "util/apicaps", "executor/resources/types", "source/types",
}

// TestArrows holds the direction of all imports.
func TestArrows(t *testing.T) {
	for _, p := range packages(t) {
		from := p.path
		at, entry := floorOf(from)
		if at < 0 {
			t.Errorf("%s is on no floor: give it one in floors, with the reason", from)
			continue
		}
		for _, imp := range p.imports {
			check(t, from, imp, at, entry)
		}
		for _, imp := range p.testImports {
			// Tests may use what is made for tests, and what lies below them.
			to := strings.TrimPrefix(imp, module)
			if below(to, from) || below(to, "e2e/services") || strings.HasSuffix(to, "test") && strings.HasPrefix(imp, module) {
				continue
			}
			if strings.HasPrefix(imp, module) {
				check(t, from, imp, at, entry)
			}
		}
	}
}

func check(t *testing.T, from, imp string, at int, entry string) {
	t.Helper()
	if rest, ok := strings.CutPrefix(imp, "github.com/moby/buildkit/"); ok {
		if !slices.ContainsFunc(buildkitAPI, func(a string) bool { return below(rest, a) }) {
			t.Errorf("%s imports %s: of BuildKit only formats, protocols and the Dockerfile frontend", from, imp)
		}
	}
	for _, b := range bans {
		if below(imp, b.imp) && slices.ContainsFunc(b.places, func(p string) bool { return matches(from, p) }) {
			t.Errorf("%s imports %s: %s", from, imp, b.reason)
		}
	}
	to, ok := strings.CutPrefix(imp, module)
	if !ok {
		return
	}
	there, toEntry := floorOf(to)
	switch {
	case there < at:
	case there == at && entry == toEntry && strings.HasSuffix(entry, "/...") && (to+"/..." == entry || strings.HasPrefix(from, to+"/") || entry == "e2e/..." || entry == "bench/..."):
		// the contract in the parent, or the parts of one program
	default:
		t.Errorf("%s imports %s, which is not below it: %s", from, to, floors[at].reason)
	}
}

// floorOf returns the floor of a package and the entry that names it there;
// the longest entry wins.
func floorOf(pkg string) (at int, entry string) {
	at = -1
	for i, f := range floors {
		for _, e := range f.packages {
			if matches(pkg, e) && len(e) > len(entry) {
				at, entry = i, e
			}
		}
	}
	return at, entry
}

func matches(pkg, entry string) bool {
	if tree, ok := strings.CutSuffix(entry, "/..."); ok {
		return below(pkg, tree)
	}
	return pkg == entry
}

// below reports whether pkg is tree or lies below it.
func below(pkg, tree string) bool {
	return pkg == tree || strings.HasPrefix(pkg, tree+"/")
}

type goPackage struct {
	path                 string // below the module
	imports, testImports []string
}

// packages reads the imports of every Go file of the module, for whatever
// platform. It reads the files itself, not through go list, so that the test
// cache sees when one changes.
func packages(t *testing.T) []*goPackage {
	t.Helper()
	found := map[string]*goPackage{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, err := os.Stat(filepath.Join(path, "go.mod"))
			if path != "." && (err == nil || d.Name() == "testdata" || strings.ContainsAny(d.Name()[:1], "._")) {
				return fs.SkipDir // another module, or nothing to compile
			}
			return nil
		}
		if filepath.Ext(path) != ".go" || filepath.Dir(path) == "." {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		p := found[dir]
		if p == nil {
			p = &goPackage{path: dir}
			found[dir] = p
		}
		to := &p.imports
		if strings.HasSuffix(path, "_test.go") {
			to = &p.testImports
		}
		for _, i := range f.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			*to = append(*to, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	all := slices.SortedFunc(maps.Values(found), func(a, b *goPackage) int { return strings.Compare(a.path, b.path) })
	for _, p := range all {
		slices.Sort(p.imports)
		slices.Sort(p.testImports)
		p.imports, p.testImports = slices.Compact(p.imports), slices.Compact(p.testImports)
	}
	if len(all) < 5 {
		t.Fatalf("only %d packages", len(all))
	}
	return all
}
