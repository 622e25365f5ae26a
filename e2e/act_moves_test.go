package e2e

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"golang.org/x/tools/txtar"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// theirAction is the line of a workflow that changes when it moves to mayfly.
var theirAction = regexp.MustCompile(`(?m)^(\s*(?:- )?uses: )docker/build-push-action@\S+$`)

// A move is a workflow of testdata/workflows that builds with
// docker/build-push-action, as projects write them, and moves to mayfly by that
// line alone. The comment of its file has directives, each in a line:
//
//	ref REF              the event is a push of that ref; main otherwise
//	twice                two runners; the second one has every step from the cache
//	secret NAME VALUE    of the repository; \n is a line break
//	git                  the server of the repository is one of the test
//	docker               there is a docker on the runner
//
// Its file "want" has what is to be there afterwards. $SHA is the commit, $SHORT
// its first 8 digits, $DIGEST that of the last image:
//
//	image REF            is in the registry; what follows is about it
//	label NAME=VALUE, env NAME=VALUE, annotation NAME=VALUE, user USER
//	file PATH TEXT, no file PATH
//	artifact PATH TEXT
//	log TEXT, no log TEXT
//	once TEXT            a line of a step's output, in the log once
type move struct {
	repo   *actRepo
	event  map[string]any
	twice  bool
	commit string
	wanted []string
}

// TestActMoves runs the workflows of testdata/workflows, moved to mayfly.
func TestActMoves(t *testing.T) {
	services.NeedRoot(t)
	paths, err := filepath.Glob("testdata/workflows/*.txtar")
	if err != nil || len(paths) < 12 {
		t.Fatalf("%d workflows, %v", len(paths), err)
	}
	reg := newRegistryWithLogin(t)
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			m := readMove(t, path, reg)
			run := m.repo.run(t, "push", m.event)
			if !run.ok {
				t.Fatalf("it failed:\n%s", run.log)
			}
			m.check(t, run)
			if m.twice {
				if run = m.repo.run(t, "push", m.event); !run.ok {
					t.Fatalf("the second run failed:\n%s", run.log)
				}
				allCached(t, run.log)
			}
		})
	}
}

func readMove(t *testing.T, path string, reg *services.Registry) *move {
	t.Helper()
	a, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := &move{event: map[string]any{"ref": "refs/heads/main", "repository": map[string]any{"default_branch": "main"}}}
	files, moved := map[string]string{}, 0
	for _, f := range a.Files {
		text := string(f.Data)
		switch {
		case f.Name == "want":
			m.wanted = strings.Split(strings.TrimSpace(text), "\n")
			continue
		case strings.HasPrefix(f.Name, ".github/workflows/"):
			moved += len(theirAction.FindAllString(text, -1))
			text = theirAction.ReplaceAllString(text, "${1}mayfly-build/mayfly@v1")
		}
		files[f.Name] = text
	}
	if moved == 0 || len(m.wanted) == 0 {
		t.Fatalf("%s: %d steps build, %d lines say what is wanted", path, moved, len(m.wanted))
	}
	m.repo = newActRepo(t, reg, files)
	m.commit = m.repo.head(t)
	for line := range strings.Lines(string(a.Comment)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			verb, rest, _ := strings.Cut(line, " ")
			m.obey(t, verb, rest)
		}
	}
	return m
}

func (m *move) obey(t *testing.T, verb, rest string) {
	t.Helper()
	switch verb {
	case "ref":
		m.event["ref"] = rest
	case "twice":
		m.twice = true
	case "secret":
		name, value, _ := strings.Cut(rest, " ")
		m.repo.args = append(m.repo.args, "-s", name+"="+lineBreaks(value))
	case "git":
		m.repo.args = append(m.repo.args, "--env", "GITHUB_SERVER_URL="+m.repo.serve(t))
	case "docker":
		bin, err := filepath.Abs("testdata/workflows/bin")
		if err != nil {
			t.Fatal(err)
		}
		m.repo.env["PATH"] = bin + ":" + os.Getenv("PATH")
	default:
		t.Fatalf("there is no directive %q", verb)
	}
}

func lineBreaks(s string) string { return strings.ReplaceAll(s, `\n`, "\n") }

// head returns the commit of the repository.
func (r *actRepo) head(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(string(tool(t, "git", "-c", "safe.directory=*", "-C", r.dir, "rev-parse", "HEAD")))
}

// serve starts a server that has the repository as acme/app, with tags, and
// wants the job's token. It returns its URL.
func (r *actRepo) serve(t *testing.T, tags ...string) string {
	t.Helper()
	dir := t.TempDir()
	tool(t, "git", "-c", "safe.directory=*", "clone", "-q", "--bare", r.dir, filepath.Join(dir, "acme/app.git"))
	for _, tag := range tags {
		tool(t, "git", "-C", filepath.Join(dir, "acme/app.git"), "-c", "user.name=acme", "-c", "user.email=acme@localhost", "tag", "-m", "a release", tag)
	}
	git, err := services.StartGitHTTP(t.Context(), dir, registryPassword)
	return services.Use(t, git, err).URL
}

// check looks for what is wanted after a run.
func (m *move) check(t *testing.T, run *actRun) {
	t.Helper()
	var img v1.Image
	digest := ""
	for _, line := range m.wanted {
		line = strings.NewReplacer("$SHA", m.commit, "$SHORT", m.commit[:8], "$DIGEST", digest, registryHost, m.repo.registry.Addr).Replace(line)
		verb, rest, _ := strings.Cut(line, " ")
		if verb == "image" {
			var h v1.Hash
			img, h = m.repo.image(t, rest)
			digest = h.String()
			continue
		}
		if err := m.wants(t, run, img, verb, lineBreaks(rest)); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	noSecret(t, "the log", run.log)
	if t.Failed() {
		t.Log(run.log)
	}
}

func (m *move) wants(t *testing.T, run *actRun, img v1.Image, verb, rest string) error {
	t.Helper()
	switch verb {
	case "label", "env", "annotation", "user":
		return inConfig(img, verb, rest)
	case "file":
		path, text, _ := strings.Cut(rest, " ")
		got, err := fileOf(img, path)
		return expect(got, text, err)
	case "artifact":
		path, text, _ := strings.Cut(rest, " ")
		got, err := os.ReadFile(filepath.Join(m.repo.artifacts, path))
		return expect(string(got), text, err)
	case "log":
		if !strings.Contains(run.log, rest) {
			return errors.New("the log does not have it")
		}
	case "once":
		said := regexp.MustCompile(`(?m)^ *[\d.]+ ` + regexp.QuoteMeta(rest) + `$`)
		if n := len(said.FindAllString(run.log, -1)); n != 1 {
			return fmt.Errorf("the log has it %d times", n)
		}
	case "no":
		return m.wantsNo(run, img, rest)
	default:
		t.Fatalf("nothing is known of %q", verb)
	}
	return nil
}

func (m *move) wantsNo(run *actRun, img v1.Image, rest string) error {
	switch verb, rest, _ := strings.Cut(rest, " "); verb {
	case "file":
		if _, err := fileOf(img, rest); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("it is there: %w", err)
		}
	case "log":
		if at := strings.Index(run.log, rest); at >= 0 {
			return fmt.Errorf("the log has it: %q", run.log[max(0, at-40):min(len(run.log), at+40)])
		}
	default:
		return errors.New("nothing is known of it")
	}
	return nil
}

func expect(got, want string, err error) error {
	if err == nil && strings.TrimSpace(got) != want {
		err = fmt.Errorf("it is %q", got)
	}
	return err
}

// inConfig looks for a label, variable or user in the image's config, or an
// annotation in its manifest.
func inConfig(img v1.Image, verb, want string) error {
	cfg, err := img.ConfigFile()
	if err != nil {
		return err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return err
	}
	name, value, _ := strings.Cut(want, "=")
	switch verb {
	case "label":
		return expect(cfg.Config.Labels[name], value, nil)
	case "annotation":
		return expect(manifest.Annotations[name], value, nil)
	case "user":
		return expect(cfg.Config.User, want, nil)
	}
	if all := strings.Join(cfg.Config.Env, "\n") + "\n"; !strings.Contains(all, want+"\n") {
		return fmt.Errorf("the variables are %q", cfg.Config.Env)
	}
	return nil
}

// fileOf returns what a file of an image has in it.
func fileOf(img v1.Image, path string) (string, error) {
	files := mutate.Extract(img)
	defer files.Close()
	for r := tar.NewReader(files); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return "", fmt.Errorf("there is no file %s: %w", path, fs.ErrNotExist)
		}
		if err != nil {
			return "", err
		}
		if strings.TrimPrefix(h.Name, "/") == path {
			data, err := io.ReadAll(r)
			return string(data), err
		}
	}
}
