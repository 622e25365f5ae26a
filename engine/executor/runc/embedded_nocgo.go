//go:build !linux || !cgo || gccgo

package runc

// embedded says that libcontainer can start containers in this binary.
const embedded = false
