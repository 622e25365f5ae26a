package fsdiff_test

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// TestHostFiltersAsFsutil holds the walk against the library that BuildKit's
// clients send a context with.
func TestHostFiltersAsFsutil(t *testing.T) {
	root := tree(t,
		"Dockerfile=FROM scratch", ".dockerignore=x", "a/b/c=1", "a/b/d.txt=2", "a/b.txt=3", "a-b=4", "a.b=5",
		"src/main.go=1", "src/main_test.go=2", "src/deep/er/x.go=3", "src/deep/er/y.txt=4", "empty/",
		"node_modules/p/index.js=1", "node_modules/q/keep/me=1", "link->src", "src/back->../a/b",
		"dir with space/f=1", "ünï/ß=1", "abs->/src/deep", "dangling->nowhere", "hard1=h", "hard2=>hard1", "zdir/", "zdir/hard3=>hard1")
	cases := []fsdiff.HostOptions{
		{},
		{Exclude: []string{"node_modules"}},
		{Exclude: []string{"node_modules", "!node_modules/q/keep"}},
		{Exclude: []string{"*", "!src"}},
		{Exclude: []string{"**", "!src/deep/**"}},
		{Exclude: []string{"*", "!src/**/*.go"}},
		{Exclude: []string{"**/*.txt", "!a/b/*.txt"}},
		{Exclude: []string{"src/deep/er", "!src/deep/er/x.go"}},
		{Exclude: []string{"a/b"}},
		{Exclude: []string{"a*"}},
		{Exclude: []string{"src", "!src/m?in.go"}},
		{Exclude: []string{"**/er"}},
		{Exclude: []string{"", "  ", "#x"}},
		{Include: []string{"src"}},
		{Include: []string{"src/deep/er/x.go"}},
		{Include: []string{"src/*.go"}},
		{Include: []string{"**/*.go"}},
		{Include: []string{"s*", "!src/deep"}},
		{Include: []string{"nothing"}},
		{Include: []string{"a/b", "src"}, Exclude: []string{"**/*.txt"}},
		{Include: []string{"a/**"}, Exclude: []string{"a/b/**", "!a/b/c"}},
		{FollowPaths: []string{"link"}},
		{FollowPaths: []string{"link/main.go"}},
		{FollowPaths: []string{"src/back/c", "Dockerfile"}},
		{FollowPaths: []string{"l*k", "abs"}},
		{FollowPaths: []string{"dangling", "nope"}},
		{FollowPaths: []string{"."}},
		{FollowPaths: []string{"link"}, Exclude: []string{"src/deep"}},
		{FollowPaths: []string{"/src"}, Include: []string{"a-b"}},
		{FollowPaths: []string{"src/ba*"}, Include: []string{"dir with space"}},
		{FollowPaths: []string{"hard2", "zdir"}},
	}
	for _, o := range cases {
		t.Run(fmt.Sprintf("%q,%q,%q", o.Include, o.Exclude, o.FollowPaths), func(t *testing.T) {
			var want []string
			err := fsutil.WalkDir(t.Context(), root, &fsutil.FilterOpt{
				IncludePatterns: o.Include, ExcludePatterns: o.Exclude, FollowPaths: o.FollowPaths,
			}, func(path string, d fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				fi, err := d.Info()
				if err != nil {
					return err
				}
				st := fi.Sys().(*types.Stat)
				want = append(want, fmt.Sprintf("%s %v %d", path, fs.FileMode(st.Mode), st.ModTime))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, parallel := range []int{1, 8} {
				o.Parallel = parallel
				h, err := fsdiff.Host(t.Context(), root, o)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				err = fsdiff.NewView(nil, h).Walk("", func(e *fsdiff.Entry) error {
					if e.Path != "" {
						got = append(got, fmt.Sprintf("%s %v %d", e.Path, e.Mode, e.ModTime.UnixNano()))
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got, want) {
					t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				if n, _ := h.Len(); n != len(want) {
					t.Errorf("Len = %d, want %d", n, len(want))
				}
			}
		})
	}
}

func TestHostEntries(t *testing.T) {
	root := tree(t, "f=1", "g=>f", "d/")
	if os.Getuid() == 0 {
		if err := os.Lchown(filepath.Join(root, "f"), 123, 456); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", filepath.Join(root, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h, err := fsdiff.Host(t.Context(), root, fsdiff.HostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := h.Lookup("f")
	if err != nil || f.UID != 0 || f.GID != 0 {
		t.Errorf("f is %+v, %v; want owner 0:0", f, err)
	}
	if g, err := h.Lookup("g"); err != nil || g.Inode == 0 || g.Inode != f.Inode {
		t.Errorf("g is %+v, %v", g, err)
	}
	if s, err := h.Lookup("sock"); err != nil || !s.Mode.IsRegular() || s.Content != nil {
		t.Errorf("socket is %+v, %v; want an empty file", s, err)
	}
	keep, err := fsdiff.Host(t.Context(), root, fsdiff.HostOptions{KeepOwner: true})
	if err != nil {
		t.Fatal(err)
	}
	if f, err := keep.Lookup("f"); err != nil || f.UID != uint32(os.Getuid()) && f.UID != 123 {
		t.Errorf("f is %+v, %v; want its own owner", f, err)
	}
	if e, err := h.Lookup(""); err != nil || e.Mode != fs.ModeDir|0o755 {
		t.Errorf("root is %+v, %v", e, err)
	}
}

func TestHostErrors(t *testing.T) {
	root := tree(t, "f=1")
	for name, c := range map[string]struct {
		root string
		opt  fsdiff.HostOptions
		want string
	}{
		"missing": {filepath.Join(root, "nope"), fsdiff.HostOptions{}, "no such file"},
		"file":    {filepath.Join(root, "f"), fsdiff.HostOptions{}, "not a directory"},
		"pattern": {root, fsdiff.HostOptions{Exclude: []string{"[a-"}}, "exclude patterns"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := fsdiff.Host(t.Context(), c.root, c.opt)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.root) {
				t.Errorf("error is %v, want %q and the directory", err, c.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := fsdiff.Host(ctx, root, fsdiff.HostOptions{}); err == nil {
		t.Error("no error after cancel")
	}
}

func bigTree(b *testing.B) string {
	b.Helper()
	root := b.TempDir()
	for d := range 500 {
		dir := filepath.Join(root, fmt.Sprintf("pkg%03d", d/10), fmt.Sprintf("sub%03d", d))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		for f := range 100 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%03d.js", f)), []byte("x"), 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	return root
}

func BenchmarkHost50k(b *testing.B) {
	root := bigTree(b)
	opt := fsdiff.HostOptions{Exclude: []string{"node_modules", "**/*.log", ".git"}}
	b.ResetTimer()
	for b.Loop() {
		h, err := fsdiff.Host(b.Context(), root, opt)
		if err != nil {
			b.Fatal(err)
		}
		if n, _ := h.Len(); n != 50550 {
			b.Fatalf("%d entries", n)
		}
	}
}
