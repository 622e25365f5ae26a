package e2e

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/renderer/html"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// pictureDockerfile is what a service with a front end is built from.
const pictureDockerfile = `FROM %[1]s/base AS web
WORKDIR /web
COPY package.json .
RUN sleep 0.3; echo "added 214 packages in 3s"; mkdir node_modules
COPY web.js .
RUN sleep 0.2; echo "web.js  38.2 kB"; cp web.js bundle.js
FROM %[1]s/base AS server
WORKDIR /src
COPY go.mod .
RUN sleep 0.2; echo "go: downloading golang.org/x/net v0.47.0"; mkdir /modules
COPY main.go .
RUN sleep 0.5; echo "github.com/acme/app"; cp main.go /app
FROM %[1]s/base
COPY --from=web /web/bundle.js /srv/
COPY --from=server /app /usr/bin/app
`

// A scene is a build of which pictures are taken.
type scene struct {
	name   string
	job    func(*job) // writes what is built
	before func(*job) // what another job built, whose cache this one has; nil for none
	fails  bool
	height int64    // of the report's picture
	places []string // IDs in the report of which there are pictures too
}

func scenes(base string) []scene {
	huge := func(changed string) func(*job) {
		return func(j *job) {
			j.files(map[string]string{"Dockerfile": hugeDockerfile(base + "/base"), "app.txt": "app\n"})
			for n := range 10 {
				j.files(map[string]string{fmt.Sprintf("part%d.txt", n): "part\n"})
			}
			for _, n := range changed {
				j.files(map[string]string{fmt.Sprintf("part%c.txt", n): "changed\n"})
			}
		}
	}
	service := func(j *job) {
		j.files(map[string]string{
			"Dockerfile": fmt.Sprintf(pictureDockerfile, base), "package.json": "{}\n", "web.js": "1\n", "go.mod": "module m\n", "main.go": "package main\n",
		})
	}
	return []scene{
		{name: "three-steps", height: 1240, job: func(j *job) {
			j.files(map[string]string{
				"Dockerfile": "FROM " + base + "/base as app\nCOPY app.txt /src/\nRUN echo \"checking app.txt\" && sleep 0.4 && wc /src/app.txt\nRUN sleep 0.2 && cp /src/app.txt /app && echo \"app is ready\"\n",
				"app.txt":    "app\n",
			})
		}},
		{name: "300-steps", height: 1100, places: []string{"graph"}, before: huge(""), job: huge("37")},
		{name: "failed", height: 1000, places: []string{"logs"}, fails: true, job: func(j *job) {
			service(j)
			j.files(map[string]string{"Dockerfile": strings.Replace(fmt.Sprintf(pictureDockerfile, base),
				`RUN sleep 0.5; echo "github.com/acme/app"; cp main.go /app`,
				"RUN sleep 0.2; echo \"github.com/acme/app\"; \\\n    echo \"./main.go:41:7: undefined: listen\"; exit 1", 1)})
		}},
		{name: "all-cached", height: 1160, before: service, job: service},
	}
}

func (j *job) files(files map[string]string) {
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(j.dir, "app", name), []byte(text), 0o644); err != nil {
			panic(err)
		}
	}
}

// TestReportPictures builds the scenes as steps of GitHub Actions and looks at
// their reports and summaries. With $REPORT_PICTURES it writes what it sees
// there.
func TestReportPictures(t *testing.T) {
	dir := os.Getenv("REPORT_PICTURES")
	if dir == "" {
		t.Skip("make pictures takes them")
	}
	services.NeedRoot(t)
	reg := services.NewRegistry(t)
	b := newBrowser(t)
	for _, sc := range scenes(reg.Addr) {
		t.Run(sc.name, func(t *testing.T) {
			in := map[string]string{
				"context": "app", "tags": reg.Addr + "/acme/" + sc.name + ":1.4", "push": "true", "report": "build.html",
				"cache":          "type=registry,ref=" + reg.Addr + "/acme/" + sc.name + ":cache",
				"$GITHUB_RUN_ID": "8421337", "$GITHUB_JOB": "image",
			}
			if sc.before != nil {
				j := newJob(t, in)
				sc.before(j)
				if code, out := j.run(t); code != 0 {
					t.Fatalf("the job before ended with %d:\n%s", code, out)
				}
			}
			j := newJob(t, in)
			sc.job(j)
			if code, out := j.run(t); code != 0 != sc.fails {
				t.Fatalf("the job ended with %d:\n%s", code, out)
			}
			page := filepath.Join(j.dir, "summary.html")
			if err := os.WriteFile(page, summaryPage(t, j.read(t, "summary")), 0o644); err != nil {
				t.Fatal(err)
			}
			for _, theme := range []string{"light", "dark"} {
				b.scheme(t, theme)
				b.size(t, 1240, sc.height)
				b.open(t, "file://"+filepath.Join(j.dir, "build.html"))
				write(t, filepath.Join(dir, "report-"+sc.name+"-"+theme+".png"), b.picture(t))
				for _, id := range sc.places {
					b.open(t, "about:blank")
					b.open(t, "file://"+filepath.Join(j.dir, "build.html")+"#"+id)
					js[any](t, b, `document.querySelector("details.failed")?.setAttribute("open", "")`)
					write(t, filepath.Join(dir, "report-"+sc.name+"-"+id+"-"+theme+".png"), b.picture(t))
				}
				b.size(t, 1012, 400)
				b.open(t, "file://"+page)
				b.size(t, 1012, min(js[int64](t, b, `document.documentElement.scrollHeight`), 900))
				write(t, filepath.Join(dir, "summary-"+sc.name+"-"+theme+".png"), b.picture(t))
			}
			b.quiet(t)
		})
	}
}

// summaryCSS is as near to how GitHub shows a summary as the pictures need.
const summaryCSS = `
:root { color-scheme: light dark; }
body { margin: 0; padding: 24px; background: light-dark(#fff, #0d1117); color: light-dark(#1f2328, #f0f6fc);
  font: 14px/1.5 "Liberation Sans", Helvetica, Arial, sans-serif, "Noto Color Emoji"; }
h3 { font-size: 1.25em; margin: 0 0 16px; line-height: 1.25; }
p, table, blockquote, ul, pre, details { margin: 0 0 16px; }
table { display: block; width: max-content; max-width: 100%; overflow: auto; border-spacing: 0; border-collapse: collapse; }
th, td { padding: 6px 13px; border: 1px solid light-dark(#d1d9e0, #3d444d); }
th { font-weight: 600; }
tr { border-top: 1px solid light-dark(#d1d9e0b3, #3d444db3); }
tr:nth-child(2n) { background: light-dark(#f6f8fa, #151b23); }
code { padding: .2em .4em; font: 85% "Liberation Mono", monospace; background: light-dark(#818b981f, #656c7633); border-radius: 6px; white-space: break-spaces; }
pre { padding: 16px; overflow: auto; background: light-dark(#f6f8fa, #151b23); border-radius: 6px; }
pre code { padding: 0; background: none; white-space: pre; }
blockquote { padding: 0 1em; color: light-dark(#59636e, #9198a1); border-left: .25em solid light-dark(#d1d9e0, #3d444d); }
a { color: light-dark(#0969da, #4493f8); }
`

// summaryPage shows a job summary.
func summaryPage(t *testing.T, markdown string) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("<!doctype html><meta charset=utf-8><link rel=icon href=data:,><style>" + summaryCSS + "</style><body>")
	md := goldmark.New(goldmark.WithExtensions(extension.GFM), goldmark.WithRendererOptions(html.WithUnsafe()))
	if err := md.Convert([]byte(markdown), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const maxPicture = 150 << 10 // bytes

// write writes a picture with at most 256 colours.
func write(t *testing.T, file string, data []byte) {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, paletted(img)); err != nil {
		t.Fatal(err)
	}
	if b.Len() > maxPicture {
		t.Errorf("%s has %d bytes", file, b.Len())
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// paletted returns a picture with the colours that it has most of.
func paletted(img image.Image) *image.Paletted {
	count := map[color.RGBA]int{}
	r := img.Bounds()
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(img.At(x, y)).(color.RGBA) }
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			count[at(x, y)]++
		}
	}
	var all []color.RGBA
	for c := range count {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b color.RGBA) int { return count[b] - count[a] })
	var palette color.Palette
	for _, c := range all[:min(len(all), 256)] {
		palette = append(palette, c)
	}
	out := image.NewPaletted(r, palette)
	index := map[color.RGBA]uint8{}
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			c := at(x, y)
			i, ok := index[c]
			if !ok {
				i = uint8(palette.Index(c))
				index[c] = i
			}
			out.SetColorIndex(x, y, i)
		}
	}
	return out
}
