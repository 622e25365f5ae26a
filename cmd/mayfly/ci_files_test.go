package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/progress/steplog"
)

func TestCIFileFlags(t *testing.T) {
	dir := contextDir(t)
	tests := []struct {
		args   []string
		stderr string
	}{
		{[]string{"--dotenv", ""}, "--dotenv: no file is named"},
		{[]string{"--code-quality", ""}, "--code-quality: no file is named"},
		{[]string{"--dotenv", "-"}, "--dotenv: standard output"},
		{[]string{"--dotenv", "DIR/none/x.env"}, "--dotenv DIR/none/x.env: stat DIR/none: no such file"},
		{[]string{"--code-quality", "DIR/f/x.json"}, "--code-quality DIR/f/x.json: "},
		{[]string{"--code-quality", "DIR"}, "--code-quality: DIR is a directory"},
		{[]string{"--code-quality", "DIR/x", "--dotenv", "DIR/./x"}, "--code-quality and --dotenv both name"},
		{[]string{"--dotenv"}, "flag needs an argument: --dotenv"},
		{[]string{"--ci-labels=perhaps"}, `--ci-labels`},
		{[]string{"--ci-labels"}, "--ci-labels: this is no CI job"},
		{[]string{"--progress", "jenkins"}, `--progress: "jenkins" is none of`},
	}
	for _, tt := range tests {
		args := []string{"build"}
		for _, a := range tt.args {
			args = append(args, strings.ReplaceAll(a, "DIR", dir))
		}
		if args[len(args)-1] != "--dotenv" {
			args = append(args, dir)
		}
		code, _, stderr := mayfly(t, map[string]string{"XDG_CACHE_HOME": t.TempDir()}, "", args...)
		if want := strings.ReplaceAll(tt.stderr, "DIR", dir); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%q: exit status %d, no %q in\n%s", tt.args, code, want, stderr)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// gitlabLine is what GitLab takes as a line of a dotenv report: ASCII letters,
// digits and _ in names; no quotes, blanks or variables in values.
var gitlabLine = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=[^\s"'$#]+$`)

func TestDotenv(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.env")
	d := digest.FromString("d")
	res := &engine.Result{Ref: "r1", Digest: d, Config: digest.FromString("c"), Names: []string{"docker.io/library/app:1", "localhost:5000/app:2"}}
	read := func(res *engine.Result) string {
		t.Helper()
		if err := writeDotenv(worldOf(nil, ""), buildOptions{dotenv: path}, res); err != nil {
			t.Fatal(err)
		}
		dt, err := os.ReadFile(path)
		if err != nil || len(dt) > maxDotenv || !strings.HasSuffix(string(dt), "\n") {
			t.Fatalf("%v: %q", err, dt)
		}
		for l := range strings.Lines(string(dt)) {
			if !gitlabLine.MatchString(strings.TrimSuffix(l, "\n")) {
				t.Errorf("GitLab does not take %q", l)
			}
		}
		return string(dt)
	}
	want := "MAYFLY_BUILD_REF=r1\nMAYFLY_IMAGE_DIGEST=" + d.String() + "\nMAYFLY_CONFIG_DIGEST=" + digest.FromString("c").String() +
		"\nMAYFLY_IMAGE_NAME=docker.io/library/app:1\nMAYFLY_IMAGE_REF=docker.io/library/app@" + d.String() +
		"\nMAYFLY_IMAGE_NAMES=docker.io/library/app:1,localhost:5000/app:2\n"
	if got := read(res); got != want {
		t.Errorf("it is\n%s, not\n%s", got, want)
	}
	if got := read(&engine.Result{Ref: "r2"}); got != "MAYFLY_BUILD_REF=r2\n" {
		t.Errorf("without an image it is\n%s", got)
	}
	for range 200 {
		res.Names = append(res.Names, "registry.acme.test/team/app:1")
	}
	if got := read(res); strings.Contains(got, "NAMES") || !strings.Contains(got, "MAYFLY_IMAGE_REF=") {
		t.Errorf("with 202 names it is\n%s", got)
	}
}

func TestCodeQuality(t *testing.T) {
	warn := func(line int, source string) steplog.Warning {
		return steplog.Warning{Text: "FromAsCasing: casing does not match (line 2)", Detail: "detail", URL: "https://docs.test/x", File: "Dockerfile", Start: line, End: line, Source: source}
	}
	a := issues([]steplog.Warning{warn(2, "FROM a as b"), warn(5, "FROM c as d"), warn(7, "FROM a as b"), {Text: "no rule"}}, "web/Dockerfile")
	b := issues([]steplog.Warning{warn(12, "FROM a as b")}, "web/Dockerfile")
	if a[0].Fingerprint != b[0].Fingerprint {
		t.Error("a line that moves makes another fingerprint")
	}
	seen := map[string]bool{}
	for _, i := range a {
		if seen[i.Fingerprint] {
			t.Errorf("two have the fingerprint of %+v", i)
		}
		seen[i.Fingerprint] = true
	}
	dt, err := json.Marshal(a[0])
	want := `{"description":"FromAsCasing: casing does not match","check_name":"FromAsCasing","fingerprint":"` + a[0].Fingerprint +
		`","severity":"info","location":{"path":"web/Dockerfile","lines":{"begin":2}},"content":{"body":"detail\n\nhttps://docs.test/x"}}`
	if err != nil || string(dt) != want {
		t.Errorf("%v: %s, not %s", err, dt, want)
	}
	if dt, err := json.Marshal(issues(nil, "")); err != nil || string(dt) != "[]" {
		t.Errorf("nothing is %s, %v", dt, err)
	}
	if i := a[3]; i.CheckName != "Dockerfile" || i.Location.Lines.Begin != 1 || i.Location.Path != "web/Dockerfile" {
		t.Errorf("without a place: %+v", i)
	}
}

// TestCodeQualityFile: it is written for a build that fails as well, with the
// path in the repository.
func TestCodeQualityFile(t *testing.T) {
	dir := contextDir(t)
	web := filepath.Join(dir, "web")
	if err := os.Mkdir(web, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"good": "FROM scratch as x\nCOPY web /\n", "bad": "FROM scratch as x\nCOPY none /\n"} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(dir, name+".json")
			writeFile(t, filepath.Join(web, "Dockerfile"), text)
			env := map[string]string{"GITLAB_CI": "true", "CI_PROJECT_DIR": dir}
			code, _, stderr := mayfly(t, env, "", "build", "--root", t.TempDir(), "--snapshotter", "native", "--code-quality", file, "-f", filepath.Join(web, "Dockerfile"), dir)
			if (code == exitOK) != (name == "good") {
				t.Fatalf("exit status %d:\n%s", code, stderr)
			}
			if strings.Contains(stderr, "\n#") || !strings.Contains(stderr, "warning: Dockerfile:1: FromAsCasing") {
				t.Errorf("the log is not GitLab's:\n%s", stderr)
			}
			var got []issue
			dt, err := os.ReadFile(file)
			if err != nil || json.Unmarshal(dt, &got) != nil || len(got) != 1 || got[0].Location.Path != "web/Dockerfile" || got[0].Location.Lines.Begin != 1 {
				t.Errorf("%v: %s", err, dt)
			}
		})
	}
}

// TestErrorsAreNoCommands: the excerpt of a Dockerfile is text to the service.
func TestErrorsAreNoCommands(t *testing.T) {
	dir := contextDir(t)
	writeFile(t, filepath.Join(dir, "Dockerfile"), "FROM scratch\nFETCH ##vso[task.setvariable variable=x]y\n")
	_, _, stderr := mayfly(t, map[string]string{"TF_BUILD": "True"}, "", "build", "--root", t.TempDir(), "--snapshotter", "native", dir)
	if !strings.Contains(stderr, "   2 | >>> FETCH # # vso[task") || strings.Contains(stderr, "##vso") {
		t.Errorf("the error is\n%s", stderr)
	}
}

func TestRepositoryPath(t *testing.T) {
	dir := contextDir(t)
	w := worldOf(map[string]string{"CI_PROJECT_DIR": filepath.Dir(dir)}, "")
	base := filepath.Base(dir)
	for _, tt := range []struct{ context, file, want string }{
		{dir, "", base + "/Dockerfile"},
		{dir, filepath.Join(dir, "f"), base + "/f"},
		{dir, "/etc/passwd", ""},
		{dir, "-", ""},
		{"-", "", ""},
		{"https://git.acme.test/app.git#main:web", "", "web/Dockerfile"},
		{"https://git.acme.test/app.git", "x.Dockerfile", "x.Dockerfile"},
	} {
		if got := repositoryPath(w, buildOptions{context: tt.context, file: tt.file}); got != tt.want {
			t.Errorf("%q %q: %q, not %q", tt.context, tt.file, got, tt.want)
		}
	}
}
