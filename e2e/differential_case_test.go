package e2e

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/tools/txtar"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// A diffCase is one testdata/differential/*.txtar: files, and above them a
// comment of lines that start with # and of directives that make what txtar
// cannot say:
//
//	chmod MODE PATH       octal
//	symlink PATH TARGET
//	link PATH TARGET      a hard link
//	touch TIME PATH       RFC 3339, to the nanosecond; does not follow links
//	mkdir PATH
//	fill BYTES PATH       a file of that many bytes that look random
//	generate N PATH       a tree of N small files
//	tar FILE DIR          a tar of DIR, by its name gzip, xz or bzip2 compressed
//	arg K=V               a build argument
//	target STAGE
//	dockerfile PATH
//	secret id=ID,src=PATH
//	onbuild INSTRUCTION   makes the image $ONBUILD, BASE with this trigger
//	debian                pushes a minimal Debian; its reference is the argument DEBIAN
//	http DIR              serves DIR; its URL is the argument HTTP
//	nocache REASON        BuildKit misses with its own cache: no case for TestInterop
//	git DIR               serves DIR as a repository; its URL is the argument GIT
//
// Every case has the arguments BASE (busybox) and SOURCE_DATE_EPOCH.
type diffCase struct {
	name       string
	dir        string // the context
	args       []string
	target     string
	dockerfile string
	secrets    []string
	nocache    string
}

// commands gives the build as buildctl and as mayfly take it, the latter
// without the context.
func (c *diffCase) commands(registry string) (services.Build, []string) {
	in := services.Build{Context: c.dir, Dockerfile: c.dockerfile, Secrets: c.secrets}
	var mine []string
	for _, a := range c.args {
		a = strings.ReplaceAll(a, "$REGISTRY", registry)
		in.Opts = append(in.Opts, "build-arg:"+a)
		mine = append(mine, "--build-arg", a)
	}
	if c.target != "" {
		in.Opts = append(in.Opts, "target="+c.target)
		mine = append(mine, "--target", c.target)
	}
	for _, s := range c.secrets {
		mine = append(mine, "--secret", s)
	}
	if c.dockerfile != "" {
		mine = append(mine, "-f", filepath.Join(c.dir, c.dockerfile))
	}
	return in, mine
}

// sourceDateEpoch is before the time of any file of BASE and of the contexts,
// so that rewriting timestamps has something to do.
const sourceDateEpoch = "1700000000"

// load writes the files of a case and obeys its directives.
func (c *diffCase) load(t *testing.T, path, registry string) {
	t.Helper()
	a, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c.name = strings.TrimSuffix(filepath.Base(path), ".txtar")
	c.dir = t.TempDir()
	base := registry + "/base"
	c.args = []string{"BASE=" + base, "SOURCE_DATE_EPOCH=" + sourceDateEpoch}
	for _, f := range a.Files {
		p := filepath.Join(c.dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(string(a.Comment)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		verb, rest, _ := strings.Cut(line, " ")
		if err := c.obey(t, verb, rest, base); err != nil {
			t.Fatalf("%s: %s: %v", path, line, err)
		}
	}
}

func (c *diffCase) obey(t *testing.T, verb, rest, base string) error {
	t.Helper()
	first, second, _ := strings.Cut(rest, " ")
	in := func(p string) string { return filepath.Join(c.dir, p) }
	switch verb {
	case "chmod":
		mode, err := strconv.ParseUint(first, 8, 32)
		if err != nil {
			return err
		}
		return syscall.Chmod(in(second), uint32(mode))
	case "symlink":
		return os.Symlink(second, in(first))
	case "link":
		return os.Link(in(second), in(first))
	case "mkdir":
		return os.MkdirAll(in(first), 0o755)
	case "touch":
		when, err := time.Parse(time.RFC3339Nano, first)
		if err != nil {
			return err
		}
		out, err := exec.Command("touch", "-h", "-d", when.Format(time.RFC3339Nano), in(second)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("touch: %w: %s", err, out)
		}
		return nil
	case "fill":
		n, err := strconv.Atoi(first)
		if err != nil {
			return err
		}
		return os.WriteFile(in(second), pattern(n, 1), 0o644)
	case "generate":
		n, err := strconv.Atoi(first)
		if err != nil {
			return err
		}
		return generate(in(second), n)
	case "tar":
		return makeTar(in(first), in(second))
	case "arg":
		c.args = append(c.args, rest)
	case "target":
		c.target = rest
	case "dockerfile":
		c.dockerfile = rest
	case "nocache":
		c.nocache = rest
	case "secret":
		c.secrets = append(c.secrets, strings.Replace(rest, "src=", "src="+c.dir+"/", 1))
	case "onbuild":
		return pushOnbuild(t.Context(), base, rest)
	case "debian":
		if testing.Short() {
			t.Skip("downloads Debian packages the first time")
		}
		ref := strings.TrimSuffix(base, "base") + "debian"
		c.args = append(c.args, "DEBIAN="+ref)
		return services.Debian(t.Context(), ref)
	case "http":
		f := services.StartFiles(in(first))
		t.Cleanup(func() { services.Need(t, f.Close()) })
		c.args = append(c.args, "HTTP="+f.URL)
	case "git":
		repos := t.TempDir()
		if _, err := services.GitRepo(t.Context(), in(first), filepath.Join(repos, "repo.git")); err != nil {
			return err
		}
		g, err := services.StartGitDaemon(repos)
		services.Use(t, g, err)
		c.args = append(c.args, "GIT="+g.URL+"/repo.git")
	default:
		return fmt.Errorf("unknown directive %q", verb)
	}
	return nil
}

// pattern gives n bytes that do not compress, the same for the same seed.
func pattern(n int, seed uint32) []byte {
	b := make([]byte, n)
	x := seed*2654435761 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

// generate makes n files of 0 to 2,000 bytes, 40 to a directory, three
// directories deep, with a few modes and links among them.
func generate(dir string, n int) error {
	for i := range n {
		d := filepath.Join(dir, fmt.Sprintf("a%d", i/400), fmt.Sprintf("b%d", i/40%10))
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		p := filepath.Join(d, fmt.Sprintf("f%04d.txt", i))
		if i%97 == 1 {
			if err := os.Symlink(fmt.Sprintf("f%04d.txt", i-1), p); err != nil {
				return err
			}
			continue
		}
		mode := fs.FileMode(0o644)
		if i%10 == 0 {
			mode = 0o755
		}
		if err := os.WriteFile(p, pattern(i*7%2000, uint32(i)), mode); err != nil {
			return err
		}
	}
	return nil
}

// makeTar packs dir, with the owners 7:8 and times of 2020.
func makeTar(file, dir string) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = firstError(err, f.Close()) }()
	var w io.Writer = f
	switch filepath.Ext(file) {
	case ".gz":
		z := gzip.NewWriter(f)
		defer func() { err = firstError(err, z.Close()) }()
		w = z
	case ".xz", ".bz2":
		prog := map[string]string{".xz": "xz", ".bz2": "bzip2"}[filepath.Ext(file)]
		cmd := exec.Command(prog, "-c")
		cmd.Stdout = f
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		if err := writeTar(in, dir); err != nil {
			return err
		}
		return firstError(in.Close(), cmd.Wait())
	}
	return writeTar(w, dir)
}

func writeTar(w io.Writer, dir string) error {
	tw := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		target := ""
		if d.Type()&fs.ModeSymlink != 0 {
			if target, err = os.Readlink(p); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		if h.Name, err = filepath.Rel(dir, p); err != nil {
			return err
		}
		h.Uid, h.Gid, h.Uname, h.Gname = 7, 8, "", ""
		h.ModTime = time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
		if err := tw.WriteHeader(h); err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		_, err = tw.Write(b)
		return err
	})
	return firstError(err, tw.Close())
}

func firstError(errs ...error) error {
	for _, e := range errs {
		if e != nil {
			return e
		}
	}
	return nil
}

// pushOnbuild pushes base with a trigger as the image onbuild beside it.
func pushOnbuild(ctx context.Context, base, trigger string) error {
	ref, err := name.ParseReference(base)
	if err != nil {
		return err
	}
	img, err := remote.Image(ref)
	if err != nil {
		return err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return err
	}
	cfg := cf.Config
	cfg.OnBuild = append(cfg.OnBuild, trigger)
	if img, err = mutate.Config(img, cfg); err != nil {
		return err
	}
	return services.Push(ctx, strings.TrimSuffix(base, "base")+"onbuild", img)
}
