package explain

import (
	"fmt"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
)

func TestManifestOfDirectories(t *testing.T) {
	m := large(20_001, 1)
	if m.Depth != 3 || len(m.Files) != 2001 {
		t.Fatalf("depth %d, %d entries", m.Depth, len(m.Files))
	}
	// One more file makes the difference between files and directories.
	fine := large(20_000, 1)
	if fine.Depth != 0 {
		t.Fatalf("depth %d", fine.Depth)
	}
	got := fileChanges(fine, m, nil)
	if len(got) != 1 || got[0].String() != "src/200/00/ added" {
		t.Errorf("changes %v", got)
	}
	other := large(20_001, 1)
	coarse := other.grouped(2)
	if coarse.Depth != 2 || len(fileChanges(m, coarse, nil)) != 0 {
		t.Errorf("the same files differ by how they are listed: %v", fileChanges(m, coarse, nil))
	}
	changed := large(20_001, 1)
	changed.Files[7].Sum++
	if got := fileChanges(changed, coarse, nil); len(got) != 1 || got[0].String() != "src/000/ changed (some of 100 files)" {
		t.Errorf("changes %v", got)
	}
}

func TestManifestSorts(t *testing.T) {
	m := NewManifest([]Entry{{Path: "b", Sum: 1}, {Path: "a\xff", Sum: 2}, {Path: "a\xfe", Sum: 3}, {Path: "b", Sum: 4}}, 0)
	if len(m.Files) != 2 || m.Files[0].Path != "a\uFFFD" || m.Files[1].Sum != 1 {
		t.Errorf("%+v", m.Files)
	}
}

func TestDifferences(t *testing.T) {
	file := Entry{Path: "p", Type: Regular, Mode: 0o644, Size: 5, Sum: 1}
	with := func(f func(*Entry)) Entry {
		e := file
		e.Sum = 2
		f(&e)
		return e
	}
	for _, tt := range []struct {
		b    Entry
		want string
	}{
		{file, ""},
		{with(func(*Entry) {}), "content"},
		{with(func(e *Entry) { e.Mode = 0o4755 }), "mode 0644→4755"},
		{with(func(e *Entry) { e.Mode, e.Size = 0o755, 6 }), "content, mode 0644→0755"},
		{with(func(e *Entry) { e.UID, e.GID = 1, 2 }), "owner 0:0→1:2"},
		{with(func(e *Entry) { e.Xattrs = 9 }), "xattrs"},
		{with(func(e *Entry) { e.Type = Link }), "type file→link"},
	} {
		var got []string
		for _, d := range differences(file, tt.b, nil) {
			got = append(got, d.String())
		}
		if strings.Join(got, ", ") != tt.want {
			t.Errorf("%v, want %s", got, tt.want)
		}
	}
	a, b := Entry{Type: Link, Mode: 0o777, Sum: 1}, Entry{Type: Link, Mode: 0o777, Sum: 2}
	if d := differences(a, b, nil); len(d) != 1 || d[0].Kind != Target {
		t.Errorf("link: %v", d)
	}
}

func TestTellMany(t *testing.T) {
	many := func(n int, what func(int) Difference) Detail {
		d := Detail{Kind: CauseFiles, More: 10}
		for i := range n {
			d.Files = append(d.Files, FileChange{Path: fmt.Sprint("f", i), What: []Difference{what(i)}})
		}
		return d
	}
	same := many(5, func(int) Difference { return Difference{Mode, "0644", "0664"} })
	if got := same.String(); got != "mode 0644→0664 of 15 files (f0, …)" {
		t.Error(got)
	}
	mixed := many(5, func(i int) Difference { return Difference{Mode, "0644", fmt.Sprint(i)} })
	if got := mixed.String(); got != "f0 changed (mode 0644→0), f1 changed (mode 0644→1), f2 changed (mode 0644→2) and 12 more" {
		t.Error(got)
	}
	content := many(5, func(int) Difference { return Difference{Kind: Content} })
	if got := content.String(); got != "f0 changed (content), f1 changed (content), f2 changed (content) and 12 more" {
		t.Error(got)
	}
}

func TestKeep(t *testing.T) {
	now := sample()
	other := app("v2")
	other.Steps = append(other.Steps, step("RUN other", nil, on(3)))
	older := app("v1")
	older.Steps = append(older.Steps, step("RUN other", nil, on(4)))
	kept := Keep(now, []*Set{other, older, app("v1")})
	if len(kept) != 2 {
		t.Fatalf("%d sets", len(kept))
	}
	if kept[0].Build != "" || kept[0].Steps[4].Why != nil {
		t.Error("the new set says what is nobody else's business")
	}
	if now.Steps[4].Why == nil {
		t.Error("the set itself was changed")
	}
	rest := kept[1]
	var ids []string
	for _, r := range rest.Steps {
		ids = append(ids, r.ID)
	}
	if got := strings.Join(ids, ", "); got != "FROM alpine, RUN deps, context, COPY . /src, RUN other" {
		t.Errorf("kept %s", got)
	}
	if len(rest.Manifests) != 1 || rest.Manifests[digest.FromString("v2")] == nil {
		t.Errorf("kept %d manifests", len(rest.Manifests))
	}
	dt, err := Encode(kept, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(dt); err != nil {
		t.Error(err)
	}
}
