package services

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
)

// BuildkitdConfig says how to start BuildKit's daemon.
type BuildkitdConfig struct {
	Root string   // state directory; "" means a temporary one that Close removes
	Args []string // more arguments of buildkitd
}

// A Buildkitd is a running buildkitd.
type Buildkitd struct {
	Addr string        // for buildctl --addr
	Root string        // its state directory
	Boot time.Duration // from exec to the first answer

	p      *process
	dir    string // holds the socket
	remove bool
	ctl    string
}

// StartBuildkitd starts the buildkitd that hack/setup.sh built, with host
// networking and its own runc worker. It needs root.
func StartBuildkitd(cfg BuildkitdConfig) (*Buildkitd, error) {
	bin, err := Tool("buildkitd")
	if err != nil {
		return nil, err
	}
	ctl, err := Tool("buildctl")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "mayfly-buildkitd-")
	if err != nil {
		return nil, fmt.Errorf("make buildkitd's directory: %w", err)
	}
	b := &Buildkitd{Addr: "unix://" + filepath.Join(dir, "sock"), Root: cfg.Root, dir: dir, ctl: ctl}
	if b.Root == "" {
		b.Root, b.remove = filepath.Join(dir, "root"), true
	}
	// An empty file, so that the machine's /etc/buildkit has no say.
	conf := filepath.Join(dir, "buildkitd.toml")
	if err := os.WriteFile(conf, nil, 0o600); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	args := slices.Concat([]string{"--config", conf, "--root", b.Root, "--addr", b.Addr,
		"--otel-socket-path", filepath.Join(dir, "otel"), "--oci-worker-net", "host", "--containerd-worker=false"}, cfg.Args)
	begin := time.Now()
	b.p, err = start(exec.Command(bin, args...), func() bool {
		return exec.Command(ctl, "--addr", b.Addr, "debug", "workers").Run() == nil
	})
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	b.Boot = time.Since(begin)
	return b, nil
}

// Close stops the daemon and removes what StartBuildkitd made.
func (b *Buildkitd) Close() error {
	var err error
	if b.p != nil {
		err = b.p.stop()
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// A Build is one call of buildctl build with the Dockerfile frontend.
type Build struct {
	Context    string   // directory
	Dockerfile string   // file name in Context; "" means Dockerfile
	Opts       []string // --opt, e.g. build-arg:K=V
	Outputs    []string // --output
	Import     []string // --import-cache
	Export     []string // --export-cache
	Secrets    []string // --secret
	SSH        []string // --ssh
	Args       []string // more arguments, e.g. --no-cache
	Env        []string // added to the environment, e.g. SOURCE_DATE_EPOCH=0
	Dir        string   // where buildctl runs; "" means here
}

// A Result is what a build of buildctl left.
type Result struct {
	Metadata map[string]json.RawMessage // of --metadata-file
	Steps    []Step
}

// Build runs buildctl. An error has the end of what buildctl said.
func (b *Buildkitd) Build(ctx context.Context, in Build) (*Result, error) {
	meta := filepath.Join(b.dir, fmt.Sprintf("metadata-%d.json", time.Now().UnixNano()))
	file := in.Dockerfile
	if file == "" {
		file = "Dockerfile"
	}
	args := []string{"--addr", b.Addr, "build", "--progress", "rawjson", "--frontend", "dockerfile.v0",
		"--local", "context=" + in.Context, "--local", "dockerfile=" + filepath.Dir(filepath.Join(in.Context, file)),
		"--opt", "filename=" + filepath.Base(file), "--metadata-file", meta}
	for _, f := range []struct {
		flag   string
		values []string
	}{
		{"--opt", in.Opts}, {"--output", in.Outputs}, {"--import-cache", in.Import},
		{"--export-cache", in.Export}, {"--secret", in.Secrets}, {"--ssh", in.SSH},
	} {
		for _, v := range f.values {
			args = append(args, f.flag, v)
		}
	}
	cmd := exec.CommandContext(ctx, b.ctl, append(args, in.Args...)...)
	cmd.Env, cmd.Dir = append(os.Environ(), in.Env...), in.Dir
	var log bytes.Buffer
	cmd.Stderr = &log
	runErr := cmd.Run()
	steps, plain, err := ReadProgress(&log)
	if runErr != nil {
		return &Result{Steps: steps}, fmt.Errorf("buildctl build %s: %w: %s%s", in.Context, runErr, Failed(steps), plain)
	}
	if err != nil {
		return nil, err
	}
	res := &Result{Steps: steps}
	raw, err := os.ReadFile(meta)
	noImage := !slices.ContainsFunc(in.Outputs, func(o string) bool {
		return !strings.Contains(o, "type=local") && !strings.Contains(o, "type=tar")
	})
	if errors.Is(err, os.ErrNotExist) && noImage {
		return res, nil // buildctl has nothing to say of files, or of a result that goes nowhere
	}
	if err != nil {
		return nil, fmt.Errorf("read buildctl's metadata: %w", err)
	}
	if err := json.Unmarshal(raw, &res.Metadata); err != nil {
		return nil, fmt.Errorf("read buildctl's metadata: %w", err)
	}
	return res, nil
}

// Digest returns the digest of the image that the build made.
func (r *Result) Digest() string { return r.text("containerimage.digest") }

// ConfigDigest returns the digest of the config of the image.
func (r *Result) ConfigDigest() string { return r.text("containerimage.config.digest") }

func (r *Result) text(key string) string {
	var s string
	if json.Unmarshal(r.Metadata[key], &s) != nil {
		return ""
	}
	return s
}

// A Step is one vertex of a build as --progress=rawjson tells it.
type Step struct {
	Name    string
	Cached  bool
	Error   string
	Log     string
	Started time.Time
	Ended   time.Time // zero when the vertex did not complete
}

// ReadProgress reads what --progress=rawjson wrote: the steps in the order of
// their first mention, and the lines that are no JSON.
func ReadProgress(log *bytes.Buffer) (steps []Step, plain string, err error) {
	at := map[string]int{}
	for line := range bytes.Lines(log.Bytes()) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if line[0] != '{' {
			plain += string(line) + "\n"
			continue
		}
		var s client.SolveStatus
		if err := json.Unmarshal(line, &s); err != nil {
			return nil, "", fmt.Errorf("read progress %q: %w", line, err)
		}
		for _, v := range s.Vertexes {
			i, ok := at[string(v.Digest)]
			if !ok {
				i = len(steps)
				at[string(v.Digest)] = i
				steps = append(steps, Step{Name: v.Name})
			}
			st := &steps[i]
			st.Cached = st.Cached || v.Cached
			if v.Error != "" {
				st.Error = v.Error
			}
			if v.Started != nil && st.Started.IsZero() {
				st.Started = *v.Started
			}
			if v.Completed != nil {
				st.Ended = *v.Completed
			}
		}
		for _, l := range s.Logs {
			if i, ok := at[string(l.Vertex)]; ok {
				steps[i].Log += string(l.Data)
			}
		}
	}
	return steps, plain, nil
}

// Failed describes the steps that failed, with what they said.
func Failed(steps []Step) string {
	var b bytes.Buffer
	for _, s := range steps {
		if s.Error != "" {
			fmt.Fprintf(&b, "%s: %s\n%s", s.Name, s.Error, s.Log)
		}
	}
	return b.String()
}

// PeakRSS returns the most memory that the daemon has held at once, in bytes.
func (b *Buildkitd) PeakRSS() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("read buildkitd's peak memory: %w", err)
	}
	_, rest, _ := bytes.Cut(status, []byte("VmHWM:"))
	var kib int64
	if _, err := fmt.Sscanf(string(rest), "%d kB", &kib); err != nil {
		return 0, fmt.Errorf("read buildkitd's peak memory: %w", err)
	}
	return kib << 10, nil
}
