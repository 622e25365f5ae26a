//go:build linux && cgo && !gccgo

package runc

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// filterEnv names the descriptors of a container's first process for its
// syscall filter: "control,program".
const filterEnv = "_MAYFLY_FILTER"

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
	err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	if fds := os.Getenv(filterEnv); err == nil && fds != "" {
		err = awaitFilter(fds)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(255)
	}
	libcontainer.Init()
}

// awaitFilter has a thread of its own wait for the parent's word to load the
// filter program for all threads.
func awaitFilter(fds string) error {
	c, p, _ := strings.Cut(fds, ",")
	control, err := strconv.Atoi(c)
	if err != nil {
		return fmt.Errorf("%s: %w", filterEnv, err)
	}
	program, err := strconv.Atoi(p)
	if err != nil {
		return fmt.Errorf("%s: %w", filterEnv, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(program, &st); err != nil {
		return fmt.Errorf("syscall filter: %w", err)
	}
	insns, err := unix.Mmap(program, 0, int(st.Size), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("syscall filter: %w", err)
	}
	return startFilterThread(control, insns)
}
