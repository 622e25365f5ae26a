package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// A faultTable is what TestCacheFaults found.
type faultTable struct {
	mu     sync.Mutex
	order  []string                     // of faults
	phases map[string]map[string]string // by fault and phase, then kind: the cell's text
	says   map[string]string            // by fault and phase: what one of the kinds said
}

func (tb *faultTable) add(x *cell, r *faultResult) {
	if r == nil {
		return
	}
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if tb.phases == nil {
		tb.phases, tb.says = map[string]map[string]string{}, map[string]string{}
	}
	if !slices.Contains(tb.order, x.fault.name) {
		tb.order = append(tb.order, x.fault.name)
	}
	key := x.phase + " " + x.fault.name
	if tb.phases[key] == nil {
		tb.phases[key] = map[string]string{}
	}
	tb.phases[key][x.kind] = fmt.Sprintf("%s, exit %d, %+.1f s", r.outcome, r.exit, x.lost(r).Seconds())
	if text := tableText(r.reason); text != "" && (tb.says[key] == "" || text < tb.says[key]) {
		tb.says[key] = text
	}
}

// tableText makes a reason fit a table.
func tableText(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	s = strings.NewReplacer("|", "/", "<", "", ">", "", "`", "'").Replace(s)
	if r := []rune(s); len(r) > 140 {
		s = string(r[:139]) + "…"
	}
	return s
}

// write writes the table to the file that $CACHE_FAULTS_TABLE names.
func (tb *faultTable) write(t *testing.T) {
	kinds := slices.DeleteFunc(slices.Clone(services.CacheKinds), func(k string) bool { return k == "registry-v3" })
	var b strings.Builder
	b.WriteString("# What broken caches do\n\n" +
		"`make faults` builds and pushes an image with a cache behind a proxy that makes faults, once with each fault on each kind of\n" +
		"service: how the cache's export or import ended, the exit code of the build, and how much longer the build took than without\n" +
		"the fault. In every cell the image is the one that is built without a cache, the push did not wait for the cache, no\n" +
		"credential is in what was printed or written, and an export without the fault afterwards repairs the cache. `timeout=5s` is\n" +
		"the attribute; where it is not said, the defaults decide.\n")
	for _, phase := range []string{"export", "import"} {
		fmt.Fprintf(&b, "\n## %s\n\n| fault | %s | what it said, such as |\n|---|%s---|\n", phase, strings.Join(kinds, " | "), strings.Repeat("---|", len(kinds)))
		for _, name := range tb.order {
			cells := tb.phases[phase+" "+name]
			if cells == nil || name == "none" {
				continue
			}
			fmt.Fprintf(&b, "| %s |", name)
			for _, k := range kinds {
				fmt.Fprintf(&b, " %s |", cells[k])
			}
			fmt.Fprintf(&b, " %s |\n", tb.says[phase+" "+name])
		}
	}
	if err := os.WriteFile(os.Getenv("CACHE_FAULTS_TABLE"), []byte(b.String()), 0o644); err != nil {
		t.Error(err)
	}
}
