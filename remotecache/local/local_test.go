package local_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/client/ociindex"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/local"
	"github.com/mayfly-build/mayfly/remotecache/manifest"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
)

func open(t testing.TB, cfg local.Config) *local.Backend {
	t.Helper()
	b, err := local.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSuite(t *testing.T) {
	for name, form := range map[string]manifest.Form{
		"manifest": {}, "index": {Index: true}, "docker": {Index: true, Docker: true},
	} {
		t.Run(name, func(t *testing.T) {
			remotecachetest.Run(t, func(t *testing.T) func() remotecache.Backend {
				dir := t.TempDir()
				return func() remotecache.Backend { return open(t, local.Config{Dir: dir, Form: form}) }
			})
		})
	}
}

func TestKeeper(t *testing.T) {
	remotecachetest.RunKeeper(t, func(t *testing.T) func() remotecache.Backend {
		dir := t.TempDir()
		return func() remotecache.Backend { return open(t, local.Config{Dir: dir}) }
	}, true, true)
}

// fill saves an Index of n blobs under ref, which it returns.
func fill(t *testing.T, b *local.Backend, ref string, seed uint64, n int) *remotecache.Index {
	t.Helper()
	var descs []ocispec.Descriptor
	for i := range n {
		desc, data := remotecachetest.Blob(seed*1000+uint64(i), 100)
		if err := b.Put(t.Context(), desc, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		descs = append(descs, desc)
	}
	idx := remotecachetest.IndexOf(ref, descs...)
	if err := b.SaveIndex(t.Context(), ref, idx); err != nil {
		t.Fatal(err)
	}
	return idx
}

func load(t *testing.T, b *local.Backend, ref string, layers int) {
	t.Helper()
	idx, err := b.LoadIndex(t.Context(), ref)
	if err != nil {
		t.Errorf("load %s: %v", ref, err)
	} else if len(idx.Layers) != layers {
		t.Errorf("load %s: %d layers, want %d", ref, len(idx.Layers), layers)
	}
}

func files(t *testing.T, dir string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	if err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			out[rel] = true
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestReadsBuildKits reads what buildctl wrote, but for the blobs.
func TestReadsBuildKits(t *testing.T) {
	a, err := txtar.ParseFile("../testdata/buildkit/local-max.txtar")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, f := range a.Files {
		data := bytes.TrimSuffix(f.Data, []byte("\n"))
		name := f.Name
		if name != "index.json" {
			name = "blobs/sha256/" + digest.FromBytes(data).Encoded()
		}
		write(t, filepath.Join(dir, name), data)
	}
	b := open(t, local.Config{Dir: dir})
	load(t, b, b.Ref(), 12)
	var index ocispec.Index
	if err := json.Unmarshal(a.Files[0].Data, &index); err != nil {
		t.Fatal(err)
	}
	load(t, b, index.Manifests[0].Digest.String(), 12)
	for _, ref := range []string{"other", digest.FromString("x").String()} {
		if _, err := b.LoadIndex(t.Context(), ref); !errors.Is(err, remotecache.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", ref, err)
		}
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestBuildKitsClientsRead asks BuildKit's own code for what a save left.
func TestBuildKitsClientsRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "dir")
	b := open(t, local.Config{Dir: dir})
	if _, ok := b.Manifest(); ok {
		t.Error("a manifest before there is one")
	}
	fill(t, b, "latest", 1, 2)
	fill(t, b, "other", 2, 3)
	fill(t, b, "latest", 3, 4)
	saved, ok := b.Manifest()
	if !ok {
		t.Fatal("no manifest")
	}
	desc, err := ociindex.NewStoreIndex(dir).Get("latest")
	if err != nil {
		t.Fatal(err)
	}
	if desc.Digest != saved.Digest || desc.Size != saved.Size || desc.MediaType != ocispec.MediaTypeImageManifest {
		t.Errorf("BuildKit's client finds %+v, saved is %+v", desc, saved)
	}
	all, err := ociindex.NewStoreIndex(dir).Read()
	if err != nil || len(all.Manifests) != 2 || all.SchemaVersion != 2 || all.MediaType != ocispec.MediaTypeImageIndex {
		t.Errorf("%+v, %v", all, err)
	}

	// It adds to it, we add to that.
	if err := ociindex.NewStoreIndex(dir).Put(*desc, ociindex.Tag("theirs"), ociindex.Name("example.org/app:full")); err != nil {
		t.Fatal(err)
	}
	fill(t, b, "other", 4, 5)
	for ref, layers := range map[string]int{"latest": 4, "other": 5, "theirs": 4, "full": 4} {
		load(t, b, ref, layers)
	}
	for name := range files(t, dir) {
		if name != "index.json" && name != "oci-layout" && !strings.HasPrefix(name, "blobs/sha256/") {
			t.Errorf("there is a file %s", name)
		}
	}
	layout, err := os.ReadFile(filepath.Join(dir, "oci-layout"))
	if err != nil || string(layout) != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout: %s, %v", layout, err)
	}
}

// TestSavesTogether: many jobs and BuildKit's client change index.json at the
// same time, and no change is lost.
func TestSavesTogether(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 8 {
		b := open(t, local.Config{Dir: dir})
		wg.Go(func() { fill(t, b, "job"+string(rune('a'+i)), uint64(i), 1+i) })
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		for range 20 { // theirs gives up when the lock is taken
			err := ociindex.NewStoreIndex(dir).Put(ocispec.Descriptor{Digest: digest.FromString("x")}, ociindex.Tag("theirs"))
			if err == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	wg.Wait()
	b := open(t, local.Config{Dir: dir})
	for i := range 8 {
		load(t, b, "job"+string(rune('a'+i)), 1+i)
	}
}

func TestWaitsForTheLock(t *testing.T) {
	dir := t.TempDir()
	b := open(t, local.Config{Dir: dir})
	idx := fill(t, b, "latest", 1, 1)
	f, err := os.Create(filepath.Join(dir, "index.json.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.SaveIndex(ctx, "second", idx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while another holds the lock: %v", err)
	}
	load(t, b, "latest", 1) // readers do not wait
	time.AfterFunc(30*time.Millisecond, func() {
		os.Remove(f.Name()) // the way BuildKit's client goes
		f.Close()
	})
	if err := b.SaveIndex(t.Context(), "second", idx); err != nil {
		t.Error(err)
	}
	load(t, b, "second", 1)
}

func TestReset(t *testing.T) {
	dir := t.TempDir()
	b := open(t, local.Config{Dir: dir, Reset: true})
	fill(t, b, "other", 1, 3)
	fill(t, b, "latest", 2, 3)
	if got := len(files(t, dir)); got != 2+(3+2)*2 {
		t.Fatalf("%d files", got)
	}
	fill(t, b, "latest", 3, 1)
	if got := len(files(t, dir)); got != 2+(3+2)+(1+2) {
		t.Errorf("%d files after the reset", got)
	}
	load(t, b, "other", 3)
	load(t, b, "latest", 1)

	// Without it, the blobs of old caches stay.
	b = open(t, local.Config{Dir: dir})
	fill(t, b, "latest", 4, 1)
	if got := len(files(t, dir)); got != 2+(3+2)+(1+2)*2 {
		t.Errorf("%d files without reset", got)
	}
}

func TestDamage(t *testing.T) {
	desc, data := remotecachetest.Blob(1000, 100)
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, dir string, m ocispec.Descriptor)
		load   error // what LoadIndex returns
	}{
		{"index.json is no JSON", func(t *testing.T, dir string, _ ocispec.Descriptor) {
			write(t, filepath.Join(dir, "index.json"), []byte("{"))
		}, remotecache.ErrCorrupt},
		{"manifest is gone", func(t *testing.T, dir string, m ocispec.Descriptor) {
			os.Remove(filepath.Join(dir, "blobs/sha256", m.Digest.Encoded()))
		}, remotecache.ErrNotFound},
		{"manifest has other bytes", func(t *testing.T, dir string, m ocispec.Descriptor) {
			write(t, filepath.Join(dir, "blobs/sha256", m.Digest.Encoded()), []byte("{}"))
		}, remotecache.ErrCorrupt},
		{"manifest leads outside", func(t *testing.T, dir string, m ocispec.Descriptor) {
			doc := []byte(`{"config":{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":"sha256:../../../x","size":3}}`)
			write(t, filepath.Join(dir, "blobs/sha256", digest.FromBytes(doc).Encoded()), doc)
			write(t, filepath.Join(dir, "index.json"), []byte(`{"manifests":[{"digest":"`+string(digest.FromBytes(doc))+`","annotations":{"org.opencontainers.image.ref.name":"latest"}}]}`))
		}, remotecache.ErrCorrupt},
		{"index.json leads outside", func(t *testing.T, dir string, m ocispec.Descriptor) {
			write(t, filepath.Join(dir, "index.json"), []byte(`{"manifests":[{"digest":"sha256:../../../etc/passwd","annotations":{"org.opencontainers.image.ref.name":"latest"}}]}`))
		}, remotecache.ErrCorrupt},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, local.Config{Dir: dir})
			fill(t, b, "latest", 1, 1)
			m, _ := b.Manifest()
			tt.damage(t, dir, m)
			if _, err := b.LoadIndex(t.Context(), "latest"); !errors.Is(err, tt.load) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%v, want %v and the directory", err, tt.load)
			}
		})
	}
	t.Run("blob", func(t *testing.T) {
		dir := t.TempDir()
		b := open(t, local.Config{Dir: dir})
		fill(t, b, "latest", 1, 1)
		path := filepath.Join(dir, "blobs/sha256", desc.Digest.Encoded())
		for what, bad := range map[string][]byte{"short": data[:50], "flipped": append([]byte{data[0] ^ 1}, data[1:]...)} {
			write(t, path, bad)
			r, err := remotecache.Verify(b).Open(t.Context(), desc, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(r); !errors.Is(err, remotecache.ErrCorrupt) {
				t.Errorf("%s: %v, want ErrCorrupt", what, err)
			}
			r.Close()
		}
		// One that is too short is missing, and is put anew.
		write(t, path, data[:50])
		if m, err := b.Missing(t.Context(), []ocispec.Descriptor{desc}); err != nil || len(m) != 1 {
			t.Errorf("missing %v, %v", m, err)
		}
		if err := b.Put(t.Context(), desc, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

func TestReadOnlyDirectory(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write to every directory")
	}
	dir := t.TempDir()
	fill(t, open(t, local.Config{Dir: dir}), "latest", 1, 1)
	for _, d := range []string{dir, filepath.Join(dir, "blobs/sha256")} {
		if err := os.Chmod(d, 0o555); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(d, 0o755) })
	}
	b := open(t, local.Config{Dir: dir})
	load(t, b, "latest", 1)
	desc, data := remotecachetest.Blob(1, 10)
	if err := b.Put(t.Context(), desc, bytes.NewReader(data)); !errors.Is(err, remotecache.ErrReadOnly) {
		t.Errorf("Put: %v", err)
	}
}

// TestKilled: temporary files of a process that was killed are no blobs, and
// go one day.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	b := open(t, local.Config{Dir: dir})
	fill(t, b, "latest", 1, 1)
	fresh, stale := filepath.Join(dir, ".mayfly-tmp-1"), filepath.Join(dir, ".mayfly-tmp-2")
	write(t, fresh, []byte("x"))
	write(t, stale, []byte("x"))
	long := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(stale, long, long); err != nil {
		t.Fatal(err)
	}
	fill(t, b, "latest", 2, 1)
	if f := files(t, dir); !f[".mayfly-tmp-1"] || f[".mayfly-tmp-2"] {
		t.Errorf("files %v", f)
	}
}

func TestConfig(t *testing.T) {
	if _, err := local.New(local.Config{}); err == nil {
		t.Error("a cache without a directory")
	}
	if got := open(t, local.Config{Dir: "x"}).Ref(); got != "latest" {
		t.Errorf("ref %q", got)
	}
	if got := open(t, local.Config{Dir: "x", Ref: "v1"}).Ref(); got != "v1" {
		t.Errorf("ref %q", got)
	}
	if _, err := open(t, local.Config{Dir: filepath.Join(t.TempDir(), "none")}).LoadIndex(t.Context(), "latest"); !errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
