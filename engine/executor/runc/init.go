package runc

import (
	"os"
	"runtime"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// IsInit reports whether this process was started to become a container's
// first process. A binary that links this package asks first of all, and calls
// Init if so.
func IsInit() bool {
	return len(os.Args) > 1 && os.Args[1] == "init" && os.Getenv("_LIBCONTAINER_INITPIPE") != ""
}

// Init becomes the container's first process. It does not return.
func Init() {
	// The container dies with us, even with kill -9. The signal belongs to
	// the thread that is going to exec.
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	libcontainer.Init()
}
