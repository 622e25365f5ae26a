// Command bench runs mayfly and BuildKit side by side.
//
//	contexts ──▶ workloads ──▶ tool: buildkit (boot, build, stop) ┐
//	  (data)                  tool: mayfly                       ┴──▶ report: a Markdown table
//
// The tools take turns within one run on one machine, each measurement on an
// empty state directory, so that what else the machine does meets both. It
// needs root, the programs of hack/setup.sh and some 20 GB of disk.
//
//	go run ./bench [-runs N] [-workloads W1,W4] [-tools buildkit,mayfly] [-delay 50ms] >docs/bench.md
//	go run ./bench -caches [-contexts cache1] [-services gha,s3] [-delays 0,30ms] >docs/bench-cache.md
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-build/mayfly/e2e/services"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	runs      int
	workloads []string
	tools     []string
	dir       string
	mayfly    string
	delay     time.Duration
	quiet     time.Duration

	// Of the measurements of caches alone.
	caches   bool
	contexts []string // all when empty
	services []string
	delays   []time.Duration
}

func parse(args []string) (options, error) {
	dev, err := services.DevDir()
	if err != nil {
		return options{}, err
	}
	mayfly := os.Getenv("MAYFLY")
	if mayfly == "" {
		mayfly = "bin/mayfly"
	}
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.runs, "runs", 3, "measurements of each workload and tool")
	names := f.String("workloads", "", "comma-separated; all by default: "+strings.Join(workloadNames(), ","))
	tools := f.String("tools", "buildkit,mayfly", "which tools, in the order of the first run")
	f.StringVar(&o.dir, "dir", filepath.Join(dev, "bench"), "where contexts, state and the registry's data go")
	f.StringVar(&o.mayfly, "mayfly", mayfly, "the binary to measure")
	f.DurationVar(&o.delay, "delay", 0, "added to every request to the registry")
	f.DurationVar(&o.quiet, "quiet", 25*time.Second, "longest wait for the machine to be idle before a measurement")
	f.BoolVar(&o.caches, "caches", false, "measure exports and imports of caches instead")
	contexts := f.String("contexts", "", "with -caches, comma-separated: cache1,cache60,cache400; all by default")
	svcs := f.String("services", "registry,local,s3,azblob,gha", "with -caches, what the caches are kept in")
	delays := f.String("delays", "0,30ms", "with -caches, how much longer each request takes, one measurement for each")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.services = strings.Split(*svcs, ",")
	if *contexts != "" {
		o.contexts = strings.Split(*contexts, ",")
	}
	for _, d := range strings.Split(*delays, ",") {
		t, err := time.ParseDuration(d)
		if err != nil {
			return o, fmt.Errorf("-delays: %w", err)
		}
		o.delays = append(o.delays, t)
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unknown argument %q", f.Arg(0))
	}
	o.workloads, o.tools = workloadNames(), strings.Split(*tools, ",")
	if *names != "" {
		o.workloads = strings.Split(*names, ",")
	}
	for _, n := range o.workloads {
		if !slices.Contains(workloadNames(), n) {
			return o, fmt.Errorf("unknown workload %q; there are %s", n, strings.Join(workloadNames(), ", "))
		}
	}
	o.mayfly, err = filepath.Abs(o.mayfly)
	return o, err
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	b, err := newBench(ctx, o, stderr)
	if err != nil {
		return err
	}
	defer func() {
		if e := b.close(); err == nil {
			err = e
		}
	}()
	var tools []tool
	for _, name := range o.tools {
		switch name {
		case "buildkit":
			tools = append(tools, &buildkit{root: filepath.Join(b.state, "buildkit")})
		case "mayfly":
			if _, err := os.Stat(o.mayfly); err != nil {
				return fmt.Errorf("find mayfly (make build, or -mayfly): %w", err)
			}
			tools = append(tools, &mayfly{bin: o.mayfly, root: filepath.Join(b.state, "mayfly")})
		default:
			return fmt.Errorf("unknown tool %q; there are buildkit and mayfly", name)
		}
	}
	if o.caches {
		return measureCaches(ctx, b, tools, stdout)
	}
	r := newReport(o)
	for _, w := range workloads() {
		if !slices.Contains(o.workloads, w.name) {
			continue
		}
		if err := b.measure(ctx, w, tools, r); err != nil {
			return err
		}
	}
	return r.write(stdout)
}

// measure prepares a workload for each tool and runs it, the tools in turn and
// with changing order.
func (b *bench) measure(ctx context.Context, w workload, tools []tool, r *report) error {
	for _, t := range tools {
		if w.prepare == nil {
			break
		}
		if err := w.prepare(ctx, b, t); err != nil {
			return fmt.Errorf("prepare %s for %s: %w", w.name, t.name(), err)
		}
	}
	for i := range b.runs {
		order := slices.Clone(tools)
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, t := range order {
			samples, err := w.run(ctx, b, t, i)
			if err != nil {
				return fmt.Errorf("%s with %s: %w", w.name, t.name(), err)
			}
			for _, s := range samples {
				fmt.Fprintf(b.log, "%s %s %s %.3fs %d requests, peak %d MiB\n", w.name, s.row, t.name(), s.took.Seconds(), s.requests, s.peak>>20)
				r.add(w, t.name(), s)
			}
		}
	}
	return nil
}
