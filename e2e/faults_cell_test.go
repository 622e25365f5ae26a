package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// A faulty is a cache service that builds reach through fronts.
type faulty struct {
	kind    string
	cache   *services.Cache
	servers []string            // their URLs
	good    services.CachePlace // holds a whole cache

	azurite  *services.Azurite       // of gha and azblob
	goodRepo *services.GHARepository // of gha: what good is in
}

// note is a CacheConfig.Via that puts nothing before the servers.
func (f *faulty) note(server string) (string, func() error, error) {
	f.servers = append(f.servers, server)
	return server, func() error { return nil }, nil
}

// newPlace returns an empty place for a cache.
func (f *faulty) newPlace(name string) (services.CachePlace, *services.GHARepository) {
	if f.kind != "gha" {
		return f.cache.Place(name), nil
	}
	repo := f.cache.GHA.NewRepository()
	spec := fmt.Sprintf("type=gha,version=2,url_v2=%s/,token=%s,scope=cache", f.cache.GHA.URL,
		repo.Token(services.GHAScope{Scope: "refs/heads/main", Permission: services.GHAReadWrite}))
	return services.CachePlace{To: spec, From: spec}, repo
}

// A cell is one build with a cache that has a fault.
type cell struct {
	*faulty
	w     *faultWorld
	fault fault
	phase string // export, import
	place services.CachePlace

	repository *services.GHARepository // of gha: what place is in
	secrets    []string                // besides the world's
	ends       []func()                // of what was started for the cell alone
}

// alone gives an export to act's server a server of its own: what one
// repository has stored there, all have.
func (x *cell) alone(ctx context.Context) error {
	f := &faulty{kind: x.kind}
	var err error
	if f.cache, err = services.StartCache(ctx, x.kind, services.CacheConfig{Via: f.note}); err != nil {
		return err
	}
	x.ends = append(x.ends, func() { _ = f.cache.Close() })
	x.faulty, x.place = f, f.cache.Place("alone")
	return nil
}

func (x *cell) close() {
	for _, end := range slices.Backward(x.ends) {
		end()
	}
}

// A faultWorld is what all cells share.
type faultWorld struct {
	registry string // of images
	context  string
	digest   string // of the image, as it is without a cache
	dir      string
	secrets  []string
	normal   map[string]time.Duration // by kind and phase: how long a build takes without a fault
}

// A faultResult is what became of a build.
type faultResult struct {
	exit            int
	took            time.Duration
	digest          string
	outcome, reason string // of the cache: of the export where there is an import, too
	imported        string // the outcome of the import
	hint            string
	said            string // all that mayfly printed, and the metadata file
	ran             []string
	pushed, cached  time.Time // when the push and the cache's step ended
	log             string
}

func (x *cell) name() string { return x.kind + " " + x.phase + " " + x.fault.name }

var noWord = regexp.MustCompile(`[^a-z0-9]+`)

func (x *cell) slug() string {
	return strings.Trim(noWord.ReplaceAllString(strings.ToLower(x.name()), "-"), "-")
}

// through returns a flag's text with the servers' addresses replaced by that
// of a front.
func (f *faulty) through(spec, addr string) string {
	for _, s := range f.servers {
		spec = strings.ReplaceAll(spec, hostOf(s), addr)
	}
	return spec
}

func hostOf(u string) string {
	_, rest, _ := strings.Cut(u, "://")
	host, _, _ := strings.Cut(rest, "/")
	return host
}

// run builds once with the fault.
func (x *cell) run(ctx context.Context) (*faultResult, error) {
	if x.kind == "gha-v1" && x.phase == "export" {
		if err := x.alone(ctx); err != nil {
			return nil, err
		}
	}
	if x.fault.setup != nil {
		end, err := x.fault.setup(ctx, x)
		if err != nil {
			return nil, err
		}
		x.ends = append(x.ends, end)
	}
	addr := ""
	if len(x.servers) > 0 {
		p, err := newFront(x.servers, x.fault)
		if err != nil {
			return nil, err
		}
		defer p.close()
		addr = p.addr
	}
	spec := x.place.To + ",mode=max"
	if x.phase == "import" {
		spec = x.place.From
	}
	if x.fault.spec != nil {
		spec = x.fault.spec(x, spec)
	}
	x.secrets = secretsOf(spec)
	spec = x.through(spec, addr)
	if x.fault.args != "" {
		spec += "," + x.fault.args
	}
	flag := "--cache-to"
	if x.phase == "import" {
		flag = "--cache-from"
	}
	return x.build(ctx, x.fault.env, flag, spec)
}

// heals has a build without the fault export to the same place, unless all was
// stored, and another one import from there: it returns what is wrong with that.
func (x *cell) heals(ctx context.Context, stored bool) (wrong []string, err error) {
	if !stored {
		if wrong, err = x.repairs(ctx); err != nil || slices.Contains(x.fault.blocks, x.kind) {
			return wrong, err
		}
	}
	r, err := x.build(ctx, nil, "--cache-from", x.place.From)
	if err != nil {
		return nil, err
	}
	if r.exit != 0 || r.outcome != "ok" || len(r.ran) > 0 {
		wrong = append(wrong, fmt.Sprintf("the next import ends with %d, %s: %s; it runs %q", r.exit, r.outcome, r.reason, r.ran))
	}
	return wrong, nil
}

func (x *cell) repairs(ctx context.Context) (wrong []string, err error) {
	r, err := x.build(ctx, nil, "--cache-to", x.place.To+",mode=max")
	if err != nil {
		return nil, err
	}
	if slices.Contains(x.fault.blocks, x.kind) {
		if r.exit != 0 || !strings.Contains(r.reason, "begun by another job") {
			wrong = append(wrong, fmt.Sprintf("the next export ends with %d, %s: %s, and was to be blocked", r.exit, r.outcome, r.reason))
		}
		return wrong, nil
	}
	if r.exit != 0 || r.outcome != "ok" {
		wrong = append(wrong, fmt.Sprintf("the next export ends with %d, %s: %s", r.exit, r.outcome, r.reason))
	}
	return wrong, nil
}

// build runs mayfly on an empty machine and pushes.
func (x *cell) build(ctx context.Context, env []string, flags ...string) (*faultResult, error) {
	dir, err := os.MkdirTemp(x.w.dir, "cell-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	meta := filepath.Join(dir, "metadata.json")
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	args := append([]string{
		"build", "--root", filepath.Join(dir, "root"), "--progress", "rawjson", "--metadata-file", meta,
		"--build-arg", "BASE=" + x.w.registry + "/base", "--build-arg", "SOURCE_DATE_EPOCH=1",
		"-t", x.w.registry + "/" + x.slug(), "--push",
	}, append(flags, x.w.context)...)
	cmd := exec.CommandContext(ctx, mayflyBin, args...)
	cmd.Env = append(append(os.Environ(), "BUILDX_NO_DEFAULT_ATTESTATIONS=1"), env...) // the image is known by its digest
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err = cmd.Run()
	r := &faultResult{took: time.Since(began), exit: cmd.ProcessState.ExitCode(), digest: strings.TrimSpace(stdout.String())}
	if ee, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok || ctx.Err() != nil {
		return nil, fmt.Errorf("mayfly %s: %w, %w after %s", strings.Join(args, " "), err, ee, r.took)
	}
	data, err := os.ReadFile(meta)
	if err != nil && r.exit == 0 {
		return nil, err
	}
	r.said = stdout.String() + stderr.String() + string(data)
	return r, r.read(data, &stderr)
}

// read fills in what the metadata file and the log say.
func (r *faultResult) read(metadata []byte, log *bytes.Buffer) error {
	var doc struct {
		Caches []struct{ Action, Outcome, Reason, Hint string } `json:"mayfly.cache"`
	}
	if len(metadata) > 0 {
		if err := json.Unmarshal(metadata, &doc); err != nil {
			return err
		}
	}
	for _, c := range doc.Caches {
		if c.Action == "import" {
			r.imported = c.Outcome
		}
		r.outcome, r.reason, r.hint = c.Outcome, c.Reason, c.Hint
	}
	steps, plain, err := services.ReadProgress(log)
	if err != nil {
		return err
	}
	r.ran = uncached(steps)
	for _, s := range steps {
		switch {
		case s.Name == "pushing image":
			r.pushed = s.Ended
		case strings.HasPrefix(s.Name, "exporting cache to "), strings.HasPrefix(s.Name, "importing cache manifest from "):
			r.cached = s.Ended
		}
		r.log += s.Log
	}
	r.log += plain
	if r.hint != "" && !strings.Contains(r.log, "hint: "+r.hint) {
		return fmt.Errorf("the log does not show the hint %q: %s", r.hint, r.log)
	}
	return nil
}

// want is the outcome that the cell is to have.
func (x *cell) want() string {
	if w, ok := x.fault.but[x.kind+" "+x.phase]; ok {
		return w
	}
	if x.phase == "export" {
		return x.fault.export
	}
	return x.fault.imports
}

// check returns what is wrong with a result.
func (x *cell) check(r *faultResult) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if r.exit != 0 {
		say("exit code %d: %s", r.exit, r.log)
	}
	if r.digest != x.w.digest {
		say("the image is %s, without a cache %s", r.digest, x.w.digest)
	}
	if r.outcome != x.want() {
		say("the outcome is %s, not %s", r.outcome, x.want())
	}
	if x.fault.says != "" && r.outcome != "ok" && !strings.Contains(r.reason+r.hint, x.fault.says) {
		say("neither reason nor hint says %q", x.fault.says)
	}
	if r.outcome != "ok" && r.reason == "" {
		say("there is no reason")
	}
	if x.phase == "import" && r.outcome == "ok" && len(r.ran) > 0 {
		say("steps ran: %q", r.ran)
	}
	most := x.fault.most
	if most == 0 {
		most = 10 * time.Second
	}
	if lost := x.lost(r); lost > most {
		say("it cost %s, more than %s", lost, most)
	}
	if x.fault.late && x.phase == "export" && !r.pushed.Before(r.cached) {
		say("the push ended %s after the cache", r.pushed.Sub(r.cached))
	}
	return append(wrong, leaks(r.said, append(x.secrets, x.w.secrets...))...)
}

func (x *cell) lost(r *faultResult) time.Duration { return r.took - x.w.normal[x.kind+" "+x.phase] }

var signature = regexp.MustCompile(`sig=[A-Za-z0-9%/+]{8}`)

// leaks returns which secrets a text has.
func leaks(text string, secrets []string) (found []string) {
	if m := signature.FindString(text); m != "" {
		found = append(found, "it shows a signature: "+m)
	}
	for _, s := range secrets {
		if strings.Contains(text, s) {
			found = append(found, "it shows the secret "+s)
		}
	}
	return slices.Compact(found)
}
