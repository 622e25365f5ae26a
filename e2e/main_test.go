package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// mayflyBin is the binary under test; TestMain sets it once.
var mayflyBin string

func TestMain(m *testing.M) {
	code, err := testMain(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 2
	}
	os.Exit(code)
}

func testMain(m *testing.M) (int, error) {
	mayflyBin = os.Getenv("MAYFLY")
	if mayflyBin == "" {
		dir, err := os.MkdirTemp("", "mayfly-e2e-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		mayflyBin = filepath.Join(dir, "mayfly")
		out, err := exec.Command("go", "build", "-tags", "seccomp", "-o", mayflyBin, "../cmd/mayfly").CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("build mayfly: %w: %s", err, out)
		}
	}
	if _, err := os.Stat(mayflyBin); err != nil {
		return 0, fmt.Errorf("find the binary under test ($MAYFLY): %w", err)
	}
	return m.Run(), nil
}

// A build is one run of mayfly build --progress=rawjson.
type build struct {
	digest   string // what stdout said
	steps    []services.Step
	metadata string // path of the metadata file
	stderr   string // what was no JSON
}

// mayfly runs mayfly build in root with the arguments. The error has what
// mayfly said.
func mayfly(ctx context.Context, t *testing.T, root string, env []string, args ...string) (*build, error) {
	t.Helper()
	meta := filepath.Join(t.TempDir(), "metadata.json")
	cmd := exec.CommandContext(ctx, mayflyBin, append([]string{"build", "--root", root, "--progress", "rawjson", "--metadata-file", meta}, args...)...)
	// Most tests are about plain images.
	cmd.Env = append(append(os.Environ(), "BUILDX_NO_DEFAULT_ATTESTATIONS=1"), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	runErr := cmd.Run()
	steps, plain, err := services.ReadProgress(&stderr)
	if runErr != nil {
		return &build{steps: steps, stderr: plain}, fmt.Errorf("mayfly build %s: %w: %s%s", strings.Join(args, " "), runErr, services.Failed(steps), plain)
	}
	if err != nil {
		return nil, err
	}
	return &build{strings.TrimSpace(stdout.String()), steps, meta, plain}, nil
}

// uncached returns the names of the Dockerfile's steps that ran. Several
// vertices may bear the name of one step, such as ADD's download and its copy:
// the step is cached when one of them is, since then nothing else was needed.
func uncached(steps []services.Step) []string {
	cached := map[string]bool{}
	for _, s := range steps {
		if isStep(s.Name) {
			cached[s.Name] = cached[s.Name] || s.Cached
		}
	}
	var out []string
	for name, ok := range cached {
		if !ok {
			out = append(out, name)
		}
	}
	sort.Strings(out)
	return out
}

// isStep reports whether a vertex is an instruction that makes a layer or
// content: "[build 2/5] RUN make", not "[internal] load …" or "FROM …".
func isStep(name string) bool {
	if !strings.HasPrefix(name, "[") {
		return false
	}
	pos, rest, ok := strings.Cut(name[1:], "] ")
	return ok && strings.Contains(pos, "/") && !strings.HasSuffix(pos, " internal") && !strings.HasPrefix(rest, "FROM ")
}
