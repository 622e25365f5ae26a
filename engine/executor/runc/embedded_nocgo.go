//go:build !linux || !cgo || gccgo

package runc

import (
	"context"
	"errors"
	"os"

	"github.com/mayfly-build/mayfly/engine/executor"
)

// embedded says that libcontainer can start containers in this binary.
const embedded = false

// IsInit reports false: without cgo this binary starts no containers itself.
func IsInit() bool { return false }

// Init has nothing to become and ends the process.
func Init() { os.Exit(255) }

func (e *Executor) runEmbedded(context.Context, executor.Process, *executor.Bundle) error {
	return errors.New("this binary was built without cgo and has no container runtime")
}
