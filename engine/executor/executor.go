// Package executor runs one process in a root file system.
//
//	op/exec ──Process──▶ executor ──specs.Spec──▶ runc (libcontainer in our binary)
//
// op/exec gives it a mounted root, the mounts and what to run; what comes back
// is the exit status. The executor knows no layers, caches or LLB.
package executor

import (
	"context"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/moby/buildkit/solver/pb"
)

// An Executor runs processes, several at once.
type Executor interface {
	// Run starts p and waits for its end. A non-zero exit status is an
	// *ExitError; any other error says that the process could not be started
	// or its output not be delivered. When ctx is done the whole process tree
	// is killed and context.Cause(ctx) returned; nothing of the container
	// (cgroup, mounts, state files, mount points made in Root) is left behind
	// in either case. All output has been written when Run returns.
	Run(ctx context.Context, p Process) error
}

// A Process is one process in one root file system.
type Process struct {
	ID       string // unique; names the container and its cgroup; of [a-zA-Z0-9_+.-]
	Root     string // host path of the root file system, mounted by the caller; no other process uses it at the same time
	ReadOnly bool   // the root is read-only for the process
	Mounts   []Mount

	Args     []string
	Env      []string
	Cwd      string // absolute in the container; made when missing, owned by the user; "" is "/"
	User     string // "user", "uid", "user:group"…, looked up in Root's /etc/passwd and /etc/group; "" is root
	Hostname string // "" means "buildkitsandbox"

	ExtraHosts   []Host
	Network      pb.NetMode      // UNSET is as HOST, HOST, NONE
	Security     pb.SecurityMode // SANDBOX (default seccomp, capabilities, masks) or INSECURE
	Ulimits      []*pb.Ulimit
	CgroupParent string
	ShmSize      int64 // bytes of /dev/shm; 0 means 64 MiB

	// RemoveMountStubsRecursive says that of the mount points made in Root
	// the missing parent directories go too; by default only the mount point
	// itself is removed after the run, as the Dockerfile frontend expects.
	RemoveMountStubsRecursive bool

	Stdin          io.Reader // nil means empty
	Stdout, Stderr io.Writer // nil means discard; equal ones get the output in its order
}

// A Mount is a host path (or a tmpfs) seen by the process. Mounts are made in
// the order given, parents first; a later one with the same Dest replaces the
// earlier one, or the default mount, in its place.
type Mount struct {
	Source   string // host path of a file or directory; "" with Tmpfs
	Dest     string // absolute in the container; made when missing
	ReadOnly bool
	Tmpfs    bool
	Size     int64  // bytes, of a tmpfs; 0 means no limit
	NoExec   bool   // no programs, device nodes and set-user-ID bits; for secrets and sockets
	Mode     uint32 // permission bits of a tmpfs root; 0 means those of the directory at Dest, else 01777
}

// A Host is a line of /etc/hosts.
type Host struct {
	Name string
	IP   net.IP
}

// An ExitError is the end of a process that ran and did not succeed.
type ExitError struct {
	Status int            // 1 to 255; 128 plus the signal when a signal ended it
	Signal syscall.Signal // 0 when the process exited by itself
	OOM    bool           // the kernel killed a process of the container for want of memory
}

// Error says how the process ended.
func (e *ExitError) Error() string {
	s := fmt.Sprintf("exit status %d", e.Status)
	if e.Signal != 0 {
		s += fmt.Sprintf(" (%v)", e.Signal)
	}
	if e.OOM {
		s += ": out of memory"
	}
	return s
}
