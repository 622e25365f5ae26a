package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/internal/hint"
)

// open opens a command's context; it is closed with the test.
func open(t *testing.T, stdin string, args ...string) (*buildContext, error) {
	t.Helper()
	w := worldOf(nil, stdin)
	o, err := parseBuild(w, args)
	if err != nil {
		t.Fatal(err)
	}
	c, err := openContext(t.Context(), w, o)
	if err == nil {
		t.Cleanup(c.close)
	}
	return c, err
}

func TestIsURL(t *testing.T) {
	for s, want := range map[string]bool{
		"https://github.com/a/b.git": true, "https://github.com/a/b.git#main:dir": true, "http://x/y.tar.gz": true,
		"git://x/y": true, "ssh://git@x/y": true, "git@github.com:a/b.git": true, "github.com/a/b": true,
		".": false, "-": false, "dir/github.com/a": false, "./http:": false, "/abs": false, "gitlab.com/a/b": false,
	} {
		if got := isURL(s); got != want {
			t.Errorf("%s: %v", s, got)
		}
	}
}

func TestContextDirectory(t *testing.T) {
	dir, other := contextDir(t), t.TempDir()
	writeFile(t, filepath.Join(dir, "Other"), "FROM scratch\n")
	writeFile(t, filepath.Join(other, "dockerfile"), "FROM scratch\n")
	tests := []struct {
		args         []string
		opts, locals map[string]string
	}{
		{[]string{dir}, map[string]string{"filename": "Dockerfile"}, map[string]string{"context": dir, "dockerfile": dir}},
		{[]string{other}, map[string]string{"filename": "dockerfile"}, map[string]string{"context": other, "dockerfile": other}},
		{[]string{"-f", filepath.Join(dir, "Other"), other}, map[string]string{"filename": "Other"}, map[string]string{"context": other, "dockerfile": dir}},
		{[]string{"--build-context", "Src=" + other, "--build-context", "img=docker-image://alpine", "--build-context", "git=https://x/y.git", dir},
			map[string]string{"filename": "Dockerfile", "context:src": "local:src", "context:img": "docker-image://alpine", "context:git": "https://x/y.git"},
			map[string]string{"context": dir, "dockerfile": dir, "src": other}},
		{[]string{"https://x/y.git#main"}, map[string]string{"context": "https://x/y.git#main"}, map[string]string{}},
		{[]string{"-f", "sub/D", "https://x/y.git"}, map[string]string{"context": "https://x/y.git", "filename": "sub/D"}, map[string]string{}},
	}
	for _, tt := range tests {
		c, err := open(t, "", tt.args...)
		if err != nil {
			t.Errorf("%q: %v", tt.args, err)
			continue
		}
		if !maps.Equal(c.opts, tt.opts) || !maps.Equal(c.locals, tt.locals) {
			t.Errorf("%q:\n%v %v, not\n%v %v", tt.args, c.opts, c.locals, tt.opts, tt.locals)
		}
	}
}

func TestDockerfileOnStdin(t *testing.T) {
	dir := contextDir(t)
	for _, args := range [][]string{{"-"}, {"-f", "-", dir}, {"-f", "-", "https://x/y.git"}} {
		c, err := open(t, "FROM stdin\n", args...)
		if err != nil {
			t.Errorf("%q: %v", args, err)
			continue
		}
		at := c.locals["dockerfile"]
		if dt, err := os.ReadFile(filepath.Join(at, "Dockerfile")); string(dt) != "FROM stdin\n" {
			t.Errorf("%q: the Dockerfile is %q, %v", args, dt, err)
		}
		if c.close(); at != "" {
			if _, err := os.Lstat(at); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%q: %s is left: %v", args, at, err)
			}
		}
	}
	if _, err := open(t, strings.Repeat("#", maxDockerfile+1), "-f", "-", dir); err == nil {
		t.Error("a Dockerfile without end is read")
	}
}

// contextTar packs a context as archivers do: with or without headers for
// directories, with extended headers, compressed.
func contextTar(t *testing.T, format tar.Format, dirs, gz bool) string {
	t.Helper()
	var buf bytes.Buffer
	var out io.WriteCloser = nopCloser{&buf}
	if gz {
		out = gzip.NewWriter(&buf)
	}
	w := tar.NewWriter(out)
	add := func(h tar.Header, text string) {
		h.Size, h.Format = int64(len(text)), format
		if format == tar.FormatPAX {
			h.PAXRecords = map[string]string{"VENDOR.comment": strings.Repeat("x", 600)}
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
	}
	if dirs {
		add(tar.Header{Name: "sub/", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	}
	add(tar.Header{Name: "sub/f", Typeflag: tar.TypeReg, Mode: 0o644}, "hello")
	add(tar.Header{Name: "Dockerfile", Typeflag: tar.TypeReg, Mode: 0o644}, "FROM scratch\n")
	if err := errors.Join(w.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func TestContextTarOnStdin(t *testing.T) {
	for name, text := range map[string]string{
		"USTAR":              contextTar(t, tar.FormatUSTAR, true, false),
		"GNU, gzip":          contextTar(t, tar.FormatGNU, true, true),
		"without dirs":       contextTar(t, tar.FormatUSTAR, false, false),
		"PAX, long headers":  contextTar(t, tar.FormatPAX, true, false),
		"PAX, without, gzip": contextTar(t, tar.FormatPAX, false, true),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := open(t, text, "-")
			if err != nil {
				t.Fatal(err)
			}
			if dt, err := os.ReadFile(filepath.Join(c.locals["context"], "sub", "f")); string(dt) != "hello" {
				t.Errorf("the context has %q, %v", dt, err)
			}
			if c.locals["dockerfile"] != c.locals["context"] || c.opts["filename"] != "Dockerfile" {
				t.Errorf("the Dockerfile is at %v %v", c.locals, c.opts)
			}
			if c, err := open(t, text, "-f", "sub/f", "-"); err != nil || c.opts["filename"] != "f" {
				t.Errorf("-f sub/f: %v, %v", c, err)
			}
			if _, err := open(t, text, "-f", "../f", "-"); err == nil || !isUsage(err) {
				t.Errorf("-f ../f: %v", err)
			}
		})
	}
}

func TestContextErrors(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	dir, empty := contextDir(t), t.TempDir()
	file := filepath.Join(dir, "f")
	tests := []struct {
		stdin string
		args  []string
		want  string
		hint  string
	}{
		{"", []string{dir + "/missing"}, "missing", "the context is the directory"},
		{"", []string{file}, "is not a directory", "with -f"},
		{"", []string{empty}, "Dockerfile", "with -f"},
		{"", []string{"-f", empty, dir}, "is a directory", "with -f"},
		{"", []string{"-f", empty + "/D", dir}, "no such file", "with -f"},
		{"", []string{"-"}, "standard input is empty", ""},
		{"FROM scratch", []string{"-f", "D", "-"}, "not a tar", ""},
		{contextTar(t, tar.FormatUSTAR, true, false)[:700], []string{"-"}, "", "taken for a tar"},
		{contextTar(t, tar.FormatUSTAR, true, true), []string{"-f", "nosuch", "-"}, "nosuch", "with -f"},
		{"", []string{"--build-context", "x", dir}, "KEY=VALUE", ""},
		{"", []string{"--build-context", "x=" + file, dir}, "not a directory", "a named context"},
		{"", []string{"--build-context", "x=oci-layout://y", dir}, "not supported", ""},
		{"FROM scratch", []string{"--build-context", "x=" + empty + "/missing", "-"}, "missing", "a named context"},
	}
	for _, tt := range tests {
		_, err := open(t, tt.stdin, tt.args...)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(hint.Of(err), tt.hint) {
			t.Errorf("%q: %v, hint %q; not %q, %q", tt.args, err, hint.Of(err), tt.want, tt.hint)
		}
	}
	if es, err := os.ReadDir(tmp); err != nil || len(es) != 0 {
		t.Errorf("left behind: %v, %v", es, err)
	}
}
