package services

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"
)

// JaegerConfig says how to start Jaeger.
type JaegerConfig struct {
	TLS bool // take OTLP with a certificate of CAFile only
}

// A Jaeger is a running Jaeger: it takes traces by OTLP and as Jaeger's agent
// does, keeps them in memory, and takes no metrics.
type Jaeger struct {
	OTLPGRPC string // URL, for OTEL_EXPORTER_OTLP_ENDPOINT
	OTLPHTTP string // URL, likewise
	Agent    string // host:port over UDP, for JAEGER_TRACE
	CAFile   string // PEM file of the certificate to trust; "" without TLS

	query  string // URL of the query service
	client *http.Client
	p      *process
	dir    string // holds the certificate
}

// StartJaeger starts the all-in-one that hack/setup.sh built, on free loopback
// ports.
func StartJaeger(cfg JaegerConfig) (*Jaeger, error) {
	bin, err := Tool("all-in-one")
	if err != nil {
		return nil, err
	}
	j := &Jaeger{client: &http.Client{Timeout: 5 * time.Second}}
	if j.dir, err = os.MkdirTemp("", "mayfly-jaeger-"); err != nil {
		return nil, fmt.Errorf("make Jaeger's directory: %w", err)
	}
	// It listens on many ports: another process may take one of them between
	// their choice and their use.
	for tries := 1; ; tries++ {
		err := j.start(bin, cfg)
		if err == nil {
			return j, nil
		}
		if tries == 3 {
			return nil, errors.Join(err, j.Close())
		}
	}
}

func (j *Jaeger) start(bin string, cfg JaegerConfig) error {
	var addrs [5]string
	for i := range addrs {
		var err error
		if addrs[i], err = freeAddr(); err != nil {
			return fmt.Errorf("find a port for Jaeger: %w", err)
		}
	}
	grpc, otlp, query, admin, collector := addrs[0], addrs[1], addrs[2], addrs[3], addrs[4]
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("find a port for Jaeger: %w", err)
	}
	j.Agent = udp.LocalAddr().String()
	if err := udp.Close(); err != nil {
		return fmt.Errorf("find a port for Jaeger: %w", err)
	}
	args := []string{
		"--collector.otlp.grpc.host-port", grpc, "--collector.otlp.http.host-port", otlp,
		"--processor.jaeger-compact.server-host-port", j.Agent,
		"--collector.grpc-server.host-port", collector, // the agent sends to it
		"--query.http-server.host-port", query, "--admin.http.host-port", admin, "--log-level", "warn",
	}
	for _, unused := range []string{"collector.http-server", "query.grpc-server", "http-server"} {
		args = append(args, "--"+unused+".host-port", "127.0.0.1:0")
	}
	for _, unused := range []string{"jaeger-binary", "zipkin-compact"} {
		args = append(args, "--processor."+unused+".server-host-port", "127.0.0.1:0")
	}
	scheme := "http://"
	if cfg.TLS {
		cert, err := writeCertificate(j.dir)
		if err != nil {
			return err
		}
		scheme, j.CAFile = "https://", cert.file
		for _, proto := range []string{"grpc", "http"} {
			flag := "--collector.otlp." + proto + ".tls."
			args = append(args, flag+"enabled", flag+"cert", cert.file, flag+"key", cert.key)
		}
	}
	j.OTLPGRPC, j.OTLPHTTP, j.query = scheme+grpc, scheme+otlp, "http://"+query
	cmd := exec.Command(bin, args...)
	cmd.Env = []string{"SPAN_STORAGE_TYPE=memory", "JAEGER_DISABLED=true", "OTEL_TRACES_SAMPLER=always_off"} // none of its own
	j.p, err = start(cmd, func() bool {
		return j.answers("http://"+admin+"/") && j.answers(j.query+"/api/services") && listens(grpc) && listens(otlp)
	})
	return err
}

func (j *Jaeger) answers(url string) bool {
	resp, err := j.client.Get(url)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func listens(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// Close stops Jaeger.
func (j *Jaeger) Close() error {
	j.client.CloseIdleConnections()
	var err error
	if j.p != nil {
		err = j.p.stop()
	}
	return errors.Join(err, os.RemoveAll(j.dir))
}

// A JaegerSpan is a span as Jaeger has kept it.
type JaegerSpan struct {
	TraceID, ID, Parent string // hex; Parent is "" for one that has none
	Name                string
	Start               time.Time // to the microsecond
	Duration            time.Duration
	Tags                map[string]string
	Process             map[string]string // attributes of the resource, service.name among them
	Events              []map[string]string
}

// Find waits until the traces with a span that has the tag have n spans, and
// returns them: some are still on their way when the program that sent them
// has ended. It gives up after 10 seconds.
func (j *Jaeger) Find(ctx context.Context, tag, value string, n int) ([]JaegerSpan, error) {
	tags, err := json.Marshal(map[string]string{tag: value})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	found := 0
	for {
		spans, err := j.get(ctx, "/api/traces?service=mayfly&limit=10&lookback=1h&tags="+url.QueryEscape(string(tags)))
		switch {
		case err == nil && len(spans) == n:
			return spans, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("find the trace with %s=%s: %d of %d spans after 10s", tag, value, found, n)
		case err != nil:
			return nil, fmt.Errorf("find the trace with %s=%s: %w", tag, value, err)
		}
		found = len(spans)
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (j *Jaeger) get(ctx context.Context, path string) ([]JaegerSpan, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.query+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := j.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("jaeger answers %s", resp.Status)
	}
	var answer struct {
		Data []struct {
			Spans []struct {
				TraceID, SpanID, OperationName, ProcessID string
				References                                []struct{ SpanID string }
				StartTime, Duration                       int64 // microseconds
				Tags                                      jaegerTags
				Logs                                      []struct{ Fields jaegerTags }
			}
			Processes map[string]struct {
				ServiceName string
				Tags        jaegerTags
			}
		}
	}
	dec := json.NewDecoder(resp.Body)
	dec.UseNumber()
	if err := dec.Decode(&answer); err != nil {
		return nil, err
	}
	var out []JaegerSpan
	for _, t := range answer.Data {
		for _, s := range t.Spans {
			x := JaegerSpan{
				TraceID: s.TraceID, ID: s.SpanID, Name: s.OperationName, Tags: s.Tags.byKey(),
				Start: time.UnixMicro(s.StartTime), Duration: time.Duration(s.Duration) * time.Microsecond,
				Process: t.Processes[s.ProcessID].Tags.byKey(),
			}
			x.Process["service.name"] = t.Processes[s.ProcessID].ServiceName
			for _, r := range s.References {
				x.Parent = r.SpanID
			}
			for _, l := range s.Logs {
				x.Events = append(x.Events, l.Fields.byKey())
			}
			out = append(out, x)
		}
	}
	return out, nil
}

type jaegerTags []struct {
	Key   string
	Value any // a string, number or boolean
}

func (t jaegerTags) byKey() map[string]string {
	out := map[string]string{}
	for _, kv := range t {
		out[kv.Key] = strings.TrimSpace(fmt.Sprint(kv.Value))
	}
	return out
}
