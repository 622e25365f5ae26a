package e2e

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// faultKinds are the columns of the table.
var faultKinds = []string{"gha", "gha-v1", "s3", "azblob", "registry", "local"}

// A faultTable is what TestCacheFaults found.
type faultTable struct {
	mu    sync.Mutex
	cells map[string]string      // by phase, fault and kind
	words map[string][]faultWord // by phase and fault
}

// A faultWord is what was said of a cache that did not end well.
type faultWord struct{ kind, text string }

func key(phase, fault string) string { return phase + " " + fault }

func (tb *faultTable) add(x *cell, r *faultResult) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if tb.cells == nil {
		tb.cells, tb.words = map[string]string{}, map[string][]faultWord{}
	}
	at := key(x.phase, x.fault.name)
	if r == nil {
		tb.cells[at+x.kind] = "**no result**"
		return
	}
	text := r.outcome
	if lost := x.lost(r).Round(time.Second); lost >= time.Second {
		text += ", " + lost.String()
	}
	if r.outcome != x.want() {
		text = "**" + text + "**"
	}
	tb.cells[at+x.kind] = text
	if r.outcome != "ok" {
		words := plainWords(x, r.reason)
		if r.hint != "" {
			words += "; hint: " + plainWords(x, r.hint)
		}
		tb.words[at] = append(tb.words[at], faultWord{x.kind, words})
	}
}

var (
	digests   = regexp.MustCompile(`sha256:[0-9a-f]{60,64}`)
	addresses = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	ids       = regexp.MustCompile(` \(request [^)]*\)`)
	times     = regexp.MustCompile(`20\d\d-\d\d-\d\dT[0-9:]+Z`)
)

// plainWords takes out of a text what is another in every run.
func plainWords(x *cell, text string) string {
	text = digests.ReplaceAllString(text, "sha256:…")
	text = addresses.ReplaceAllString(text, "HOST")
	text = ids.ReplaceAllString(text, "")
	text = times.ReplaceAllString(text, "TIME")
	text = strings.ReplaceAll(text, x.slug(), "NAME")
	text = strings.ReplaceAll(text, x.w.dir, "")
	return strings.ReplaceAll(strings.ReplaceAll(text, "|", "\\|"), "\n", " ")
}

func (tb *faultTable) write(t *testing.T) {
	file := os.Getenv("CACHE_FAULTS_TABLE")
	if file == "" {
		return
	}
	var out strings.Builder
	out.WriteString("# What caches do when something is wrong\n\n" +
		"`make faults` builds a Dockerfile of two stages with `--push` and a cache that has a fault: beside the push it exports to an\n" +
		"empty place, or on an empty machine it imports what was stored there before. Real services, with toxiproxy and an HTTP proxy\n" +
		"before them: a GitHub cache service over azurite (v2), act's (v1), versitygw, azurite, docker-registry 2.8, a directory.\n\n" +
		"In every cell the build ends with exit code 0, the image that is pushed is that of a build without a cache, to the byte, and no\n" +
		"output or metadata file has a key, token or signature. Where the cache is slow the push ends before its export. Once a fault is\n" +
		"over, the next export repairs what it left, and the import after that finds all steps. The time is what the fault cost.\n")
	for _, phase := range []string{"export", "import"} {
		fmt.Fprintf(&out, "\n## %ss\n\n| | %s |\n|---|%s\n", strings.ToUpper(phase[:1])+phase[1:], strings.Join(faultKinds, " | "), strings.Repeat("---|", len(faultKinds)))
		for _, f := range faults() {
			row, some := "| "+f.name+" |", false
			for _, kind := range faultKinds {
				cell := tb.cells[key(phase, f.name)+kind]
				some = some || cell != ""
				row += " " + cell + " |"
			}
			if some {
				out.WriteString(row + "\n")
			}
		}
	}
	out.WriteString("\n## What is said\n\nThe reason in log and metadata file, of one store for each outcome.\n\n| | | |\n|---|---|---|\n")
	for _, phase := range []string{"export", "import"} {
		for _, f := range faults() {
			words := tb.words[key(phase, f.name)]
			slices.SortFunc(words, func(a, b faultWord) int {
				return slices.Index(faultKinds, a.kind) - slices.Index(faultKinds, b.kind)
			})
			if len(words) > 0 {
				fmt.Fprintf(&out, "| %s, %s | %s | %s |\n", phase, f.name, words[0].kind, words[0].text)
			}
		}
	}
	if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
		t.Error(err)
	}
}
