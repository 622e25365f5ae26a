package e2e

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// TestDifferential builds testdata/differential/*.txtar with buildkitd v0.33.1
// and with mayfly, both with SOURCE_DATE_EPOCH and rewrite-timestamp=true: the
// image configs and the layers (uncompressed) must be the same, to the byte. A
// table of all cases is logged, and written as Markdown to the file in
// $DIFFERENTIAL_TABLE.
func TestDifferential(t *testing.T) {
	bk, reg := services.NewBuildkitd(t), services.NewRegistry(t)
	root := filepath.Join(t.TempDir(), "state")
	files, err := filepath.Glob("testdata/differential/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	var mu sync.Mutex
	var rows []diffRow
	t.Run("case", func(t *testing.T) {
		for _, f := range files {
			t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) {
				t.Parallel()
				var c diffCase
				c.load(t, f, reg.Addr)
				row := compare(t, &c, bk, reg.Addr, root)
				mu.Lock()
				defer mu.Unlock()
				rows = append(rows, row)
			})
		}
	})
	table := diffTable(rows)
	t.Log("\n" + table)
	if p := os.Getenv("DIFFERENTIAL_TABLE"); p != "" {
		text := "# Images built by BuildKit v0.33.1 and by mayfly\n\n" +
			"Written by `make differential` from `e2e/testdata/differential/`. Both build with `SOURCE_DATE_EPOCH` and\n" +
			"`rewrite-timestamp=true`; *same* means: equal digest of the image config, equal diff IDs of all layers.\n\n" + table
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A diffRow is a line of the table.
type diffRow struct {
	name     string
	config   string // digest by BuildKit
	layers   int
	verdict  string
	bk, mine time.Duration
}

func diffTable(rows []diffRow) string {
	sort.Slice(rows, func(i, j int) bool { return rows[i].name < rows[j].name })
	var b strings.Builder
	same := 0
	b.WriteString("| case | image config | layers | result | BuildKit s | mayfly s |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		if r.verdict == "same" {
			same++
		}
		fmt.Fprintf(&b, "| %s | %.19s | %d | %s | %.2f | %.2f |\n", r.name, r.config, r.layers, r.verdict, r.bk.Seconds(), r.mine.Seconds())
	}
	fmt.Fprintf(&b, "\n%d of %d cases are the same.\n", same, len(rows))
	return b.String()
}

// compare builds one case twice and fails the test where the images differ.
func compare(t *testing.T, c *diffCase, bk *services.Buildkitd, registry, root string) (row diffRow) {
	t.Helper()
	row = diffRow{name: c.name, verdict: "not built"}
	theirs, ours := registry+"/buildkit/"+c.name, registry+"/mayfly/"+c.name
	in, mine := c.commands(registry)
	in.Outputs = []string{"type=image,push=true,rewrite-timestamp=true,name=" + theirs}
	mine = append(mine, "-o", "type=image,push=true,rewrite-timestamp=true,name="+ours)
	begin := time.Now()
	if _, err := bk.Build(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	row.bk = time.Since(begin)
	begin = time.Now()
	if _, err := mayfly(t.Context(), t, root, nil, append(mine, c.dir)...); err != nil {
		t.Error(err)
		return row
	}
	row.mine = time.Since(begin)
	want, got := pulled(t, theirs), pulled(t, ours)
	row.config, row.layers = want.config, len(want.file.RootFS.DiffIDs)
	row.verdict = "same"
	if want.config != got.config {
		row.verdict = "differs"
		t.Errorf("config digest %s, BuildKit has %s:\n%s", got.config, want.config, linesDiff(indented(t, want.raw), indented(t, got.raw)))
	}
	if !slices.Equal(want.file.RootFS.DiffIDs, got.file.RootFS.DiffIDs) {
		row.verdict = "differs"
		t.Errorf("layers differ:\n%s", layersDiff(t, want.img, got.img))
	}
	return row
}

type pulledImage struct {
	img    v1.Image
	config string
	file   *v1.ConfigFile
	raw    []byte
}

func pulled(t *testing.T, s string) pulledImage {
	t.Helper()
	ref, err := name.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	p := pulledImage{img: img}
	d, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	p.config = d.String()
	if p.raw, err = img.RawConfigFile(); err != nil {
		t.Fatal(err)
	}
	if p.file, err = img.ConfigFile(); err != nil {
		t.Fatal(err)
	}
	return p
}

func indented(t *testing.T, raw []byte) []string {
	t.Helper()
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(b), "\n")
}

// linesDiff shows the lines that only one side has: "-" BuildKit, "+" mayfly.
func linesDiff(want, got []string) string {
	var b strings.Builder
	show := func(sign string, lines, other []string) {
		n := 0
		for _, l := range lines {
			if !slices.Contains(other, l) {
				if n++; n > 40 {
					fmt.Fprintf(&b, "%s …\n", sign)
					return
				}
				fmt.Fprintf(&b, "%s %s\n", sign, l)
			}
		}
	}
	show("-", want, got)
	show("+", got, want)
	if b.Len() == 0 {
		b.WriteString("the same lines in another order or spelling\n")
	}
	return b.String()
}

// layersDiff tells the tar entries in which the layers differ.
func layersDiff(t *testing.T, want, got v1.Image) string {
	t.Helper()
	a, err := want.Layers()
	if err != nil {
		t.Fatal(err)
	}
	b, err := got.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if len(a) != len(b) {
		fmt.Fprintf(&out, "BuildKit has %d layers, mayfly %d\n", len(a), len(b))
	}
	for i := range min(len(a), len(b)) {
		da, errA := a[i].DiffID()
		db, errB := b[i].DiffID()
		if errA == nil && errB == nil && da == db {
			continue
		}
		fmt.Fprintf(&out, "layer %d:\n%s", i, linesDiff(entries(t, a[i]), entries(t, b[i])))
	}
	return out.String()
}

// entries gives a line for each header of a layer.
func entries(t *testing.T, l v1.Layer) []string {
	t.Helper()
	rc, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	var out []string
	for r := tar.NewReader(rc); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%c %q %q %o %d:%d %q:%q size %d %s pax %v format %v dev %d:%d",
			h.Typeflag, h.Name, h.Linkname, h.Mode, h.Uid, h.Gid, h.Uname, h.Gname, h.Size,
			h.ModTime.UTC().Format(time.RFC3339Nano), h.PAXRecords, h.Format, h.Devmajor, h.Devminor))
	}
}
