package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// reported is where these tests build.
type reported struct {
	registry *services.Registry
	root     string
}

// reportDockerfile has a stage that another one uses.
const reportDockerfile = `FROM %[1]s/base as build
WORKDIR /src
COPY app.txt .
RUN for i in 1 2 3 4 5 6 7 8 9; do echo "compiling module $i"; done; echo "linking app"; cp app.txt /app
FROM %[1]s/base
COPY --from=build /app /app
`

func newReported(t *testing.T) reported {
	t.Helper()
	services.NeedRoot(t)
	return reported{services.NewRegistry(t), t.TempDir()}
}

// build builds a Dockerfile, and returns the file of its report.
func (x reported) build(t *testing.T, dockerfile string, args ...string) (file string, err error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"Dockerfile": dockerfile, "app.txt": "app\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file = filepath.Join(t.TempDir(), "build.html")
	_, err = mayfly(t.Context(), t, filepath.Join(x.root, "state"), nil, append(args, "--report", file, "-t", x.registry.Addr+"/app", dir)...)
	return file, err
}

// hugeDockerfile has ten stages of some thirty instructions; each reads a file
// of its own, if there is one.
func hugeDockerfile(base string) string {
	var b strings.Builder
	for stage := range 10 {
		fmt.Fprintf(&b, "FROM %s AS part%d\nCOPY part%d.tx[t] app.txt /in%d/\n", base, stage, stage, stage)
		for n := range 27 {
			if n%9 == 0 {
				fmt.Fprintf(&b, "RUN echo \"part %d, test %d: ok\" && cp -r /in%d /out%d\n", stage, n, stage, n)
				continue
			}
			fmt.Fprintf(&b, "WORKDIR /srv/%d/%d\n", stage, n)
		}
	}
	fmt.Fprintf(&b, "FROM %s\n", base)
	for stage := range 10 {
		fmt.Fprintf(&b, "COPY --from=part%d /out0 /out%d\n", stage, stage)
	}
	return b.String()
}

func TestReportBrowser(t *testing.T) {
	x := newReported(t)
	b := newBrowser(t)
	b.scheme(t, "light")
	file, err := x.build(t, fmt.Sprintf(reportDockerfile, x.registry.Addr), "--push", "--cache-to", "type=registry,ref="+x.registry.Addr+"/app:cache")
	if err != nil {
		t.Fatal(err)
	}
	b.open(t, "file://"+file)
	const background = `getComputedStyle(document.body).backgroundColor`
	light := js[string](t, b, background)
	b.scheme(t, "dark")
	dark := js[string](t, b, background)
	b.click(t, "#theme")
	toggled := js[string](t, b, background)
	b.scheme(t, "light")
	b.click(t, "#theme")
	if again := js[string](t, b, background); light == dark || toggled != light || again != dark {
		t.Errorf("the background is %s in light, %s in dark, %s when toggled from that, and %s when toggled again", light, dark, toggled, again)
	}
	if got := js[string](t, b, `document.querySelector("h1").innerText`); !strings.Contains(got, "built") || !strings.Contains(got, x.registry.Addr+"/app:latest") {
		t.Errorf("the headline is %q", got)
	}
	for what, script := range map[string]string{
		"a digest":          `document.querySelector(".images .hash").textContent.startsWith("sha256:")`,
		"a bar of a push":   `!!document.querySelector("tr.export .bars rect.run")`,
		"an export":         `[...document.querySelectorAll("#caches tbody tr")].some(r => r.innerText.includes("export") && r.innerText.includes("ok"))`,
		"two stages":        `document.querySelectorAll(".box:not(.source)").length === 2`,
		"two sources":       `document.querySelectorAll(".box.source").length === 2`,
		"edges":             `document.querySelectorAll(".edges path").length >= 4`,
		"the lint warning":  `document.querySelector("#warnings").innerText.includes("FromAsCasing") && document.querySelector("#warnings").innerText.includes("Dockerfile:1")`,
		"labels everywhere": `[...document.querySelectorAll("input,select,button")].every(e => e.innerText || e.labels?.length || e.getAttribute("aria-label"))`,
		"unique ids":        `new Set([...document.querySelectorAll("[id]")].map(e => e.id)).size === document.querySelectorAll("[id]").length`,
		"live links":        `[...document.querySelectorAll("a[href^='#']")].every(a => document.getElementById(a.getAttribute("href").slice(1)))`,
	} {
		if !js[bool](t, b, script) {
			t.Errorf("the page has not: %s", what)
		}
	}
	x.search(t, b)
	x.links(t, b, file)
	b.size(t, 400, 800)
	if wide := js[int](t, b, `document.documentElement.scrollWidth`); wide > 400 {
		t.Errorf("a page of 400 pixels is %d wide", wide)
	}
	b.quiet(t)
}

const shownSteps = `[...document.querySelectorAll("details.step")].filter(e => !e.hidden).length`

// search narrows the logs, and gives them back.
func (x reported) search(t *testing.T, b *browser) {
	t.Helper()
	all := js[int](t, b, shownSteps)
	// The keyboard is enough for it.
	b.do(t, chromedp.KeyEvent("/"))
	if !js[bool](t, b, `(f => { f.value = ""; return f === document.activeElement })(document.querySelector("#filter"))`) {
		t.Error("the key / does not lead to the search") // which gets it too here, as from no keyboard
	}
	b.do(t, chromedp.KeyEvent("MODULE 7"))
	b.wait(t, `document.querySelector("#found").textContent !== ""`)
	if n := js[int](t, b, shownSteps); n != 1 || all < 8 {
		t.Errorf("the search shows %d of %d steps", n, all)
	}
	if got := js[string](t, b, `[...document.querySelectorAll(".log .l")].filter(e => e.checkVisibility()).map(e => e.textContent).join("|")`); !strings.HasSuffix(got, "compiling module 7\n") || strings.Contains(got, "|") {
		t.Errorf("the search shows %q", got)
	}
	if got := js[string](t, b, `document.querySelector("#found").textContent`); got != "1 line, 1 step" {
		t.Errorf("the search says %q", got)
	}
	b.do(t, chromedp.KeyEvent(" and no such line"))
	b.wait(t, `!document.querySelector("#nothing").hidden`)
	if n := js[int](t, b, shownSteps); n != 0 {
		t.Errorf("a search for what is not there shows %d steps", n)
	}
	b.do(t, chromedp.KeyEvent("\x1b"))
	b.wait(t, `document.querySelector("#nothing").hidden`)
	if n := js[int](t, b, shownSteps); n != all {
		t.Errorf("after the search %d of %d steps are shown", n, all)
	}
}

// links follows deep links to a step and to a line.
func (x reported) links(t *testing.T, b *browser, file string) {
	t.Helper()
	id := js[string](t, b, `[...document.querySelectorAll("details.step")].find(e => e.innerText.includes("RUN for")).id`)
	b.open(t, "about:blank")
	b.open(t, "file://"+file+"#"+id)
	if !js[bool](t, b, `document.getElementById("`+id+`").open && document.querySelectorAll("details[open]").length === 1`) {
		t.Error("a link to a step does not open it")
	}
	b.open(t, "about:blank")
	b.open(t, "file://"+file+"#"+id+"-L3")
	if got := js[string](t, b, `document.querySelector(".l.at").textContent`); !strings.HasSuffix(got, "compiling module 3\n") {
		t.Errorf("a link to line 3 marks %q", got)
	}
	if !js[bool](t, b, `(r => r.top >= 0 && r.bottom <= innerHeight)(document.querySelector(".l.at").getBoundingClientRect())`) {
		t.Error("a link to a line does not lead there")
	}
}

// TestReportFailed builds what fails and prints a secret.
func TestReportFailed(t *testing.T) {
	x := newReported(t)
	b := newBrowser(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("first-s3cret-line\nxyz\nlast-s3cret-line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := x.build(t, `FROM `+x.registry.Addr+`/base
COPY app.txt /
RUN --mount=type=secret,id=key cat /run/secrets/key; echo "https://ci:hunter2@host.test/x"; \
    echo "cannot find -lssl"; exit 3
RUN echo never
`, "--secret", "id=key,src="+secret)
	if err == nil {
		t.Fatal("the build did not fail")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"first-s3cret", "last-s3cret", "hunter2", "xyz"} {
		if strings.Contains(string(data), s) {
			t.Errorf("the report has %s", s)
		}
	}
	b.open(t, "file://"+file)
	for what, script := range map[string]string{
		"the result":       `document.querySelector("h1 .badge").textContent === "failed"`,
		"the place":        `document.querySelector("#error h2").textContent === "Error at Dockerfile:3"`,
		"the lines":        `[...document.querySelectorAll("#error .marked .n")].map(e => e.textContent).join() === "3,4"`,
		"the cause":        `document.querySelector("#error .message").textContent.endsWith("exit status 3")`,
		"the log's end":    `document.querySelector("#error .tail").textContent.trimEnd().endsWith("cannot find -lssl")`,
		"the masked log":   `document.querySelector("#error .tail").textContent.trim().startsWith("***\nhttps://***@host.test/x")`,
		"the failed step":  `document.querySelectorAll("tr.failed").length === 1 && document.querySelector("tr.failed").innerText.includes("RUN")`,
		"no step after it": `!document.body.innerText.includes("echo never") || ![...document.querySelectorAll("details.step")].some(e => e.innerText.includes("echo never"))`,
	} {
		if !js[bool](t, b, script) {
			t.Errorf("the page has not: %s", what)
		}
	}
	b.click(t, "#error a")
	b.wait(t, `document.querySelector("details.step.failed").open`)
	b.quiet(t)
}

// TestReportHuge loads the page of a build of 300 steps.
func TestReportHuge(t *testing.T) {
	x := newReported(t)
	b := newBrowser(t)
	file, err := x.build(t, hugeDockerfile(x.registry.Addr+"/base"))
	if err != nil {
		t.Fatal(err)
	}
	took := b.open(t, "file://"+file)
	t.Logf("the page is there after %v", took)
	if rows := js[int](t, b, `document.querySelectorAll(".gantt tbody tr").length`); rows < 290 {
		t.Errorf("the page has %d steps", rows)
	}
	if boxes := js[int](t, b, `document.querySelectorAll(".box").length`); boxes != 13 {
		t.Errorf("the graph has %d boxes, not 11 stages and 2 sources", boxes)
	}
	if took > 2*time.Second {
		t.Errorf("the page is there after %v", took)
	}
	b.quiet(t)
}

// TestReportPlace asks for reports where there can be none.
func TestReportPlace(t *testing.T) {
	x := newReported(t)
	dir := t.TempDir()
	for name, args := range map[string][]string{
		"missing":   {"--report", filepath.Join(dir, "no", "build.html")},
		"directory": {"--report", dir},
	} {
		code, out := status(t, newJob(t, nil).command(mayflyBin, append([]string{"build", dir}, args...)...))
		if code != 2 || !strings.Contains(out, "--report") || !strings.Contains(out, "hint:") {
			t.Errorf("%s: ended with %d: %s", name, code, out)
		}
	}
	if os.Getuid() == 0 { // what root may not write is no directory's permission
		file, err := x.build(t, "FROM scratch\nCOPY app.txt /\n")
		if err != nil {
			t.Fatal(err)
		}
		j := newJob(t, nil)
		j.write(t, "app/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
		code, out := status(t, j.command(mayflyBin, "build", "--root", filepath.Join(j.dir, "state"), "--report", "/proc/build.html", "-o", "type=oci,dest=x.tar", "app"))
		if code != 0 || !strings.Contains(out, "warning: report: ") {
			t.Errorf("a report that cannot be written: %d: %s", code, out)
		}
		if left, err := filepath.Glob(filepath.Join(filepath.Dir(file), "*")); err != nil || len(left) != 1 {
			t.Errorf("%v, %v are beside the report", left, err)
		}
	}
}
