package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine"
	"github.com/mayfly-build/mayfly/engine/compression"
)

func parse(t *testing.T, w world, args ...string) buildOptions {
	t.Helper()
	o, err := parseBuild(w, append(args, "."))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOutputs(t *testing.T) {
	const app = "docker.io/library/app:latest"
	zstd19 := compression.Config{Type: compression.Zstd, Level: compression.At(19)}
	tests := []struct {
		args string
		want []engine.Output // without Open
		file bool            // the only output has an Open
	}{
		{"", nil, false},
		{"-t app", []engine.Output{{Kind: engine.OutputImage, Names: []string{app}}}, false},
		{"-t app -t b/c:1 --push", []engine.Output{{Kind: engine.OutputImage, Names: []string{app, "docker.io/b/c:1"}, Push: true}}, false},
		{"-q", []engine.Output{{Kind: engine.OutputImage}}, false},
		{"--iidfile f", []engine.Output{{Kind: engine.OutputImage}}, false},
		{"--metadata-file f", []engine.Output{{Kind: engine.OutputImage}}, false},
		{"-o out", []engine.Output{{Kind: engine.OutputLocal, Dir: "out"}}, false},
		{"-o -", []engine.Output{{Kind: engine.OutputTar}}, true},
		{"-o type=tar,dest=x", []engine.Output{{Kind: engine.OutputTar}}, true},
		{"-o type=local,dest=x", []engine.Output{{Kind: engine.OutputLocal, Dir: "x"}}, false},
		{"-t app -o type=oci", []engine.Output{{Kind: engine.OutputKind("oci"), Names: []string{app}, Tar: true}}, true},
		{"-o type=oci,tar=false,dest=x", []engine.Output{{Kind: engine.OutputKind("oci"), Dir: "x"}}, false},
		{"-o type=registry,name=app", []engine.Output{{Kind: engine.OutputImage, Names: []string{app}, Push: true}}, false},
		{"-t other -o type=image,name=app,push=true,compression=zstd,compression-level=19,force-compression=true",
			[]engine.Output{{Kind: engine.OutputImage, Names: []string{app}, Push: true, Compression: zstd19, ForceCompression: true}}, false},
		{"-o type=image,oci-mediatypes=false,rewrite-timestamp=true,name=app",
			[]engine.Output{{Kind: engine.OutputImage, Names: []string{app}, DockerTypes: true, RewriteTimestamp: true}}, false},
		{"--annotation a=1 --annotation manifest:b=2 -o type=image,name=app,annotation.a=3,annotation-manifest.c=4",
			[]engine.Output{{Kind: engine.OutputImage, Names: []string{app}, Annotations: []engine.Annotation{
				{On: engine.OnManifest, Key: "a", Value: "1"}, {On: engine.OnManifest, Key: "b", Value: "2"},
				{On: engine.OnManifest, Key: "c", Value: "4"}, {On: engine.OnManifest, Key: "a", Value: "3"},
			}}}, false},
		{"-o type=image,name=app,push-by-digest=true,name-canonical=true,push=true",
			[]engine.Output{{Kind: engine.OutputImage, Names: []string{"docker.io/library/app"}, Push: true, ByDigest: true}}, false},
		{"-t app --push -o out", []engine.Output{{Kind: engine.OutputLocal, Dir: "out"}, {Kind: engine.OutputImage, Names: []string{app}, Push: true}}, false},
	}
	for _, tt := range tests {
		w := worldOf(nil, "")
		got, err := outputs(w, parse(t, w, strings.Fields(tt.args)...))
		if err != nil || len(got) != len(tt.want) {
			t.Errorf("%s: %v, %v", tt.args, got, err)
			continue
		}
		for i, g := range got {
			if (g.Open != nil) != (tt.file && i == 0) {
				t.Errorf("%s: output %d is a file: %v", tt.args, i, g.Open != nil)
			}
			x := tt.want[i]
			same := g.Kind == x.Kind && slices.Equal(g.Names, x.Names) && g.Push == x.Push && g.ByDigest == x.ByDigest && g.Compression == x.Compression &&
				g.ForceCompression == x.ForceCompression && g.DockerTypes == x.DockerTypes && g.RewriteTimestamp == x.RewriteTimestamp &&
				slices.Equal(g.Annotations, x.Annotations) && g.Dir == x.Dir && g.Tar == x.Tar
			if !same {
				t.Errorf("%s: output %d is\n%+v, not\n%+v", tt.args, i, g, x)
			}
		}
	}
}

func TestOutputErrors(t *testing.T) {
	for args, want := range map[string]string{
		"--push":                                   "needs a name",
		"-o type=registry":                         "needs a name",
		"-o type=local":                            "dest is missing",
		"-o type=local,dest=-":                     "dest is missing",
		"-o type=oci,tar=false":                    "dest is missing",
		"-o dest=x":                                "none of image",
		"-o type=image,compression=lzw":            "lzw",
		"-o type=image,compression-level=x":        "not a number",
		"-o type=image,name=Bad:::":                "Bad:::",
		"-o type=image,source-date-epoch=tomorrow": "tomorrow",
		"-o type=tar,push=true":                    "unknown attribute push",
		"-t Bad:::":                                "--tag",
		"--annotation novalue -t app":              "not KEY=VALUE",
		"--annotation layer:a=1 -t app":            "none of manifest",
		"--platform linux/arm64,linux/amd64 -o type=docker,dest=x": "of one platform",
		"-o type=image,name=app:1,push-by-digest=true,push=true":   "without a tag",
		"-o type=oci,dest=x,annotation.=1,unheard=of":              "unheard",
	} {
		w := worldOf(nil, "")
		if got, err := outputs(w, parse(t, w, strings.Fields(args)...)); err == nil || !strings.Contains(err.Error(), want) || !isUsage(err) {
			t.Errorf("%s: %v, %v does not say %q", args, got, err, want)
		}
	}
}

func TestSourceDateEpochOfAnOutput(t *testing.T) {
	w := worldOf(nil, "")
	got, err := outputs(w, parse(t, w, "-o", "type=oci,source-date-epoch=1700000000"))
	if err != nil || got[0].Epoch == nil || got[0].Epoch.Unix() != 1700000000 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWritesStdout(t *testing.T) {
	for args, want := range map[string]bool{
		"": false, "-o out": false, "-o -": true, "-o type=tar": true, "-o type=oci,dest=-": true, "-o type=docker": true,
		"-o type=tar,dest=f": false, "-o type=image": false, "-o type=local,dest=d -o type=tar": true,
	} {
		w := worldOf(nil, "")
		if got := writesStdout(parse(t, w, strings.Fields(args)...)); got != want {
			t.Errorf("%q: %v", args, got)
		}
	}
}

func TestFileIsWholeOrNotThere(t *testing.T) {
	listed := func(dir string) (names []string) {
		es, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			names = append(names, e.Name())
		}
		return names
	}
	open := func(path string) *wholeFile {
		f, err := toFile(path)()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, "half"); err != nil {
			t.Fatal(err)
		}
		return f.(*wholeFile)
	}

	path := filepath.Join(t.TempDir(), "f")
	f := open(path)
	if _, err := os.Lstat(path); err == nil {
		t.Error("the file has its name before it is whole")
	}
	f.Abandon()
	f.Abandon()
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if got := listed(filepath.Dir(path)); len(got) != 0 {
		t.Errorf("an abandoned file left %v", got)
	}

	f = open(path)
	for range 2 {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	f.Abandon()
	fi, err := os.Stat(path)
	if err != nil || fi.Mode() != 0o644 || fi.Size() != 4 || len(listed(filepath.Dir(path))) != 1 {
		t.Errorf("a closed file: %v, %v", fi, err)
	}
	open(path).Abandon()
	if dt, err := os.ReadFile(path); string(dt) != "half" || err != nil {
		t.Errorf("the old file is gone with the abandoned one: %q, %v", dt, err)
	}

	// A directory comes to stand where the file was to go.
	dir := t.TempDir()
	f = open(filepath.Join(dir, "d"))
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err == nil {
		t.Error("a file replaced a directory")
	}
	if got := listed(dir); !slices.Equal(got, []string{"d"}) {
		t.Errorf("left: %v", got)
	}
	if _, err := toFile(filepath.Join(dir, "missing", "f"))(); err == nil {
		t.Error("a file in a directory that is missing")
	}
}

// -o type=tar,dest=/dev/null must not replace the device by a file.
func TestPipeIsWrittenTo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	got := make(chan []byte)
	go func() {
		dt, _ := os.ReadFile(path)
		got <- dt
	}()
	if err := writeWhole(path, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if dt := <-got; !bytes.Equal(dt, []byte("hello")) {
		t.Errorf("the pipe's reader has %q", dt)
	}
	if fi, err := os.Lstat(path); err != nil || fi.Mode().Type() != os.ModeNamedPipe {
		t.Errorf("the pipe is now %v, %v", fi, err)
	}
}
