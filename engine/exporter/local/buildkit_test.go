package local_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/exporter/local"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/layertar"
)

// TestEqualsBuildKit exports an image and compares with testdata/rootfs.txt.
func TestEqualsBuildKit(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: the image has devices")
	}
	want, err := os.ReadFile("testdata/rootfs.txt")
	if err != nil {
		t.Fatal(err)
	}
	view := imageView(t, "../tar/testdata/image.tar")
	for name, prepare := range map[string]func(dir string) error{
		"new": func(string) error { return nil },
		// Everything in it gets the directory's group unless it is set.
		"setgid": func(dir string) error {
			return os.Chmod(dir, 0o755|fs.ModeSetgid)
		},
		"again": func(dir string) error { return local.Export(t.Context(), view, dir, local.Options{}) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Chown(dir, 0, 4711); err != nil {
				t.Fatal(err)
			}
			if err := prepare(dir); err != nil {
				t.Fatal(err)
			}
			if err := local.Export(t.Context(), view, dir, local.Options{}); err != nil {
				t.Fatal(err)
			}
			got := describe(t, dir)
			for i, w := range strings.Split(strings.TrimSpace(string(want)), "\n") {
				if i >= len(got) || got[i] != w {
					t.Fatalf("line %d is missing or differs:\n%q\nBuildKit's is\n%q", i, got[min(i, len(got)-1)], w)
				}
			}
			if more := len(got) - strings.Count(string(want), "\n"); more != 0 {
				t.Errorf("%d lines more than BuildKit has: %q", more, got)
			}
		})
	}
}

// describe gives the lines of rootfs.txt.
func describe(t *testing.T, dir string) (lines []string) {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if p != dir {
			paths = append(paths, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(paths, strings.Compare)
	for _, p := range paths {
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%o %d:%d %d %s", st.Mode, st.Uid, st.Gid, st.Mtim.Nano(), strings.TrimPrefix(p, dir+"/"))
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprintf(" links=%d %s", st.Nlink, digest.FromBytes(b))
		case syscall.S_IFLNK:
			to, err := os.Readlink(p)
			if err != nil {
				t.Fatal(err)
			}
			line += " -> " + to
		case syscall.S_IFCHR, syscall.S_IFBLK:
			line += fmt.Sprintf(" %d,%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		names := make([]byte, 1024)
		if n, err := unix.Llistxattr(p, names); err == nil && n > 0 {
			line += fmt.Sprintf(" %q", names[:n])
		}
		lines = append(lines, line)
	}
	return lines
}

func imageView(t *testing.T, name string) (view *fsdiff.View) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for tr := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
	blob := func(d digest.Digest) []byte { return files["blobs/sha256/"+d.Encoded()] }
	var index ocispec.Index
	var m ocispec.Manifest
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(blob(index.Manifests[0].Digest), &m); err != nil {
		t.Fatal(err)
	}
	for _, l := range m.Layers {
		dir, parent := t.TempDir(), view
		if _, err := layertar.Unpack(t.Context(), bytes.NewReader(blob(l.Digest)), dir, func(context.Context) (*fsdiff.View, error) { return parent, nil }); err != nil {
			t.Fatal(err)
		}
		view = fsdiff.NewView(view, fsdiff.Dir(dir))
	}
	return view
}
