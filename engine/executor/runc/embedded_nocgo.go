//go:build !linux || !cgo || gccgo

package runc

import "errors"

// embedded says that libcontainer can start containers in this binary.
const embedded = false

func startFilterThread(int, []byte) error {
	return errors.New("syscall filter: built without cgo")
}
