package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/pflag"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/progress/steplog"
	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/registry"
)

// ciFileFlags looks at --dotenv and --code-quality before anything is built.
func ciFileFlags(f *pflag.FlagSet, o buildOptions) error {
	for _, file := range []struct{ flag, path string }{{"dotenv", o.dotenv}, {"code-quality", o.codeQuality}} {
		if !f.Changed(file.flag) {
			continue
		}
		switch dir, err := os.Stat(filepath.Dir(file.path)); {
		case file.path == "":
			return usagef("--%s: no file is named", file.flag)
		case file.path == "-":
			return usagef("--%s: standard output has the image's digest; name a file", file.flag)
		case err != nil:
			return hint.With(usagef("--%s %s: %w", file.flag, file.path, err), "make the directory first")
		case !dir.IsDir():
			return usagef("--%s %s: %s is not a directory", file.flag, file.path, filepath.Dir(file.path))
		}
		if fi, err := os.Stat(file.path); err == nil && fi.IsDir() {
			return usagef("--%s: %s is a directory", file.flag, file.path)
		}
	}
	if o.dotenv != "" && filepath.Clean(o.dotenv) == filepath.Clean(o.codeQuality) {
		return usagef("--code-quality and --dotenv both name %s", o.dotenv)
	}
	return nil
}

// maxDotenv is what GitLab takes of a dotenv report unless its administrator
// says otherwise: 5 KiB (docs.gitlab.com, "CI/CD limits").
const maxDotenv = 5 << 10

// writeDotenv writes what was built as variables of later jobs. GitLab takes
// lines NAME=VALUE without quotes, comments or empty lines.
func writeDotenv(w world, o buildOptions, res *engine.Result) error {
	if o.dotenv == "" {
		return nil
	}
	var b strings.Builder
	add := func(name, value string) bool {
		line := name + "=" + value + "\n"
		if value == "" || b.Len()+len(line) > maxDotenv {
			return value == ""
		}
		b.WriteString(line)
		return true
	}
	add("MAYFLY_BUILD_REF", res.Ref)
	add("MAYFLY_IMAGE_DIGEST", res.Digest.String())
	add("MAYFLY_CONFIG_DIGEST", res.Config.String())
	if len(res.Names) > 0 && res.Digest != "" {
		add("MAYFLY_IMAGE_NAME", res.Names[0])
		ref, err := registry.ParseRef(res.Names[0])
		if err != nil {
			return fmt.Errorf("--dotenv: %w", err)
		}
		add("MAYFLY_IMAGE_REF", ref.Host+"/"+ref.Repo+"@"+res.Digest.String())
		if !add("MAYFLY_IMAGE_NAMES", strings.Join(res.Names, ",")) && talks(o) {
			fmt.Fprintf(w.stderr, "warning: --dotenv %s: without MAYFLY_IMAGE_NAMES: %d names are more than the 5 KiB that GitLab takes\n", o.dotenv, len(res.Names))
		}
	}
	if err := writeWhole(o.dotenv, []byte(b.String())); err != nil {
		return fmt.Errorf("--dotenv: %w", err)
	}
	return nil
}

// An issue is an entry of GitLab's Code Quality report, which is a part of Code
// Climate's.
type issue struct {
	Description string        `json:"description"`
	CheckName   string        `json:"check_name"`
	Fingerprint string        `json:"fingerprint"`
	Severity    string        `json:"severity"`
	Location    issueLocation `json:"location"`
	Content     *issueContent `json:"content,omitempty"`
}

type issueLocation struct {
	Path  string     `json:"path"`
	Lines issueLines `json:"lines"`
}

type issueLines struct {
	Begin int `json:"begin"`
	End   int `json:"end,omitempty"`
}

type issueContent struct {
	Body string `json:"body"`
}

// writeCodeQuality writes lint warnings, of a build that failed as well.
func writeCodeQuality(w world, o buildOptions, warnings []steplog.Warning) error {
	if o.codeQuality == "" {
		return nil
	}
	dt, err := json.MarshalIndent(issues(warnings, repositoryPath(w, o)), "", "  ")
	if err == nil {
		err = writeWhole(o.codeQuality, append(dt, '\n'))
	}
	if err != nil {
		return fmt.Errorf("--code-quality: %w", err)
	}
	return nil
}

// lineNumber is what the frontend ends a warning's text with. It changes with
// every line that comes before.
var lineNumber = regexp.MustCompile(` \(line \d+\)$`)

// issues returns the entries of warnings. A fingerprint depends on what stands
// in the line and not on its number, so that GitLab knows a warning again when
// its line has moved.
func issues(warnings []steplog.Warning, dockerfile string) []issue {
	out := []issue{}
	seen := map[string]int{}
	for _, w := range warnings {
		text := lineNumber.ReplaceAllString(w.Text, "")
		i := issue{
			Description: text, CheckName: w.Rule(), Severity: severity(w.Rule()),
			Location: issueLocation{Path: steplog.FileOf(w.File, dockerfile), Lines: issueLines{Begin: max(1, w.Start)}},
		}
		if i.CheckName == "" {
			i.CheckName = "Dockerfile"
		}
		if i.Location.Path == "" {
			i.Location.Path = "Dockerfile"
		}
		if w.End > w.Start {
			i.Location.Lines.End = w.End
		}
		if w.Detail != "" || w.URL != "" {
			i.Content = &issueContent{Body: strings.TrimSpace(w.Detail + "\n\n" + w.URL)}
		}
		key := strings.Join([]string{i.Location.Path, i.CheckName, text, w.Source}, "\x00")
		seen[key]++
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d", key, seen[key]))
		i.Fingerprint = hex.EncodeToString(sum[:16])
		out = append(out, i)
	}
	return out
}

// severity returns how bad it is that a rule is broken, in GitLab's words.
func severity(rule string) string {
	switch rule {
	case "SecretsUsedInArgOrEnv":
		return "critical"
	case "UndefinedVar", "UndefinedArgInFrom", "InvalidDefaultArgInFrom", "CopyIgnoredFile", "MultipleInstructionsDisallowed",
		"DuplicateStageName", "ReservedStageName", "FromPlatformFlagConstDisallowed", "InvalidBaseImagePlatform":
		return "major"
	case "StageNameCasing", "FromAsCasing", "ConsistentInstructionCasing":
		return "info"
	}
	return "minor"
}

// repositoryPath returns where the Dockerfile is in the repository that a job
// has checked out, "" where it is not in there.
func repositoryPath(w world, o buildOptions) string {
	if isURL(o.context) {
		file := o.file
		if file == "" {
			file = "Dockerfile"
		}
		_, fragment, _ := strings.Cut(o.context, "#")
		_, dir, _ := strings.Cut(fragment, ":")
		return filepath.ToSlash(filepath.Join(dir, file))
	}
	if path, ok := below(w.env("CI_PROJECT_DIR"), dockerfileOf(o)); ok {
		return path
	}
	path, _ := below(".", dockerfileOf(o)) // the job runs in the checkout
	return path
}
