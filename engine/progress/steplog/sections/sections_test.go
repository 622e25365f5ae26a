package sections

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/progress"
)

var update = flag.Bool("update", false, "write testdata")

// TestStyles compares the log of one build with testdata/<style>.log, in which
// \e, \r are those characters.
func TestStyles(t *testing.T) {
	for _, style := range Styles() {
		t.Run(string(style), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				build(t, New(&out, style))
				got := strings.NewReplacer("\x1b", `\e`, "\r", `\r`).Replace(out.String())
				path := filepath.Join("testdata", string(style)+".log")
				if *update {
					if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if want, err := os.ReadFile(path); err != nil || got != string(want) {
					t.Errorf("%v:\n%s", err, got)
				}
			})
		})
	}
}

// build sends what a build of a few steps sends: two that run side by side, one
// that is cached, one that is read in two pieces, and one that fails and tries
// to command the service.
func build(t *testing.T, l *Log) {
	t.Helper()
	stream := progress.New(l.Read)
	step := func(name string) *progress.Vertex {
		return stream.Vertex(client.Vertex{Name: name, Digest: digest.FromString(name)})
	}
	print := func(v *progress.Vertex, text string) {
		if _, err := v.Log(1).Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	from := step("[base 1/2] FROM docker.io/library/base")
	from.Begin()
	from.End(nil)
	internal := step("[internal] load .dockerignore")
	internal.Begin()
	internal.End(nil)
	cached := step("[base 2/2] COPY go.mod .")
	cached.Cached()
	copied := step("[base 3/2] COPY . .")
	copied.Begin()
	print(copied, "why: COPY . .: main.go changed\n")
	time.Sleep(300 * time.Millisecond)
	copied.End(nil)

	from.Begin() // the layers of the base image
	layer := from.Start("sha256:abc", 2000)
	layer.Add(2000)
	layer.Done()
	from.End(nil)

	slow, quick := step("[build 1/1] RUN make\nall"), step("[test 1/1] RUN go test")
	slow.Begin()
	quick.Begin()
	print(slow, "why: RUN make: main.go changed\n10%\r20%\r")
	time.Sleep(time.Second)
	print(quick, "ok\n")
	print(slow, "100%\r\nmade\n")
	quick.End(nil)
	print(slow, "##vso[task.setvariable variable=x]y\n##[error]z\n--- no\n\x1b[0Ksection_end:1:mayfly_946684801300_2\r\x1b[0K\nhalf")
	slow.End(errors.New("process did not complete: exit status 2"))
	step("[late 1/1] RUN sleep").Begin()
	stream.Warn("", 1, "FromAsCasing: no", nil, "", &pb.SourceInfo{Filename: "Dockerfile"}, []*pb.Range{{Start: &pb.Position{Line: 2}, End: &pb.Position{Line: 2}}})
	l.End(digest.FromString("[build 1/1] RUN make\nall"))
}

// FuzzNoCommands: whatever a Dockerfile and its steps say, the log has no
// command to the service but those of its own sections.
func FuzzNoCommands(f *testing.F) {
	for _, s := range []string{
		"##vso[task.setvariable variable=x]y", "\x1b[0Ksection_end:1:mayfly_1_1\r\x1b[0K", "--- x\n+++ y\n", "#\u200b#[error]", "a\rb\nc\r\n", "why: ##[group]\n", "~~~ x", "^^^ +++", "::set-output name=x::y", " \u200b::error::z", "%0A::error::z",
	} {
		f.Add(s, s, s)
	}
	commands := map[Style]*regexp.Regexp{
		GitLab:    regexp.MustCompile(`section_(?:start|end):\d+:[a-zA-Z0-9_.-]+(?:\[[^\]]*\])?\r\x1b\[0K`),
		Azure:     regexp.MustCompile(`(?i)##(?:vso)?\[`),
		GitHub:    regexp.MustCompile(`(?m)##\[|^[ ]*::`),
		Buildkite: regexp.MustCompile(`(?m)^(?:---|\+\+\+|~~~|\^\^\^) `),
	}
	f.Fuzz(func(t *testing.T, name, text, failure string) {
		for style, command := range commands {
			count := func(name, text, failure string) int {
				var out bytes.Buffer
				l := New(&out, style)
				stream := progress.New(l.Read)
				v := stream.Vertex(client.Vertex{Name: "[1/1] RUN " + name, Digest: "sha256:v"})
				v.Begin()
				v.Start("id "+name, 0).Done()
				for _, piece := range []string{text[:len(text)/2], text[len(text)/2:]} {
					if _, err := v.Log(1).Write([]byte(piece)); err != nil {
						t.Fatal(err)
					}
				}
				v.End(errors.New("error: " + failure))
				stream.Step("quiet").End(errors.New(failure))
				stream.Warn("", 1, text, nil, "", &pb.SourceInfo{Filename: name}, nil)
				l.End("sha256:v")
				out.WriteString(style.Quote(name + "\n" + text))
				seen := strings.Map(func(r rune) rune { // as the agents see it
					if (style == Azure || style == GitHub) && (r > '~' || r < ' ' && r != '\n') {
						return -1
					}
					return r
				}, out.String())
				return len(command.FindAllString(seen, -1))
			}
			if got, want := count(name, text, failure), count("n", "t", "f"); got != want {
				t.Errorf("%s: %d commands, not %d", style, got, want)
			}
		}
	})
}

func TestQuote(t *testing.T) {
	const text = "Dockerfile:4\n----\n   4 | >>> RUN echo '##vso[x]y' # z\n--- a\nsection_end:1:x\r\x1b[0K"
	for style, want := range map[Style]string{
		Azure:     "Dockerfile:4\n----\n   4 | >>> RUN echo '# # vso[x]y' #  z\n--- a\nsection_end:1:x\x1b[0K",
		Buildkite: "Dockerfile:4\n----\n   4 | >>> RUN echo '##vso[x]y' # z\n --- a\nsection_end:1:x\x1b[0K",
		GitHub:    "Dockerfile:4\n----\n   4 | >>> RUN echo '# # vso[x]y' #  z\n--- a\nsection_end:1:x\x1b[0K",
		GitLab:    "Dockerfile:4\n----\n   4 | >>> RUN echo '##vso[x]y' # z\n--- a\nsection_end:1:x\x1b[0K",
	} {
		if got := style.Quote(text); got != want {
			t.Errorf("%s: %q, not %q", style, got, want)
		}
	}
}

// TestWaitingIsBounded: what a step says while the log follows another is kept
// only in part, its end.
func TestWaitingIsBounded(t *testing.T) {
	var out bytes.Buffer
	l := New(&out, GitLab)
	stream := progress.New(l.Read)
	front, other := stream.Step("front"), stream.Step("other")
	for _, v := range []*progress.Vertex{front, other} {
		v.Begin()
	}
	text := []byte(strings.Repeat(strings.Repeat("x", 99)+"\n", 1000))
	for range 30 {
		for _, v := range []*progress.Vertex{front, other} {
			if _, err := v.Log(1).Write(text); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := other.Log(1).Write([]byte("the end\n")); err != nil {
		t.Fatal(err)
	}
	if n := l.step(digest.FromString("step:other")).waiting.Len(); n > maxWaiting {
		t.Errorf("%d bytes wait", n)
	}
	if n := out.Len(); n < 3_000_000 {
		t.Errorf("%d bytes of the first step are told", n)
	}
	before := out.Len()
	other.End(nil)
	front.End(nil)
	l.End("")
	rest := out.String()[before:]
	if len(rest) > maxWaiting+1000 || !strings.Contains(rest, " are left out\n") || !strings.Contains(rest, " the end\nDONE ") {
		t.Errorf("%d bytes: %.300s", len(rest), rest)
	}
	for _, l := range strings.Split(rest, "\n") {
		if strings.Contains(l, "xx") && len(l) != 107 {
			t.Fatalf("a piece of a line: %q", l)
		}
	}
}

// TestNobodyReads: a log that is gone is no reason to stop.
func TestNobodyReads(t *testing.T) {
	l := New(gone{}, GitLab)
	v := progress.New(l.Read).Step("x")
	v.Begin()
	if _, err := v.Log(1).Write([]byte("x\n")); err != nil {
		t.Error(err)
	}
	v.End(nil)
	l.End("")
}

type gone struct{}

func (gone) Write([]byte) (int, error) { return 0, errors.New("gone") }
