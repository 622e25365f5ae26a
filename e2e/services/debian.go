package services

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Debian pushes to ref an image of Debian's minimal root file system with
// packages added, made by mmdebstrap from the mirror in $DEBIAN_MIRROR
// (deb.debian.org by default). The file system is kept in DevDir, so only the
// first call downloads anything. It needs root.
func Debian(ctx context.Context, ref string, packages ...string) error {
	tar, err := debianTar(ctx, packages)
	if err != nil {
		return err
	}
	img, err := image([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
	if err != nil {
		return err
	}
	if img, err = addLayer(img, func() (io.ReadCloser, error) { return os.Open(tar) }); err != nil {
		return err
	}
	return Push(ctx, ref, img)
}

const debianSuite = "bookworm" // the release whose busybox, registry and podman the tests are written against

// debianTar returns the path of a root file system as a compressed tar, and
// makes it when it is not there.
func debianTar(ctx context.Context, packages []string) (string, error) {
	bin, err := Tool("mmdebstrap")
	if err != nil {
		return "", err
	}
	dev, err := DevDir()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dev, 0o755); err != nil {
		return "", fmt.Errorf("make %s: %w", dev, err)
	}
	mirror := os.Getenv("DEBIAN_MIRROR")
	if mirror == "" {
		mirror = "http://deb.debian.org/debian"
	}
	key := sha256.Sum256([]byte(mirror + "\n" + strings.Join(packages, ",")))
	path := filepath.Join(dev, fmt.Sprintf("%s-%x.tar.gz", debianSuite, key[:6]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	tmp := fmt.Sprintf("%s.%d.tar.gz", strings.TrimSuffix(path, ".tar.gz"), os.Getpid()) // its ending says how to compress
	args := []string{"--mode=root", "--variant=minbase", "--quiet"}
	if len(packages) > 0 {
		args = append(args, "--include="+strings.Join(packages, ","))
	}
	// Without the nodes of /dev: every runtime mounts its own.
	args = append(args, "--skip=output/dev", debianSuite, tmp, mirror)
	if _, err := run(ctx, bin, args...); err != nil {
		return "", errors.Join(fmt.Errorf("make a Debian root file system: %w", err), os.RemoveAll(tmp))
	}
	return path, os.Rename(tmp, path)
}

func architecture() string { return runtime.GOARCH }
