package main

import (
	"context"
	"fmt"
)

const debugUsage = `Usage:
  mayfly debug why [OPTIONS] [STEP]    why the steps of a build ran

"mayfly debug why --help" lists the options.
`

// debug looks into what builds left.
func debug(_ context.Context, w world, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(w.stderr, debugUsage)
		return usagef("mayfly debug: no command is given")
	}
	switch args[0] {
	case "why":
		return debugWhy(w, args[1:])
	case "help", "--help", "-h":
		_, err := fmt.Fprint(w.stdout, debugUsage)
		return err
	}
	return usagef("mayfly debug: unknown command %q: the command is why", args[0])
}
