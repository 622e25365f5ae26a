//go:build linux && cgo && !gccgo

package runc

import (
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters the namespaces before the Go runtime starts
)

// embedded says that libcontainer can start containers in this binary.
const embedded = true
