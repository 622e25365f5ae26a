package explain

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
)

func sample() *Set {
	s := app("v1")
	s.Build, s.Created = "0123", time.Unix(1700000000, 5).UTC()
	s.Args = []Field{Hidden("VERSION", "1")}
	s.Steps[4].Why = Explain(app("v2"), []*Set{app("v1")}, "RUN make")
	s.Steps[4].Known, s.Steps[4].Lost, s.Steps[4].NoCache, s.Steps[4].Blob, s.Steps[4].Key = true, true, true, digest.FromString("blob"), "key"
	s.Steps[4].Inputs[0].Output, s.Steps[4].Inputs[0].Selector = 1, digest.FromString("selector")
	s.Manifests[digest.FromString("xattrs")] = &Manifest{Files: []Entry{{Path: "", Type: Dir, Mode: 0o1777}, {Path: "a", Type: Regular, UID: 1, GID: 2, Xattrs: 7}}}
	return s
}

func TestRoundTrip(t *testing.T) {
	dt, err := Encode([]*Set{sample(), app("v2")}, 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(dt)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || !reflect.DeepEqual(got[0], sample()) {
		t.Errorf("got %d sets, the first\n%+v\nwant\n%+v", len(got), got[0], sample())
	}
	head, err := ReadHead(bytes.NewReader(dt))
	if err != nil {
		t.Fatal(err)
	}
	if head.Build != "0123" || !head.Has("RUN make", "") || !head.Has("other", "seat of RUN make") || head.Has("other", "other") || head.Has("other", "") {
		t.Errorf("head %+v", head)
	}
}

// large has n files in directories of ten.
func large(n int, seed uint64) *Manifest {
	r := rand.New(rand.NewPCG(seed, 1))
	files := make([]Entry, n)
	for i := range files {
		files[i] = Entry{Path: fmt.Sprintf("src/%03d/%02d/file-%d", i/100, i/10%10, i), Type: Regular, Mode: 0o644, Sum: r.Uint64()}
	}
	return NewManifest(files, 0)
}

func TestEncodeFits(t *testing.T) {
	s := app("v1")
	s.Manifests = map[digest.Digest]*Manifest{digest.FromString("v1"): large(20_000, 1)}
	older := app("v2")
	older.Manifests = map[digest.Digest]*Manifest{digest.FromString("v2"): large(20_000, 2)}
	for _, tt := range []struct{ limit, sets, files, depth int }{
		{0, 2, 20_000, 0},
		{300 << 10, 1, 20_000, 0},
		{100 << 10, 1, 2_000, 3},
		{10 << 10, 1, 200, 2},
		{2 << 10, 1, 0, 0},
	} {
		dt, err := Encode([]*Set{s, older}, tt.limit)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(dt)
		if err != nil {
			t.Fatal(err)
		}
		files, depth := 0, 0
		if m := got[0].Manifests[digest.FromString("v1")]; m != nil {
			files, depth = len(m.Files), m.Depth
		}
		if tt.limit > 0 && len(dt) > tt.limit || len(got) != tt.sets || files != tt.files || depth != tt.depth {
			t.Errorf("limit %d: %d bytes, %d sets, %d files, depth %d", tt.limit, len(dt), len(got), files, depth)
		}
	}
	if _, err := Encode([]*Set{s}, 100); err == nil {
		t.Error("a set fits into 100 bytes")
	}
}

func compress(t testing.TB, plain string) []byte {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll([]byte(plain), nil)
}

func TestDecodeRejects(t *testing.T) {
	head := `{"version":1,"created":"2024-01-01T00:00:00Z","ids":["a"],"seats":[""]}` + "\n"
	d := digest.FromString("x").String()
	manifest := func(s string) string { return head + `{"steps":[{"name":"a"}],"manifests":{"` + d + `":{` + s + `}}}` }
	if _, err := Decode(compress(t, head+`{"steps":[{"name":"a"}]}`)); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	for name, plain := range map[string]string{
		"nothing":            "",
		"no body":            head,
		"another version":    strings.Replace(head, `"version":1`, `"version":2`, 1) + `{"steps":[{"name":"a"}]}`,
		"steps without IDs":  head + `{"steps":[{"name":"a"},{"name":"b"}]}`,
		"empty ID":           strings.Replace(head, `["a"]`, `[""]`, 1) + `{"steps":[{"name":"a"}]}`,
		"equal IDs":          `{"version":1,"ids":["a","a"],"seats":["",""]}` + "\n" + `{"steps":[{},{}]}`,
		"its own input":      head + `{"steps":[{"inputs":[{"step":0}]}]}`,
		"negative input":     head + `{"steps":[{"inputs":[{"step":-1}]}]}`,
		"bad digest":         head + `{"steps":[{"op":"sha256:x"}]}`,
		"bad content":        head + `{"steps":[{"blob":"y"}]}`,
		"columns":            manifest(`"paths":["a"],"types":"","modes":[1],"uids":[1],"gids":[1],"sizes":[1],"sums":"AAAAAAAAAAA="`),
		"sums cut off":       manifest(`"paths":["a"],"types":"f","modes":[1],"uids":[1],"gids":[1],"sizes":[1],"sums":"AAAAAAAAAAAA"`),
		"paths out of order": manifest(`"paths":["b","a"],"types":"ff","modes":[1,1],"uids":[1,1],"gids":[1,1],"sizes":[1,1],"sums":"AAAAAAAAAAAAAAAAAAAAAA=="`),
		"group of no depth":  manifest(`"paths":["a"],"types":"g","modes":[1],"uids":[1],"gids":[1],"sizes":[1],"sums":"AAAAAAAAAAA="`),
		"xattrs of no file":  manifest(`"paths":["a"],"types":"f","modes":[1],"uids":[1],"gids":[1],"sizes":[1],"sums":"AAAAAAAAAAA=","xattrs":{"1":5}`),
		"not a set":          "hello\nworld\n",
		"sets without end":   strings.Repeat(head+`{"steps":[{"name":"a"}]}`+"\n", maxSets+1),
	} {
		if sets, err := Decode(compress(t, plain)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, %v", name, sets, err)
		}
	}
	if _, err := Decode([]byte("no zstd")); !errors.Is(err, ErrInvalid) {
		t.Errorf("error %v", err)
	}
	if _, err := ReadHead(strings.NewReader("no zstd")); !errors.Is(err, ErrInvalid) {
		t.Errorf("error %v", err)
	}
}

// FuzzDecode looks for text that is taken for Sets and cannot be explained, or
// encoded again.
func FuzzDecode(f *testing.F) {
	plain, err := encodePlain([]*Set{sample(), app("v2")}, 10)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Fuzz(func(t *testing.T, plain []byte) {
		sets, err := decodePlain(bytes.NewReader(plain))
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		now := app("v1")
		x := New(now, sets, nil)
		for _, r := range now.Steps {
			if why := x.Why(r.ID); why != nil && strings.Contains(why.Text, "\n") {
				t.Fatalf("%q", why.Text)
			}
		}
		again, err := encodePlain(Keep(now, sets), MaxFiles)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodePlain(bytes.NewReader(again)); err != nil {
			t.Fatal(err)
		}
	})
}
