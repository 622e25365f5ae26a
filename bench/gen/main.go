// Command gen makes the files of package data. It is a static binary inside
// the benchmarks' base image, where RUN steps call it:
//
//	gen -seed 101 -files 2000 -size 30M -exp DIR
package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/mayfly-build/mayfly/bench/data"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var t data.Tree
	f := flag.NewFlagSet("gen", flag.ContinueOnError)
	f.Uint64Var(&t.Seed, "seed", 1, "equal seeds give equal files")
	f.IntVar(&t.Files, "files", 1, "number of files")
	size := f.String("size", "1M", "bytes of all files together; K, M and G are powers of 1024")
	mix := f.String("mix", "text", "text, random, half or zero")
	f.BoolVar(&t.Exp, "exp", false, "exponentially distributed sizes")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return fmt.Errorf("one directory, not %d", f.NArg())
	}
	t.Mix = data.Mix(*mix)
	digits := strings.TrimRight(*size, "KMG")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return fmt.Errorf("size %q: %w", *size, err)
	}
	unit := map[string]int64{"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[(*size)[len(digits):]]
	if unit == 0 {
		return fmt.Errorf("size %q: more than one unit", *size)
	}
	t.Size = n * unit
	return t.Write(f.Arg(0))
}
