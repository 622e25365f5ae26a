package contenthash_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/mayfly-build/mayfly/engine/contenthash"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/opencontainers/go-digest"
)

// counted is Content that knows how often it was opened.
type counted struct {
	fsdiff.Content
	opens *atomic.Int32
}

func (c counted) Open() (io.ReadCloser, error) {
	c.opens.Add(1)
	return c.Content.Open()
}

func TestSumReadsEachFileOnce(t *testing.T) {
	var opens atomic.Int32
	m := fsdiff.NewMem()
	for _, p := range []string{"a", "b", "c"} {
		m.Add(fsdiff.Entry{Path: p, Mode: 0o644, Size: 1, Content: counted{fsdiff.Bytes([]byte(p)), &opens}})
	}
	v := fsdiff.NewView(nil, m)
	h := contenthash.New(nil)
	var wg sync.WaitGroup
	sums := make([]digest.Digest, 20)
	for i := range sums {
		wg.Go(func() {
			var err error
			if sums[i], err = h.Sum(t.Context(), v, []contenthash.Selector{{}, {Path: "a"}, {Path: "*", Wildcard: true}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := opens.Load(); n != 3 {
		t.Errorf("3 files were opened %d times", n)
	}
	for _, s := range sums {
		if s != sums[0] {
			t.Errorf("sums differ: %v", sums)
		}
	}
}

func TestSumOfNilView(t *testing.T) {
	h := contenthash.New(nil)
	want := digest.FromString(digest.FromBytes(nil).String())
	if got, err := h.Sum(t.Context(), nil, nil); err != nil || got != want {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if _, err := h.Sum(t.Context(), nil, []contenthash.Selector{{Path: "x"}}); !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), `"/x"`) {
		t.Errorf("error is %v", err)
	}
}

func TestSumNamesTheFileItCannotRead(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "f"), "one")
	sent, err := fsdiff.Host(t.Context(), root, fsdiff.HostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "f"), "another")
	_, err = contenthash.New(nil).Sum(t.Context(), fsdiff.NewView(nil, sent), nil)
	if !errors.Is(err, fsdiff.ErrChanged) || !strings.Contains(err.Error(), filepath.Join(root, "f")) {
		t.Errorf("error is %v", err)
	}
}

func TestManifest(t *testing.T) {
	m := fsdiff.NewMem()
	m.Add(fsdiff.Entry{Path: "d", Mode: fs.ModeDir | 0o755})
	m.Add(fsdiff.Entry{Path: "d/a", Mode: 0o644, Size: 1, Content: fsdiff.Bytes([]byte("a"))})
	m.Add(fsdiff.Entry{Path: "d/b", Mode: 0o644, Size: 1, Content: fsdiff.Bytes([]byte("b"))})
	m.Add(fsdiff.Entry{Path: "e", Mode: 0o644})
	v := fsdiff.NewView(nil, m)
	for _, c := range []struct {
		sels []contenthash.Selector
		want string
	}{
		{nil, "/ /d /d/a /d/b /e"},
		{[]contenthash.Selector{{Path: "d"}}, "/d /d/a /d/b"},
		{[]contenthash.Selector{{Path: "d", ExcludePatterns: []string{"a"}}, {Path: "e"}}, "/d /d/b /e"},
	} {
		items, err := contenthash.New(nil).Manifest(t.Context(), v, c.sels)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, it := range items {
			got = append(got, it.Path)
			if it.Digest.Validate() != nil {
				t.Errorf("%s has digest %q", it.Path, it.Digest)
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("got %s, want %s", s, c.want)
		}
	}
}

func TestItem(t *testing.T) {
	m := fsdiff.NewMem()
	m.Add(fsdiff.Entry{Path: "a", Mode: 0o644, Size: 1, Content: fsdiff.Bytes([]byte("a"))})
	v := fsdiff.NewView(nil, m)
	h := contenthash.New(nil)
	items, err := h.Manifest(t.Context(), v, nil)
	if err != nil {
		t.Fatal(err)
	}
	e := *items[1].Entry
	if d, err := h.Item(v, &e); err != nil || d != items[1].Digest {
		t.Errorf("digest %s, %v, want %s", d, err, items[1].Digest)
	}
	e.Mode = 0o755
	if d, err := h.Item(v, &e); err != nil || d == items[1].Digest {
		t.Errorf("digest %s, %v, with another mode", d, err)
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// settled makes a tree whose files were last changed long enough ago to be
// cached: mtime can be set back, ctime has to be waited for.
func settled(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	write(t, filepath.Join(root, "f"), "one")
	write(t, filepath.Join(root, "g"), "two")
	if testing.Short() {
		t.Skip("waits for file times to age")
	}
	time.Sleep(2100 * time.Millisecond)
	return root
}

func sum(t *testing.T, root string, c *contenthash.Cache) digest.Digest {
	t.Helper()
	sent, err := fsdiff.Host(t.Context(), root, fsdiff.HostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := contenthash.New(c).Sum(t.Context(), fsdiff.NewView(nil, sent), nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestCache(t *testing.T) {
	t.Parallel()
	root, path := settled(t), filepath.Join(t.TempDir(), "sub", "digests")
	c := contenthash.OpenCache(path)
	want := sum(t, root, c)
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(path)
	if err != nil || len(first) == 0 {
		t.Fatalf("nothing saved: %v", err)
	}

	again := contenthash.OpenCache(path)
	if got := sum(t, root, again); got != want {
		t.Errorf("from the cache %v, want %v", got, want)
	}
	if hits, misses := again.Stats(); hits != 2 || misses != 0 {
		t.Errorf("%d hits, %d misses; want 2, 0", hits, misses)
	}
	if err := again.Save(); err != nil {
		t.Fatal(err)
	}

	// A change of the bytes, also one that keeps size and mtime, is a miss.
	st, err := os.Stat(filepath.Join(root, "f"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "f"), "ONE")
	if err := os.Chtimes(filepath.Join(root, "f"), st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
	changed := contenthash.OpenCache(path)
	if got := sum(t, root, changed); got == want {
		t.Error("a changed file has the digest of before")
	}
	if hits, misses := changed.Stats(); hits != 1 || misses != 1 {
		t.Errorf("%d hits, %d misses; want 1, 1", hits, misses)
	}

	// A damaged file is an empty cache.
	for name, b := range map[string][]byte{
		"truncated": first[:len(first)-7],
		"flipped":   append(append([]byte{}, first[:60]...), append([]byte{first[60] ^ 1}, first[61:]...)...),
		"foreign":   []byte("something else"),
		"empty":     {},
	} {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		c := contenthash.OpenCache(path)
		sum(t, root, c)
		if hits, _ := c.Stats(); hits != 0 {
			t.Errorf("%s: %d hits", name, hits)
		}
		if err := c.Save(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCacheLeavesOutFreshFiles(t *testing.T) {
	root, path := t.TempDir(), filepath.Join(t.TempDir(), "digests")
	write(t, filepath.Join(root, "f"), "just now")
	c := contenthash.OpenCache(path)
	sum(t, root, c)
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that may still change unseen was stored: %v", err)
	}
}
