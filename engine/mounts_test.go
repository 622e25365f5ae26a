package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/engine/cachemount"
	"github.com/mayfly-build/mayfly/engine/op"
	"github.com/mayfly-build/mayfly/engine/progress"
	"github.com/mayfly-build/mayfly/engine/statedir"
	registryclient "github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/internal/registry/registrytest"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/gha"
	"github.com/mayfly-build/mayfly/remotecache/local"
	"github.com/mayfly-build/mayfly/remotecache/registry"
	"github.com/mayfly-build/mayfly/remotecache/s3"
)

// A mountsJob is what of a build cache mounts need, on a state dir of its own.
type mountsJob struct {
	*build
	t *testing.T

	mu    sync.Mutex
	steps map[string]string // name → log
}

func newMountsJob(t *testing.T, req Request) *mountsJob {
	t.Helper()
	j := &mountsJob{t: t, steps: map[string]string{}}
	names := map[digest.Digest]string{}
	req.Progress = progress.New(func(st *client.SolveStatus) {
		j.mu.Lock()
		defer j.mu.Unlock()
		for _, v := range st.Vertexes {
			names[v.Digest] = v.Name
			j.steps[v.Name] += ""
		}
		for _, l := range st.Logs {
			j.steps[names[l.Vertex]] += string(l.Data)
		}
	})
	state, err := statedir.Open(t.TempDir())
	noError(t, err)
	t.Cleanup(func() { noError(t, state.Close()) })
	j.build = &build{req: req, state: state, obs: newObserver(req.Progress)}
	j.world = &op.World{Mounts: cachemount.New(cachemount.Config{Dir: state.Path("mounts"), Tmp: state.Tmp, Restore: j.restoreMount})}
	return j
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run is a step: it writes content to f, unless that is "", and returns what
// was there.
func (j *mountsJob) run(id, content string) string {
	j.t.Helper()
	m, err := j.world.Mounts.Get(j.t.Context(), cachemount.Want{Use: cachemount.Use{ID: id, Platform: "linux/amd64"}})
	noError(j.t, err)
	defer func() { noError(j.t, m.Close()) }()
	was, err := os.ReadFile(filepath.Join(m.Dir, "f"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		j.t.Fatal(err)
	}
	if content != "" {
		noError(j.t, os.WriteFile(filepath.Join(m.Dir, "f"), []byte(content), 0o644))
	}
	return string(was)
}

// export ends the job, and returns the outcomes as text.
func (j *mountsJob) export() string {
	j.t.Helper()
	var outs []CacheOutcome
	for _, ex := range j.req.Exports {
		got, err := j.exportMounts(j.t.Context(), ex)
		noError(j.t, err)
		outs = append(outs, got...)
	}
	return j.text(outs)
}

func (j *mountsJob) text(outs []CacheOutcome) string {
	var lines []string
	for _, o := range outs {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s: %s %s", o.Name, o.Outcome, o.Reason)))
	}
	return strings.Join(lines, "\n")
}

func mountsRequest(b remotecache.Backend) Request {
	return Request{
		Imports: []Import{{Name: "store", Mounts: &MountsImport{Backend: b, Refs: []string{"main"}}}},
		Exports: []Export{{Name: "store", Backend: b, Ref: "main", Mounts: &MountsExport{}}},
	}
}

// TestMountsSurvive: on every backend the next machine has what the one before
// left.
func TestMountsSurvive(t *testing.T) {
	for name, dial := range map[string]func(*testing.T) func() remotecache.Backend{
		"memory": func(*testing.T) func() remotecache.Backend {
			m := remotecache.NewMemory()
			return func() remotecache.Backend { return m }
		},
		"local": func(t *testing.T) func() remotecache.Backend {
			dir := t.TempDir()
			return func() remotecache.Backend {
				b, err := local.New(local.Config{Dir: dir, Reset: true})
				noError(t, err)
				return b
			}
		},
		"registry": func(t *testing.T) func() remotecache.Backend {
			srv := registrytest.Start(t, registrytest.Config{})
			return func() remotecache.Backend {
				c := registryclient.New(registryclient.Config{})
				t.Cleanup(c.CloseIdle)
				b, err := registry.New(registry.Config{Client: c, Ref: srv.Host + "/cache:main"})
				noError(t, err)
				return b
			}
		},
		"s3": func(t *testing.T) func() remotecache.Backend {
			srv, err := services.StartS3(services.S3Config{})
			services.Use(t, srv, err)
			return func() remotecache.Backend {
				b, err := s3.New(s3.Config{
					Bucket: srv.Bucket, Region: srv.Region, EndpointURL: srv.URL, UsePathStyle: true,
					AccessKeyID: srv.AccessKeyID, SecretAccessKey: srv.SecretAccessKey,
				})
				noError(t, err)
				t.Cleanup(func() { noError(t, b.Close()) })
				return b
			}
		},
		"gha": func(t *testing.T) func() remotecache.Backend {
			srv, err := services.StartGHACache(t.Context(), services.GHACacheConfig{})
			services.Use(t, srv, err)
			repo := srv.NewRepository()
			return func() remotecache.Backend {
				token := repo.Token(services.GHAScope{Scope: "refs/heads/main", Permission: services.GHAReadWrite})
				b, err := gha.New(gha.Config{URLv2: srv.URL, Token: token})
				noError(t, err)
				return b
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := dial(t)
			one := newMountsJob(t, mountsRequest(b()))
			if was := one.run("/go-build", "first"); was != "" {
				t.Errorf("at first there is %q", was)
			}
			if got, want := one.text(one.importOutcomes()), "mounts go-build store: skipped cold cache: it was not stored there yet"; got != want {
				t.Errorf("restored: %s", got)
			}
			if got := one.export(); got != "mounts go-build store: ok" {
				t.Errorf("exported: %s", got)
			}

			two := newMountsJob(t, mountsRequest(b()))
			if was := two.run("/go-build", "second"); was != "first" {
				t.Errorf("the second job has %q", was)
			}
			if was := two.run("/go-build", ""); was != "second" {
				t.Errorf("its next step has %q", was)
			}
			if got := two.text(two.importOutcomes()); got != "mounts go-build store: ok" {
				t.Errorf("restored: %s", got)
			}
			if got := two.export(); got != "mounts go-build store: ok" {
				t.Errorf("exported: %s", got)
			}
			for _, step := range []string{"restoring cache mount go-build from store", "exporting cache mount go-build to store"} {
				if _, shown := two.steps[step]; !shown {
					t.Errorf("no step %q among %q", step, two.steps)
				}
			}

			three := newMountsJob(t, mountsRequest(b()))
			if was := three.run("/go-build", ""); was != "second" {
				t.Errorf("the third job has %q", was)
			}
			three.export()
			if log := three.steps["exporting cache mount go-build to store"]; !strings.Contains(log, "unchanged") {
				t.Errorf("the log of an export without changes is %q", log)
			}
		})
	}
}

func TestMountsPicked(t *testing.T) {
	m := remotecache.NewMemory()
	req := mountsRequest(m)
	req.Exports[0].Mounts.IDs = []string{"npm", "/root/.cache"}
	content := "/npm:sha256:" + strings.Repeat("0", 64)
	ids := []string{"/npm", "//root/.cache", "/other", "ns/npm", content}
	one := newMountsJob(t, req)
	for _, id := range ids {
		one.run(id, id)
	}
	if got, want := one.export(), "mounts npm store: ok\nmounts /root/.cache store: ok\nmounts npm store: ok"; got != want {
		t.Errorf("exported\n%s\nwant\n%s", got, want)
	}
	req.Imports[0].Mounts.IDs = []string{"npm"}
	two := newMountsJob(t, req)
	for _, id := range ids {
		if was := two.run(id, ""); (was == id) != (id == "/npm" || id == content) {
			t.Errorf("%s has %q", id, was)
		}
	}
}

func TestMountsOfTheFirstImport(t *testing.T) {
	a, b, c := remotecache.NewMemory(), remotecache.NewMemory(), remotecache.NewMemory()
	for name, m := range map[string]*remotecache.Memory{"b": b, "c": c} {
		j := newMountsJob(t, mountsRequest(m))
		j.run("/id", name)
		j.export()
	}
	from := func(name string, b remotecache.Backend, refs ...string) Import {
		return Import{Name: name, Mounts: &MountsImport{Backend: b, Refs: refs}}
	}
	j := newMountsJob(t, Request{Imports: []Import{{Name: "none"}, from("a", a, "main"), from("b", b, "other", "main"), from("c", c, "main")}})
	if was := j.run("/id", ""); was != "b" {
		t.Errorf("restored %q", was)
	}
	if got, want := j.text(j.importOutcomes()), "mounts id a: skipped cold cache: it was not stored there yet\nmounts id b: ok"; got != want {
		t.Errorf("outcomes\n%s\nwant\n%s", got, want)
	}
}

// A brokenBackend stores what it is given and gives something else.
type brokenBackend struct {
	remotecache.Backend
	err error // nil means that blobs are corrupt
}

func (b brokenBackend) Open(context.Context, ocispec.Descriptor, int64) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("x")), b.err
}

// TestMountsBroken: a broken cache costs time, and is mended by the next export.
func TestMountsBroken(t *testing.T) {
	for _, fault := range []error{nil, errors.New("503 from the service")} {
		m := remotecache.NewMemory()
		one := newMountsJob(t, mountsRequest(m))
		one.run("/id", "first")
		one.export()

		req := mountsRequest(m)
		req.Imports[0].Mounts.Backend = brokenBackend{m, fault}
		two := newMountsJob(t, req)
		if was := two.run("/id", "second"); was != "" {
			t.Errorf("there is %q", was)
		}
		if got := two.text(two.importOutcomes()); !strings.HasPrefix(got, "mounts id store: failed ") {
			t.Errorf("outcome: %s", got)
		}
		if log := two.steps["warnings"]; !strings.Contains(log, "beginning without it") {
			t.Errorf("warnings: %q", log)
		}
		if got := two.export(); got != "mounts id store: ok" {
			t.Errorf("exported: %s", got)
		}
		three := newMountsJob(t, mountsRequest(m))
		if was := three.run("/id", ""); was != "second" {
			t.Errorf("afterwards there is %q", was)
		}
	}
}

func TestMountsExportFails(t *testing.T) {
	m := remotecache.NewMemory()
	refused := errors.New("the job of a fork may not write")
	for name, tt := range map[string]struct {
		edit func(*Export)
		want string
	}{
		"denied":    {func(ex *Export) { ex.Denied = refused }, "mounts id store: skipped the job of a fork may not write"},
		"read-only": {func(ex *Export) { ex.Backend = remotecache.ReadOnly(m) }, "mounts id store: skipped save cache mount /id for linux/amd64"},
		"bad ref":   {func(ex *Export) { ex.Backend = refusingBackend{m, refused} }, "mounts id store: failed save cache mount /id for linux/amd64"},
		"late":      {func(ex *Export) { ex.Timeout = time.Nanosecond }, "mounts id store: failed save cache mount /id for linux/amd64: not done within 1ns"},
	} {
		req := mountsRequest(m)
		tt.edit(&req.Exports[0])
		j := newMountsJob(t, req)
		j.run("/id", "x")
		if got := j.export(); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %s", name, got)
		}
	}
	req := mountsRequest(m)
	req.Exports[0].Backend, req.Exports[0].FailBuild = refusingBackend{m, refused}, true
	j := newMountsJob(t, req)
	j.run("/id", "x")
	if _, err := j.exportMounts(t.Context(), req.Exports[0]); !errors.Is(err, refused) {
		t.Errorf("an export that is to fail the build: %v", err)
	}
	j = newMountsJob(t, mountsRequest(m))
	j.run("/id", "")
	if got := j.export(); got != "mounts id store: skipped it has no files" {
		t.Errorf("without files: %s", got)
	}
}

// A refusingBackend takes no Index.
type refusingBackend struct {
	remotecache.Backend
	err error
}

func (r refusingBackend) SaveIndex(context.Context, string, *remotecache.Index) error { return r.err }

func TestMountsCancelled(t *testing.T) {
	m := remotecache.NewMemory()
	one := newMountsJob(t, mountsRequest(m))
	one.run("/id", "x")
	one.export()
	stopped := errors.New("the job was stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	req := mountsRequest(cancellingBackend{m, func() { cancel(stopped) }})
	two := newMountsJob(t, req)
	_, err := two.world.Mounts.Get(ctx, cachemount.Want{Use: cachemount.Use{ID: "/id", Platform: "linux/amd64"}})
	if !errors.Is(err, stopped) {
		t.Errorf("a step that is cancelled while its mount is restored: %v", err)
	}
}

// A cancellingBackend calls cancel when a blob is opened.
type cancellingBackend struct {
	remotecache.Backend
	cancel func()
}

func (c cancellingBackend) Open(ctx context.Context, _ ocispec.Descriptor, _ int64) (io.ReadCloser, error) {
	c.cancel()
	<-ctx.Done()
	return nil, ctx.Err()
}
