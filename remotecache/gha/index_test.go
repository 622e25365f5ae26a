package gha_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/gha"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

// indexOf returns an Index that seed tells from others.
func indexOf(seed uint64) *remotecache.Index {
	desc, _ := remotecachetest.Blob(seed, 10)
	return remotecachetest.IndexOf("index", desc)
}

func has(idx *remotecache.Index, seed uint64) bool {
	desc, _ := remotecachetest.Blob(seed, 10)
	return idx != nil && len(idx.Layers) == 1 && idx.Layers[0].Digest == desc.Digest
}

func indexKeys(repo *services.GHARepository) (out []string) {
	for _, e := range repo.Entries() {
		if strings.HasPrefix(e.Key, "index-") {
			out = append(out, e.Key)
		}
	}
	return out
}

func TestBranches(t *testing.T) {
	c := v2(t)
	repo := c.NewRepository()
	onMain := dial(t, c, repo, nil, writeMain)
	onPull := dial(t, c, repo, nil, writePull, readMain)
	if _, err := onPull.LoadIndexes(t.Context(), "app"); !errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("LoadIndexes of nothing: %v, want ErrNotFound", err)
	}
	if err := onMain.SaveIndex(t.Context(), "app", indexOf(1)); err != nil {
		t.Fatal(err)
	}
	desc, data := remotecachetest.Blob(1, 10)
	if err := put(onMain, desc, data); err != nil {
		t.Fatal(err)
	}
	// A pull request reads the base branch, and has nothing of its own yet.
	if list, err := onPull.LoadIndexes(t.Context(), "app"); err != nil || len(list) != 1 || !has(list[0], 1) {
		t.Errorf("LoadIndexes: %v, %v", list, err)
	}
	isThere(t, onPull, desc, data)
	if _, err := onPull.LoadIndex(t.Context(), "app"); !errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("LoadIndex: %v, want ErrNotFound", err)
	}
	idx := indexOf(2)
	idx.Version = remotecache.Absent
	if err := onPull.SaveIndex(t.Context(), "app", idx); err != nil {
		t.Fatal(err)
	}
	list, err := onPull.LoadIndexes(t.Context(), "app")
	if err != nil || len(list) != 2 || !has(list[0], 2) || !has(list[1], 1) {
		t.Errorf("LoadIndexes: %v, %v; want the pull request's before main's", list, err)
	}
	// Main does not see what the pull request made.
	if list, err := onMain.LoadIndexes(t.Context(), "app"); err != nil || len(list) != 1 || !has(list[0], 1) {
		t.Errorf("LoadIndexes on main: %v, %v", list, err)
	}
	// Who may only read loads what there is.
	if idx, err := dial(t, c, repo, nil, readMain).LoadIndex(t.Context(), "app"); err != nil || !has(idx, 1) {
		t.Errorf("LoadIndex with a read-only token: %v, %v", idx, err)
	}
	// The keys are BuildKit's: the hash is of the branch.
	want := "index-app-1-f921bd05#1 index-app-1-3f31b38f#1"
	if got := strings.Join(indexKeys(repo), " "); got != want {
		t.Errorf("keys %s, want %s", got, want)
	}
}

func TestReadOnly(t *testing.T) {
	c := v2(t)
	repo := c.NewRepository()
	desc, data := remotecachetest.Blob(1, 10)
	for _, tt := range []struct {
		name, why, hint string
		b               *gha.Backend
	}{
		{"token without a writable scope", "may only read (refs/heads/main)", "pull_request_target", dial(t, c, repo, nil, readMain)},
		{"mode read", `cache-mode is "read"`, "cache-mode: write", dial(t, c, repo, func(cfg *gha.Config) { cfg.Mode = gha.ModeRead }, writeMain)},
		{"mode none", `cache-mode is "none"`, "cache-mode: write", dial(t, c, repo, func(cfg *gha.Config) { cfg.Mode = gha.ModeNone }, writeMain)},
		{"expired token", "expired at 20", "6 hours", dial(t, c, repo, func(cfg *gha.Config) {
			cfg.Token = repo.TokenUntil(time.Now().Add(-time.Minute), writeMain)
		})},
	} {
		for i, err := range []error{tt.b.Writable(), put(tt.b, desc, data), tt.b.SaveIndex(t.Context(), "app", indexOf(1))} {
			if !errors.Is(err, remotecache.ErrReadOnly) || !strings.Contains(err.Error(), tt.why) || !strings.Contains(hint.Of(err), tt.hint) {
				t.Errorf("%s: error %d: %v (hint %q), want ErrReadOnly with %q and hint %q", tt.name, i, err, hint.Of(err), tt.why, tt.hint)
			}
		}
	}
	if n := len(repo.Entries()); n != 0 || repo.Counts()["CreateCacheEntry"] != 0 {
		t.Errorf("%d entries, %v requests", n, repo.Counts())
	}
	b := dial(t, c, repo, nil, writeMain)
	if err := b.Writable(); err != nil {
		t.Error(err)
	}
	// The service may deny what the token seems to allow.
	repo.Fail("CreateCacheEntry", services.GHAFault{Times: 1, Status: 200, Body: `{"ok":false,"message":"cache write denied: token has no writable scopes"}`})
	if err := put(b, desc, data); !errors.Is(err, remotecache.ErrReadOnly) || hint.Of(err) == "" {
		t.Errorf("denied by the service: %v, hint %q", err, hint.Of(err))
	}
}

// TestDeniedReads has tokens that the service refuses to look anything up for.
func TestDeniedReads(t *testing.T) {
	c := v2(t)
	repo := c.NewRepository()
	for _, tt := range []struct {
		name, want, hint string
		b                *gha.Backend
	}{
		{"expired", "expired at 20", "6 hours", dial(t, c, repo, func(cfg *gha.Config) { cfg.Token = repo.TokenUntil(time.Now().Add(-time.Minute), writeMain) })},
		{"write-only", "cache read denied: token has no readable scopes", "cache-mode", dial(t, c, repo, nil, services.GHAScope{Scope: mainBranch, Permission: services.GHAWrite})},
	} {
		_, err := tt.b.LoadIndex(t.Context(), "app")
		if err == nil || errors.Is(err, remotecache.ErrNotFound) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(hint.Of(err), tt.hint) {
			t.Errorf("%s: %v (hint %q), want %q and hint %q", tt.name, err, hint.Of(err), tt.want, tt.hint)
		}
	}
}

func TestModes(t *testing.T) {
	c := v2(t)
	repo := c.NewRepository()
	desc, data := remotecachetest.Blob(1, 10)
	mode := func(m gha.Mode) *gha.Backend {
		return dial(t, c, repo, func(cfg *gha.Config) { cfg.Mode = m }, writeMain)
	}
	blind := mode(gha.ModeWriteOnly)
	for i := range 2 {
		if err := put(blind, desc, data); err != nil {
			t.Fatal(err)
		}
		if err := blind.SaveIndex(t.Context(), "app", indexOf(uint64(i))); err != nil {
			t.Fatal(err)
		}
	}
	if n := repo.Counts()["GetCacheEntryDownloadURL"]; n != 0 {
		t.Errorf("write-only: %d look-ups", n)
	}
	if _, err := read(blind, desc); !errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("write-only: read: %v", err)
	}
	if idx, err := mode(gha.ModeRead).LoadIndex(t.Context(), "app"); err != nil || !has(idx, 1) {
		t.Errorf("read: the index is %v, %v; want that of the second save", idx, err)
	}
	isThere(t, mode(gha.ModeWrite), desc, data)
	if _, err := mode(gha.ModeNone).LoadIndexes(t.Context(), "app"); !errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("none: LoadIndexes: %v", err)
	}
	// A later job that may look finds numbers that go on.
	if err := mode(gha.ModeWrite).SaveIndex(t.Context(), "app", indexOf(7)); err != nil {
		t.Fatal(err)
	}
	if idx, err := mode("").LoadIndex(t.Context(), "app"); err != nil || !has(idx, 7) {
		t.Errorf("after another save: %v, %v", idx, err)
	}
}

// TestSaveIndexAtOnce has jobs replace the same version at once: one does.
func TestSaveIndexAtOnce(t *testing.T) {
	c := v2(t)
	repo := c.NewRepository()
	if err := dial(t, c, repo, nil, writeMain).SaveIndex(t.Context(), "app", indexOf(0)); err != nil {
		t.Fatal(err)
	}
	var saved atomic.Int64
	var g sync.WaitGroup
	for i := range uint64(6) {
		b := dial(t, c, repo, nil, writeMain)
		idx := indexOf(10 + i)
		idx.Version = "1"
		g.Go(func() {
			switch err := b.SaveIndex(t.Context(), "app", idx); {
			case err == nil:
				saved.Add(1)
			case !errors.Is(err, remotecache.ErrConflict):
				t.Error(err)
			}
		})
	}
	g.Wait()
	if saved.Load() != 1 {
		t.Errorf("%d jobs saved over one version", saved.Load())
	}
	idx, err := dial(t, c, repo, nil, writeMain).LoadIndex(t.Context(), "app")
	if err != nil || idx.Version != "2" {
		t.Errorf("%+v, %v", idx, err)
	}
}

// TestSaveIndexAfterCrash finds the next number taken by a job that was killed.
func TestSaveIndexAfterCrash(t *testing.T) {
	c := v2(t)
	repo := c.NewRepository()
	b := dial(t, c, repo, short, writeMain)
	if err := b.SaveIndex(t.Context(), "app", indexOf(1)); err != nil {
		t.Fatal(err)
	}
	key, _, _ := strings.Cut(indexKeys(repo)[0], "#")
	repo.Crash(mainBranch, key+"#2", gha.EntryVersion)
	for i, version := range []string{"1", ""} {
		idx := indexOf(uint64(2 + i))
		idx.Version = version
		begin := time.Now()
		if err := b.SaveIndex(t.Context(), "app", idx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("it took %s", took)
		}
		if got, err := b.LoadIndex(t.Context(), "app"); err != nil || !has(got, uint64(2+i)) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if got := indexKeys(repo); len(got) != 4 || got[2] != key+"#3" || got[3] != key+"#4" {
		t.Errorf("keys %v", got)
	}
}

func TestCorruptIndex(t *testing.T) {
	c := v2(t)
	repo := c.NewRepository()
	gac := goClient(t, c, repo, writeMain, readMain)
	saveRaw(t, gac, "index-app-1-f921bd05#1", "no index")
	b := dial(t, c, repo, nil, writeMain)
	if _, err := b.LoadIndex(t.Context(), "app"); !errors.Is(err, remotecache.ErrCorrupt) {
		t.Errorf("%v, want ErrCorrupt", err)
	}
	if err := b.SaveIndex(t.Context(), "app", indexOf(1)); err != nil {
		t.Errorf("saved over: %v", err)
	}
	saveRaw(t, gac, "index-bad-1-f921bd05#x", "no number")
	if _, err := b.LoadIndex(t.Context(), "bad"); !errors.Is(err, remotecache.ErrCorrupt) {
		t.Errorf("a key without a number: %v, want ErrCorrupt", err)
	}
	// The indexes that can be read are returned beside the error.
	other := dial(t, c, repo, nil, writePull, readMain)
	if err := other.SaveIndex(t.Context(), "bad", indexOf(3)); err != nil {
		t.Fatal(err)
	}
	list, err := other.LoadIndexes(t.Context(), "bad")
	if len(list) != 1 || !errors.Is(err, remotecache.ErrCorrupt) || !strings.Contains(err.Error(), mainBranch) {
		t.Errorf("LoadIndexes: %v, %v", list, err)
	}
}
