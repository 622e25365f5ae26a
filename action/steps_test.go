package action

import (
	"encoding/json"
	"flag"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write what testdata/steps is to say")

// TestSteps reads testdata/steps/*.txtar: steps of workflows as people write
// them for docker/build-push-action, with only `uses:` changed. "args" has the
// arguments of mayfly build that they come to, a line each, and "notes" what
// the user is told.
func TestSteps(t *testing.T) {
	paths, err := filepath.Glob("testdata/steps/*.txtar")
	if err != nil || len(paths) < 12 {
		t.Fatalf("%d steps, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files := map[string][]byte{}
			for _, f := range archive.Files {
				files[f.Name] = f.Data
			}
			p, err := New(stepConfig(t, files))
			if err != nil {
				t.Fatal(err)
			}
			var notes []string
			for _, n := range p.Notes {
				notes = append(notes, string(n.Level)+": "+n.Text)
			}
			got := map[string]string{"args": joinLines(p.Args), "notes": joinLines(notes)}
			if *update {
				archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { _, ok := got[f.Name]; return ok })
				for _, name := range slices.Sorted(maps.Keys(got)) {
					archive.Files = append(archive.Files, txtar.File{Name: name, Data: []byte(got[name])})
				}
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			for name, text := range got {
				if text != string(files[name]) {
					t.Errorf("%s:\n%s\nwant:\n%s", name, text, files[name])
				}
			}
			for _, secret := range []string{"ghp_1", "npm_1", "ghs_job", "BEGIN", "b, c"} {
				shown, err := json.Marshal(struct {
					Args   []string
					Inputs []Given
					Notes  []Note
				}{p.Args, p.Inputs, p.Notes})
				if err != nil || strings.Contains(string(shown), secret) {
					t.Errorf("%s is shown, %v: %s", secret, err, shown)
				}
			}
		})
	}
}

// joinLines joins lines; those that are several are quoted.
func joinLines(lines []string) string {
	var b strings.Builder
	for _, l := range lines {
		if strings.Contains(l, "\n") {
			l = strconv.Quote(l)
		}
		b.WriteString(l + "\n")
	}
	return b.String()
}

// stepConfig makes of a step's YAML the environment that the runner makes.
func stepConfig(t *testing.T, files map[string][]byte) Config {
	t.Helper()
	var step struct {
		Uses string
		With map[string]string
	}
	if err := yaml.Unmarshal(files["step.yml"], &step); err != nil {
		t.Fatal(err)
	}
	if step.Uses != "mayfly-build/mayfly@v1" {
		t.Fatalf("the step uses %q", step.Uses)
	}
	values := map[string]string{}
	if data, ok := files["values.json"]; ok {
		if err := json.Unmarshal(data, &values); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{}
	for line := range strings.Lines(string(files["env"])) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		env[name] = value
	}
	for name, in := range actionInputs(t) {
		value := in.Default
		if given, ok := step.With[name]; ok {
			value = given
			delete(step.With, name)
		}
		env[variable(name)] = expressions(values, value)
	}
	for name := range step.With {
		t.Errorf("action.yml has no input %s", name)
	}
	return Config{
		Getenv: lookup(env), Variables: slices.Collect(maps.Keys(env)), Tmp: "/tmp/step",
		ReadFile: func(path string) ([]byte, error) {
			if data, ok := files[strings.TrimPrefix(path, "/")]; ok {
				return data, nil
			}
			return nil, fs.ErrNotExist
		},
		Exists: func(path string) bool { return !strings.Contains(path, "missing") },
	}
}

var expression = regexp.MustCompile(`\$\{\{\s*(.*?)\s*\}\}`)

// expressions puts values in place of ${{ expressions }}; an unknown one is "".
func expressions(values map[string]string, s string) string {
	return expression.ReplaceAllStringFunc(s, func(found string) string {
		return values[expression.FindStringSubmatch(found)[1]]
	})
}

func lookup(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := env[name]; return v, ok }
}

// An actionInput is an input as action.yml declares it.
type actionInput struct {
	Description string
	Required    bool
	Default     string
}

func actionInputs(t *testing.T) map[string]actionInput {
	t.Helper()
	data, err := os.ReadFile("../action.yml")
	if err != nil {
		t.Fatal(err)
	}
	var a struct{ Inputs map[string]actionInput }
	if err := yaml.Unmarshal(data, &a); err != nil {
		t.Fatal(err)
	}
	return a.Inputs
}

// TestActionYAML compares the inputs that action.yml declares with those that
// are read.
func TestActionYAML(t *testing.T) {
	declared := actionInputs(t)
	if got, want := slices.Sorted(maps.Keys(declared)), slices.Sorted(slices.Values(names)); !slices.Equal(got, want) {
		t.Errorf("action.yml declares\n%v\nread are\n%v", got, want)
	}
	defaults := map[string]string{
		"load": "false", "no-cache": "false", "pull": "false", "push": "false", "github-token": "${{ github.token }}",
		"cache": "auto", "cache-mounts": "false",
	}
	for name, in := range declared {
		if in.Required || in.Default != defaults[name] || in.Description == "" {
			t.Errorf("input %s: %+v", name, in)
		}
	}
}
