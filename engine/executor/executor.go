// Package executor runs one process in a root file system.
//
//	op/exec ──Process──▶ executor ──specs.Spec──▶ runc (libcontainer in our binary)
//
// op/exec gives it a mounted root, the mounts and what to run; what comes back
// is the exit status. The executor knows no layers, caches or LLB.
package executor

import (
	"context"
	"io"
	"net"

	"github.com/moby/buildkit/solver/pb"
)

// An Executor runs processes, several at once.
type Executor interface {
	// Run starts p and waits for its end. A non-zero exit status is an
	// *ExitError. When ctx is done the whole process tree is killed and
	// context.Cause(ctx) returned; nothing of the container (cgroup, mounts,
	// state files) is left behind in either case.
	Run(ctx context.Context, p Process) error
}

// A Process is one process in one root file system.
type Process struct {
	ID       string // unique; names the container and its cgroup
	Root     string // host path of the root file system, mounted by the caller
	ReadOnly bool   // the root is read-only for the process
	Mounts   []Mount

	Args     []string
	Env      []string
	Cwd      string // absolute in the container; made when missing, owned by the user
	User     string // "user", "uid", "user:group"…, looked up in Root's /etc/passwd and /etc/group; "" is root
	Hostname string // "" means "buildkitsandbox"

	ExtraHosts []Host
	Network    pb.NetMode      // UNSET is as HOST, HOST, NONE
	Security   pb.SecurityMode // SANDBOX (default seccomp, capabilities, masks) or INSECURE
	Ulimits    []*pb.Ulimit
	CgroupParent string
	ShmSize      int64 // bytes of /dev/shm; 0 means 64 MiB

	Stdin          io.Reader // nil means empty
	Stdout, Stderr io.Writer // nil means discard
}

// A Mount is a host path (or a tmpfs) seen by the process.
type Mount struct {
	Source   string // host path of a file or directory; "" with Tmpfs
	Dest     string // absolute in the container; made when missing
	ReadOnly bool
	Tmpfs    bool
	Size     int64 // bytes, of a tmpfs; 0 means no limit
	NoExec   bool
	Mode     uint32 // permission bits of a tmpfs root; 0 means 01777
}

// A Host is a line of /etc/hosts.
type Host struct {
	Name string
	IP   net.IP
}
