package explain

import (
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
)

// A step of a table: what is left out is as in every build.
func step(id string, change func(*Record), inputs ...Input) Record {
	r := Record{
		ID: id, Seat: "seat of " + id, Name: "[1/1] " + id, Text: id, Where: "Dockerfile:1",
		Kind: Exec, Op: digest.FromString(id), State: Ran, Inputs: inputs,
		Fields: []Field{{Name: "command", Text: id}, Hidden("arg VERSION", "1")},
	}
	if change != nil {
		change(&r)
	}
	return r
}

func origin(kind Kind, id string, fields ...Field) Record {
	op := id
	for _, f := range fields {
		op += f.Text + f.Sum
	}
	return Record{ID: id, Text: id, Name: id, Kind: kind, Op: digest.FromString(op), Fields: fields}
}

// on is an input by definition, reads one by content.
func on(step int) Input { return Input{Step: step} }
func reads(step int, what string) Input {
	return Input{Step: step, Content: digest.FromString(what)}
}

func op(r *Record) { r.Op = digest.FromString("another") }

func set(steps ...Record) *Set {
	return &Set{Steps: steps, Manifests: map[digest.Digest]*Manifest{
		digest.FromString("v1"): NewManifest([]Entry{
			{Path: "src", Type: Dir, Mode: 0o755, Sum: 1}, {Path: "src/main.go", Type: Regular, Mode: 0o644, Size: 5, Sum: 2}, {Path: "src/run.sh", Type: Regular, Mode: 0o644, Size: 5, Sum: 3},
		}, 0),
		digest.FromString("v2"): NewManifest([]Entry{
			{Path: "src", Type: Dir, Mode: 0o755, Sum: 1}, {Path: "src/main.go", Type: Regular, Mode: 0o644, Size: 6, Sum: 20}, {Path: "src/run.sh", Type: Regular, Mode: 0o644, Size: 5, Sum: 3}, {Path: "go.sum", Type: Regular, Sum: 4},
		}, 0),
		digest.FromString("mode"): NewManifest([]Entry{
			{Path: "src", Type: Dir, Mode: 0o755, Sum: 1}, {Path: "src/main.go", Type: Regular, Mode: 0o644, Size: 5, Sum: 2}, {Path: "src/run.sh", Type: Regular, Mode: 0o755, Size: 5, Sum: 30},
		}, 0),
	}}
}

// app is base → deps, (context, deps) → copy, copy → make.
func app(content string, change ...func(*Set)) *Set {
	base := origin(Image, "FROM alpine", Field{Name: "image", Text: "alpine:3"}, Field{Name: "digest", Text: "sha256:aa"})
	s := set(
		base,
		step("RUN deps", func(r *Record) { r.State = Cached }, on(0)),
		origin(Local, "context"),
		step("COPY . /src", func(r *Record) { r.Kind = File }, on(1), reads(2, content)),
		step("RUN make", nil, on(3)),
	)
	for _, f := range change {
		f(s)
	}
	return s
}

func at(i int, f func(*Record)) func(*Set) { return func(s *Set) { f(&s.Steps[i]) } }

func TestExplain(t *testing.T) {
	rebased := at(0, func(r *Record) {
		*r = origin(Image, "FROM alpine", Field{Name: "image", Text: "alpine:3"}, Field{Name: "digest", Text: "sha256:bb"})
	})
	version := at(4, func(r *Record) {
		op(r)
		r.Fields = []Field{r.Fields[0], Hidden("arg VERSION", "2")}
	})
	for _, tt := range []struct {
		name    string
		now     *Set
		earlier []*Set
		id      string
		kind    Cause
		text    string
	}{
		{"content", app("v2"), []*Set{app("v1")}, "COPY . /src", CauseFiles, "COPY . /src: src/main.go changed (content), go.sum added"},
		{"mode", app("mode"), []*Set{app("v1")}, "COPY . /src", CauseFiles, "COPY . /src: src/run.sh changed (mode 0644→0755)"},
		{"parent", app("v2"), []*Set{app("v1")}, "RUN make", CauseParent, "RUN make: after COPY . /src: src/main.go changed (content), go.sum added"},
		{"files that nobody listed", app("v3"), []*Set{app("v1")}, "COPY . /src", CauseFiles, "COPY . /src: files of the build context changed"},
		{"argument", app("v1", version), []*Set{app("v1")}, "RUN make", CauseField, "RUN make: arg VERSION changed"},
		{"value with the same short sum", app("v1", at(4, op)), []*Set{app("v1")}, "RUN make", CauseUnknown, "RUN make: its key changed in something that is not recorded"},
		{"argument and files", app("v2", version), []*Set{app("v1")}, "RUN make", CauseField, "RUN make: arg VERSION changed; after COPY . /src: src/main.go changed (content), go.sum added"},
		{"field added and removed", app("v1", at(4, func(r *Record) {
			op(r)
			r.Fields = []Field{{Name: "command", Text: "RUN make"}, {Name: "user", Text: "nobody"}}
		})), []*Set{app("v1")}, "RUN make", CauseField, "RUN make: user added; arg VERSION removed"},
		{"field", app("v1", at(4, func(r *Record) { op(r); r.Fields[0].Text = "make -j" })), []*Set{app("v1")}, "RUN make", CauseField, "RUN make: command RUN make→make -j"},
		{"field outside the key", app("v1", at(4, func(r *Record) { r.Fields[0].Text = "make -j" })), []*Set{app("v1")}, "RUN make", CauseGone, "RUN make: nothing changed, but no cache has its result any more"},
		{"base image", app("v1", rebased), []*Set{app("v1")}, "RUN make", CauseSource, "RUN make: base image alpine:3 sha256:aa→sha256:bb"},
		{"base image and files", app("v2", rebased), []*Set{app("v1")}, "COPY . /src", CauseSource, "COPY . /src: base image alpine:3 sha256:aa→sha256:bb; src/main.go changed (content), go.sum added"},
		{"nothing recorded", app("v1"), nil, "RUN make", CauseFirst, "RUN make: first build of this step"},
		{"new step", app("v1", at(4, func(r *Record) { r.ID, r.Seat = "RUN more", ""; r.Text = "RUN more" })), []*Set{app("v1")}, "RUN more", CauseFirst, "RUN more: first build of this step"},
		{"edited", app("v1", at(4, func(r *Record) { op(r); r.ID, r.Text = "RUN make -j", "RUN make -j" })), []*Set{app("v1")}, "RUN make -j", CauseInstruction, "RUN make -j: the instruction changed, it was: RUN make"},
		{"result gone", app("v1"), []*Set{app("v1")}, "RUN make", CauseGone, "RUN make: nothing changed, but no cache has its result any more"},
		{"key without result", app("v1", at(4, func(r *Record) { r.Known = true })), []*Set{app("v1")}, "RUN make", CauseKeyOnly, "RUN make: nothing changed, but the cache has no result of it (mode=min keeps those of the image alone)"},
		{"failed before", app("v1"), []*Set{app("v1", at(4, func(r *Record) { r.State = Failed }))}, "RUN make", CauseFailed, "RUN make: nothing changed since it failed"},
		{"lost", app("v1", at(4, func(r *Record) { r.Lost, r.Blob = true, "sha256:cc" })), []*Set{app("v1")}, "RUN make", CauseEvicted, "RUN make: the cache lost blob sha256:cc"},
		{"no cache", app("v1", at(4, func(r *Record) { r.NoCache = true })), []*Set{app("v1")}, "RUN make", CauseNoCache, "RUN make: --no-cache or --no-cache-filter asks for it"},
		{"no cache below", app("v1", at(1, func(r *Record) { r.NoCache, r.State = true, Ran })), []*Set{app("v1")}, "RUN make", CauseParent, "RUN make: after RUN deps: --no-cache or --no-cache-filter asks for it"},
		{"context", app("v1", at(2, func(r *Record) { r.State = Ran })), []*Set{app("v1")}, "context", CauseNever, "context: files of the client are read in every build"},
		{"cached", app("v1"), []*Set{app("v1")}, "RUN deps", "", ""},
		{"no such step", app("v1"), []*Set{app("v1")}, "RUN nothing", "", ""},
		{"the nearest of several", app("v2", version), []*Set{app("v1"), app("v2"), app("v1", version)}, "RUN make", CauseField, "RUN make: arg VERSION changed"},
		{"the newest of equals", app("v2"), []*Set{app("mode"), app("v1")}, "RUN make", CauseParent, "RUN make: after COPY . /src: src/main.go changed (content), src/run.sh changed (mode 0755→0644), go.sum added"},
		{"not taken before", app("v1"), []*Set{app("v1", at(3, func(r *Record) { r.Inputs[1].Content = "" }))}, "COPY . /src", CauseUnknown, "COPY . /src: its key changed in something that is not recorded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := Explain(tt.now, tt.earlier, tt.id)
			if r == nil {
				if tt.text != "" {
					t.Fatalf("no reason, want %q", tt.text)
				}
				return
			}
			if !strings.HasSuffix(r.Text, ": "+r.Told()) {
				t.Errorf("%q is told as %q", r.Text, r.Told())
			}
			if r.Text != tt.text || r.Kind != tt.kind {
				t.Errorf("%s %q\nwant %s %q", r.Kind, r.Text, tt.kind, tt.text)
			}
		})
	}
}

// TestExplainStages compares a step that reads what another stage made.
func TestExplainStages(t *testing.T) {
	build := func(content, made string, change ...func(*Set)) *Set {
		s := app(content, change...)
		s.Steps = append(s.Steps, step("COPY --from=build", func(r *Record) { r.Kind = File }, on(0), reads(4, made)), step("RUN last", nil, on(5)))
		return s
	}
	for _, tt := range []struct {
		name, id, text string
		now, was       *Set
	}{
		{"same files of another step", "RUN last", "RUN last: nothing changed, but no cache has its result any more", build("v2", "v1"), build("v1", "v1")},
		{"other files of another step", "COPY --from=build", "COPY --from=build: src/main.go changed (content), go.sum added, after COPY . /src: src/run.sh changed (mode 0644→0755)", build("mode", "v2"), build("v1", "v1")},
		{"other files of the same step", "COPY --from=build", "COPY --from=build: src/main.go changed (content), go.sum added, after RUN make: nothing changed, but no cache has its result any more", build("v1", "v2"), build("v1", "v1")},
		{"further on", "RUN last", "RUN last: after COPY --from=build: src/main.go changed (content), go.sum added, after RUN make: nothing changed, but no cache has its result any more", build("v1", "v2"), build("v1", "v1")},
		{
			"moved", "RUN last", "RUN last: it is built on RUN make instead of COPY --from=build",
			build("v1", "v1", func(s *Set) {}), build("v1", "v1"),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "moved" {
				tt.now.Steps[6].Inputs[0].Step = 4
			}
			if r := Explain(tt.now, []*Set{tt.was}, tt.id); r.Text != tt.text {
				t.Errorf("%q\nwant %q", r.Text, tt.text)
			}
		})
	}
}

// TestExplainInserted has a step that was not there, and all above it.
func TestExplainInserted(t *testing.T) {
	now := app("v1")
	now.Steps[3].Inputs[0].Step = 2 // COPY on the new step, which is put before it
	added := step("RUN new", func(r *Record) { r.Seat = "" }, on(1))
	now.Steps = append(now.Steps[:2:2], append([]Record{added}, now.Steps[2:]...)...)
	now.Steps[4].Inputs = []Input{on(2), reads(3, "v1")}
	now.Steps[5].Inputs = []Input{on(4)}
	for id, want := range map[string]string{
		"RUN new":     "RUN new: first build of this step",
		"COPY . /src": "COPY . /src: after RUN new: first build of this step",
		"RUN make":    "RUN make: after RUN new: first build of this step",
	} {
		if r := Explain(now, []*Set{app("v1")}, id); r.Text != want {
			t.Errorf("%q, want %q", r.Text, want)
		}
	}
}

func TestModeAndBytes(t *testing.T) {
	for _, tt := range []struct {
		name     string
		same, ok bool
		want     string
	}{
		{"known to be the same", true, true, "COPY . /src: src/run.sh changed (mode 0644→0755)"},
		{"known to differ", false, true, "COPY . /src: src/run.sh changed (content, mode 0644→0755)"},
		{"unknown", false, false, "COPY . /src: src/run.sh changed (mode 0644→0755)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := New(app("mode"), []*Set{app("v1")}, func(content digest.Digest, path string, was Entry) (bool, bool) {
				if content != digest.FromString("mode") || path != "src/run.sh" || was.Sum != 3 {
					t.Errorf("asked about %s %s %+v", content, path, was)
				}
				return tt.same, tt.ok
			})
			if r := x.Why("COPY . /src"); r.Text != tt.want {
				t.Errorf("%q, want %q", r.Text, tt.want)
			}
		})
	}
}

func TestFull(t *testing.T) {
	r := Explain(app("v2", at(4, func(r *Record) { op(r); r.Fields[0].Text = "make -j" })), []*Set{app("v1")}, "RUN make")
	want := `  command:
    - RUN make
    + make -j
  after COPY . /src:
    files that it reads:
      src/main.go changed (content)
      go.sum added
`
	if got := r.Full("  "); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestForeignText has text that a terminal, or a CI service that reads logs,
// would obey.
func TestForeignText(t *testing.T) {
	was := app("v1")
	m := was.Manifests[digest.FromString("v1")]
	m.Files = append([]Entry{{Path: "a\n::error::\x1b[2J\u202e", Type: Regular, Sum: 1}}, m.Files...)
	r := Explain(app("mode"), []*Set{was}, "COPY . /src")
	for _, text := range []string{r.Text, r.Full("")} {
		if strings.ContainsAny(text, "\x1b\u202e") || strings.Contains(text, "\n::") {
			t.Errorf("%q", text)
		}
		if !strings.Contains(text, `a\n::error::\x1b[2J\u202e removed`) {
			t.Errorf("%q does not name the file", text)
		}
	}
}

func TestBrief(t *testing.T) {
	r := Explain(app("v2"), []*Set{app("v1")}, "RUN make")
	b := r.Brief(1)
	if d := b.Causes[0].Root[0]; len(d.Files) != 1 || d.More != 1 {
		t.Errorf("%d files and %d more", len(d.Files), d.More)
	}
	if d := r.Causes[0].Root[0]; len(d.Files) != 2 || d.More != 0 {
		t.Errorf("the original has %d files and %d more", len(d.Files), d.More)
	}
}
