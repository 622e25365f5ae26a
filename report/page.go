package report

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/docker/go-units"

	"github.com/mayfly-build/mayfly/ci"
	"github.com/mayfly-build/mayfly/engine"
)

// A Page is a build as it is shown. It does not change any more.
type Page struct{ *page }

// A page is what a template shows. All of its text is redacted.
type page struct {
	Title    string
	State    string // built, failed or stopped
	Spent    string
	Began    time.Time
	Version  string
	Facts    []fact
	Images   []imageRow
	Totals   totals
	Failure  *failureBox
	Steps    []*stepBox
	Axis     []tick
	Graph    *graph // nil when there is no vertex
	Caches   []cacheRow
	Lints    []lintRow
	Warnings []string
	LogNote  string // "" unless lines were left out
}

// A fact is something that is known of the job.
type fact struct {
	Name, Text string
	URL        string // "" for none
}

// An imageRow is a name of the image, or one of its platforms.
type imageRow struct{ Name, Digest, Config, Size string }

// totals count the Dockerfile's instructions, and bytes.
type totals struct {
	Steps, Ran, Cached, Failed, Other int
	Pulled, Pushed                    string
	CacheIn, CacheOut                 string
}

// Page returns the build as it is shown. The Recorder is of no use afterwards.
func (r *Recorder) Page(b Build) *Page {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.Ended.IsZero() {
		b.Ended = time.Now()
	}
	p := &page{
		Title: r.text(b.Title), State: "built", Began: r.cfg.Began, Spent: duration(b.Ended.Sub(r.cfg.Began)), Version: b.Version,
		Facts: r.facts(b),
	}
	if b.Failure != nil {
		p.State = "failed"
		if b.Failure.Stopped {
			p.State = "stopped"
		}
	}
	boxes := r.stepBoxes(p, b)
	p.Axis = axis(b.Ended.Sub(r.cfg.Began))
	p.Graph = r.graph(boxes)
	if res := b.Result; res != nil {
		p.Images = r.images(res)
	}
	p.Warnings = r.warnings(b)
	p.Caches = r.caches(b)
	p.Totals = r.totals(p, b)
	p.Lints = r.lintRows()
	if b.Failure != nil {
		p.Failure = r.failure(b.Failure, boxes)
	}
	return &Page{p}
}

func (r *Recorder) text(s string) string { return r.cfg.Redact(s) }

// facts tells of the job, and of what it builds.
func (r *Recorder) facts(b Build) []fact {
	var out []fact
	add := func(name, text, url string) {
		if text != "" {
			out = append(out, fact{name, r.text(text), r.text(url)})
		}
	}
	repo := ""
	if b.CI.ServerURL != "" && b.CI.Repository != "" {
		repo = b.CI.ServerURL + "/" + b.CI.Repository
	}
	add("repository", b.CI.Repository, repo)
	add("ref", shortRef(b.CI.Ref), "")
	add("commit", b.Commit, "")
	if b.CI.PullRequest > 0 {
		add("pull request", fmt.Sprintf("%d, into %s", b.CI.PullRequest, cmp.Or(b.CI.BaseRef, b.CI.DefaultBranch, "its base")), "")
	}
	add("run", cmp.Or(b.CI.RunID, b.CI.RunURL), b.CI.RunURL)
	add("job", b.CI.Job, "")
	if b.CI.Provider != ci.None && !b.CI.Trusted {
		add("not trusted", b.CI.Why, "")
	}
	if b.Result != nil {
		add("build", b.Result.Ref, "")
	}
	return out
}

func shortRef(ref string) string {
	for _, prefix := range []string{"refs/heads/", "refs/tags/", "refs/"} {
		if short, ok := strings.CutPrefix(ref, prefix); ok {
			return short
		}
	}
	return ref
}

func (r *Recorder) images(res *engine.Result) []imageRow {
	if res.Digest == "" {
		return nil
	}
	names := res.Names
	if len(names) == 0 {
		names = []string{""}
	}
	var out []imageRow
	for _, n := range names {
		out = append(out, imageRow{r.text(n), res.Digest.String(), res.Config.String(), size(res.Size)})
	}
	if len(res.Images) > 1 {
		for _, im := range res.Images {
			out = append(out, imageRow{platforms.Format(im.Platform), im.Digest.String(), im.Config.String(), size(im.Size)})
		}
	}
	return out
}

// totals are counted as the job summary counts them.
func (r *Recorder) totals(p *page, b Build) totals {
	t := totals{Pulled: size(b.BytesIn), Pushed: size(b.BytesOut)}
	for _, s := range p.Steps {
		if !s.isInstruction() {
			t.Other++
			if s.State == failed && s.Kind != cacheIn && s.Kind != cacheOut {
				t.Failed++
			}
			continue
		}
		t.Steps++
		switch s.State {
		case cached:
			t.Cached++
		case failed:
			t.Failed++
		case ran:
			t.Ran++
		}
	}
	if b.Result == nil || len(b.Result.Caches) == 0 {
		return t
	}
	var in, out int64
	for _, c := range b.Result.Caches {
		if c.Export {
			out += c.Bytes
		} else {
			in += c.Bytes
		}
	}
	t.CacheIn, t.CacheOut = size(in), size(out)
	return t
}

func duration(d time.Duration) string {
	switch d = max(d, 0); {
	case d == 0:
		return "0 ms"
	case d < time.Millisecond:
		return "< 1 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 9950*time.Millisecond:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	d = d.Round(time.Second)
	if d < time.Hour {
		return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
}

func size(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
