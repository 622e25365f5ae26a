package tracing

import (
	"fmt"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/mayfly-build/mayfly/ci"
)

func TestMetrics(t *testing.T) {
	f := newFeed(Config{})
	for i, name := range []string{"[1/4] RUN a", "[2/4] RUN b", "[3/4] RUN c"} {
		f.cached(vtx(name, 1), i, i)
	}
	f.begin(vtx("[4/4] RUN d", 1), 5)
	f.end(vtx("[4/4] RUN d", 1), 5, 6, "")
	f.cached(vtx("[internal] load build context", 0), 5, 6) // a source is no step
	got := f.r.Finish(Result{Ended: *at(20_000), BytesIn: 11, BytesOut: 12}).Metrics(Resource("1", ci.Info{}))
	want := map[string]string{
		"mayfly.build.duration":  `20 s [0 0 0 0 1 0 0 0 0 0 0 0 0 0]`,
		"mayfly.steps":           `{step} mayfly.cached=true 3 mayfly.cached=false 1`,
		"mayfly.bytes.pulled":    `By 11`,
		"mayfly.bytes.pushed":    `By 12`,
		"mayfly.cache.hit_ratio": `0.75`,
	}
	for _, m := range got.ScopeMetrics[0].Metrics {
		var s string
		switch d := m.Data.(type) {
		case metricdata.Histogram[float64]:
			p := d.DataPoints[0]
			s = fmt.Sprint(p.Sum, " ", m.Unit, " ", p.BucketCounts)
			if p.Count != 1 || d.Temporality != metricdata.DeltaTemporality || !p.StartTime.Equal(epoch()) || !p.Time.Equal(epoch().Add(20*time.Second)) {
				t.Errorf("%s is %+v", m.Name, d)
			}
		case metricdata.Sum[int64]:
			s = m.Unit
			for _, p := range d.DataPoints {
				for _, kv := range p.Attributes.ToSlice() {
					s += fmt.Sprintf(" %s=%s", kv.Key, kv.Value.String())
				}
				s += fmt.Sprint(" ", p.Value)
			}
		case metricdata.Gauge[float64]:
			s = fmt.Sprint(d.DataPoints[0].Value)
		}
		if s != want[m.Name] {
			t.Errorf("%s is %s, not %s", m.Name, s, want[m.Name])
		}
		delete(want, m.Name)
	}
	if len(want) > 0 {
		t.Errorf("missing are %v", want)
	}
	for _, m := range newFeed(Config{}).r.Finish(Result{}).Metrics(nil).ScopeMetrics[0].Metrics {
		if m.Name == "mayfly.cache.hit_ratio" {
			t.Error("a build without steps has a ratio")
		}
	}
}
