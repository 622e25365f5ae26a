package services

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A File is put into a base image as one more layer.
type File struct {
	Path string // relative to the root
	Mode int64  // permission bits
	Data []byte
}

// baseTime is the creation and modification time of all that Base makes, so
// that the same busybox gives the same digest.
func baseTime() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// Base pushes to ref an image with Debian's static busybox: every applet is a
// hard link in /bin; users root, app (1000) and nobody; /tmp is 1777. Each of
// extra is one more layer. The digest is the same in every run.
func Base(ctx context.Context, ref string, extra ...File) error {
	bin, err := Tool("busybox")
	if err != nil {
		return err
	}
	list, err := run(ctx, bin, "--list")
	if err != nil {
		return err
	}
	data, err := os.ReadFile(bin)
	if err != nil {
		return fmt.Errorf("read busybox: %w", err)
	}
	root, err := busyboxTar(data, strings.Fields(string(list)))
	if err != nil {
		return err
	}
	layers := []*bytes.Buffer{root}
	for _, f := range extra {
		b := &bytes.Buffer{}
		w := newTar(b)
		w.file(f.Path, f.Mode, f.Data)
		if err := w.close(); err != nil {
			return err
		}
		layers = append(layers, b)
	}
	img, err := image([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
	if err != nil {
		return err
	}
	for _, l := range layers {
		if img, err = addLayer(img, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l.Bytes())), nil }); err != nil {
			return err
		}
	}
	return Push(ctx, ref, img)
}

// Push writes an image to a registry, by plain HTTP on loopback.
func Push(ctx context.Context, ref string, img v1.Image) error {
	r, err := name.ParseReference(ref)
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	if err := remote.Write(r, img, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}

// image returns an OCI image without layers for this machine.
func image(env []string) (v1.Image, error) {
	cf := &v1.ConfigFile{
		Architecture: architecture(), OS: "linux", Created: v1.Time{Time: baseTime()},
		RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{Env: env, Cmd: []string{"sh"}},
	}
	img, err := mutate.ConfigFile(empty.Image, cf)
	if err != nil {
		return nil, fmt.Errorf("make an image: %w", err)
	}
	return mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), types.OCIConfigJSON), nil
}

func addLayer(img v1.Image, open tarball.Opener) (v1.Image, error) {
	l, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("make a layer: %w", err)
	}
	out, err := mutate.Append(img, mutate.Addendum{Layer: l, History: v1.History{Created: v1.Time{Time: baseTime()}, CreatedBy: "mayfly e2e/services"}})
	if err != nil {
		return nil, fmt.Errorf("add a layer: %w", err)
	}
	return out, nil
}

func busyboxTar(busybox []byte, applets []string) (*bytes.Buffer, error) {
	b := &bytes.Buffer{}
	w := newTar(b)
	for _, d := range []string{"bin", "etc", "home", "home/app", "lib", "root", "sbin", "tmp", "usr", "usr/bin", "usr/sbin", "var", "var/tmp"} {
		mode, owner := int64(0o755), 0
		switch d {
		case "tmp", "var/tmp":
			mode = 0o1777
		case "root":
			mode = 0o700
		case "home/app":
			owner = 1000
		}
		w.header(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: mode, Uid: owner, Gid: owner})
	}
	w.file("bin/busybox", 0o755, busybox)
	sort.Strings(applets)
	for _, a := range applets {
		if a != "busybox" {
			w.header(&tar.Header{Typeflag: tar.TypeLink, Name: "bin/" + a, Linkname: "bin/busybox", Mode: 0o755})
		}
	}
	w.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	w.file("etc/group", 0o644, []byte("root:x:0:\nstaff:x:50:app\napp:x:1000:\nnogroup:x:65534:\n"))
	return b, w.close()
}

// A tarWriter keeps the first error until close.
type tarWriter struct {
	w   *tar.Writer
	err error
}

func newTar(w io.Writer) *tarWriter { return &tarWriter{w: tar.NewWriter(w)} }

func (w *tarWriter) header(h *tar.Header) {
	h.ModTime = baseTime()
	if w.err == nil {
		w.err = w.w.WriteHeader(h)
	}
}

func (w *tarWriter) file(path string, mode int64, data []byte) {
	w.header(&tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: mode, Size: int64(len(data))})
	if w.err == nil {
		_, w.err = w.w.Write(data)
	}
}

func (w *tarWriter) close() error {
	if w.err != nil {
		return fmt.Errorf("write a tar: %w", w.err)
	}
	return w.w.Close()
}
