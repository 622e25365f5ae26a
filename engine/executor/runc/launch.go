//go:build linux && cgo && !gccgo

package runc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A launch is the parent's side of libcontainer's init protocol: it starts our
// binary as "init", which enters the namespaces, and hands it the container's
// configuration. libcontainer.Container does the same, but moves the process
// into its cgroups from outside and compiles the syscall filter in every
// container, which takes 30 of 40 ms. What is said here over the sockets has
// to be what the init of the linked libcontainer version expects.
type launch struct {
	config *initConfig
	filter *os.File // program; nil means none
	exe    *os.File // our binary, sealed

	files  []*os.File // descriptors 3 and up of the process
	env    []string
	theirs []*os.File // the process's ends, closed once it is started

	bootstrap, sync, log, control *os.File // our ends
}

// initConfig has the fields of libcontainer's that we use.
type initConfig struct {
	Config           *configs.Config       `json:"config"`
	Args             []string              `json:"args"`
	Env              []string              `json:"env"`
	UID              int                   `json:"uid"`
	GID              int                   `json:"gid"`
	AdditionalGroups []int                 `json:"additional_groups"`
	Cwd              string                `json:"cwd"`
	Capabilities     *configs.Capabilities `json:"capabilities"`
	NoNewPrivileges  bool                  `json:"no_new_privileges"`
	Rlimits          []configs.Rlimit      `json:"rlimits"`
	ContainerID      string                `json:"containerid"`
	Cgroup2Path      string                `json:"cgroup2_path,omitempty"`
	Networks         []*configs.Network    `json:"network"`
}

func newInitConfig(id string, config *configs.Config, p *specs.Process) (*initConfig, error) {
	c := &initConfig{
		Config:          config,
		Args:            p.Args,
		Env:             p.Env,
		UID:             int(p.User.UID),
		GID:             int(p.User.GID),
		Cwd:             p.Cwd,
		Capabilities:    config.Capabilities,
		NoNewPrivileges: p.NoNewPrivileges,
		ContainerID:     id,
		Networks:        config.Networks,
	}
	for _, g := range p.User.AdditionalGids {
		c.AdditionalGroups = append(c.AdditionalGroups, int(g))
	}
	for _, r := range p.Rlimits {
		typ, ok := rlimitTypes()[r.Type]
		if !ok {
			return nil, fmt.Errorf("unknown ulimit %q", strings.ToLower(strings.TrimPrefix(r.Type, "RLIMIT_")))
		}
		c.Rlimits = append(c.Rlimits, configs.Rlimit{Type: typ, Hard: r.Hard, Soft: r.Soft})
	}
	return c, nil
}

func rlimitTypes() map[string]int {
	return map[string]int{
		"RLIMIT_AS":         unix.RLIMIT_AS,
		"RLIMIT_CORE":       unix.RLIMIT_CORE,
		"RLIMIT_CPU":        unix.RLIMIT_CPU,
		"RLIMIT_DATA":       unix.RLIMIT_DATA,
		"RLIMIT_FSIZE":      unix.RLIMIT_FSIZE,
		"RLIMIT_LOCKS":      unix.RLIMIT_LOCKS,
		"RLIMIT_MEMLOCK":    unix.RLIMIT_MEMLOCK,
		"RLIMIT_MSGQUEUE":   unix.RLIMIT_MSGQUEUE,
		"RLIMIT_NICE":       unix.RLIMIT_NICE,
		"RLIMIT_NOFILE":     unix.RLIMIT_NOFILE,
		"RLIMIT_NPROC":      unix.RLIMIT_NPROC,
		"RLIMIT_RSS":        unix.RLIMIT_RSS,
		"RLIMIT_RTPRIO":     unix.RLIMIT_RTPRIO,
		"RLIMIT_RTTIME":     unix.RLIMIT_RTTIME,
		"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
		"RLIMIT_STACK":      unix.RLIMIT_STACK,
	}
}

// start starts the process, not yet in its namespaces. The caller closes l in
// any case. The process's parent is the calling thread.
func (l *launch) start(stdio []*os.File, sys *syscall.SysProcAttr) (*os.Process, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	l.pass("", l.exe)
	// Not the number it has here: another descriptor may take that in the
	// process, where all are renumbered.
	path := "/proc/self/fd/" + strconv.Itoa(2+len(l.files))
	process, err := os.StartProcess(path, []string{os.Args[0], "init"}, &os.ProcAttr{
		Dir:   l.config.Config.Rootfs,
		Env:   append(l.env, "_LIBCONTAINER_INITTYPE=standard", "_LIBCONTAINER_LOGLEVEL=1", "GOMAXPROCS=1", "GOGC=off"),
		Files: append(stdio, l.files...),
		Sys:   sys,
	})
	closeAll(l.theirs)
	l.theirs = nil
	return process, err
}

// open makes the channels to the process.
func (l *launch) open() (err error) {
	if l.bootstrap, err = l.socket("_LIBCONTAINER_INITPIPE", unix.SOCK_STREAM); err != nil {
		return err
	}
	if l.sync, err = l.socket("_LIBCONTAINER_SYNCPIPE", unix.SOCK_SEQPACKET); err != nil {
		return err
	}
	if l.log, err = l.pipe("_LIBCONTAINER_LOGPIPE", 0o600); err != nil {
		return err
	}
	// The process opens it again, as its user, and writes a byte before it
	// execs. It need not wait for us there: a pipe, not a FIFO.
	started, err := l.pipe("_LIBCONTAINER_FIFOFD", 0o622)
	if err != nil {
		return err
	}
	// Its only reader; kept open on both sides.
	l.theirs = append(l.theirs, started)
	l.pass("", started)
	if l.filter != nil {
		if l.control, err = l.socket("", unix.SOCK_STREAM); err != nil {
			return err
		}
		n := 2 + len(l.files)
		l.pass("", l.filter)
		l.env = append(l.env, fmt.Sprintf("%s=%d,%d", filterEnv, n, n+1))
	}
	return nil
}

// pass gives f to the process and its number there in the variable name.
func (l *launch) pass(name string, f *os.File) {
	l.files = append(l.files, f)
	if name != "" {
		l.env = append(l.env, name+"="+strconv.Itoa(2+len(l.files)))
	}
}

func (l *launch) socket(name string, typ int) (ours *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_LOCAL, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "init")
	l.theirs = append(l.theirs, theirs)
	l.pass(name, theirs)
	return os.NewFile(uintptr(fds[0]), "init"), nil
}

// pipe gives the process the writing end.
func (l *launch) pipe(name string, mode os.FileMode) (ours *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	l.theirs = append(l.theirs, w)
	l.pass(name, w)
	if err := w.Chmod(mode); err != nil {
		return r, err
	}
	return r, nil
}

func (l *launch) close() {
	closeAll(l.theirs)
	closeAll([]*os.File{l.bootstrap, l.sync, l.log, l.control})
}

// enter has first, which start returned, make the namespaces and the process
// in them, which is returned; first has ended then.
func (l *launch) enter(first *os.Process) (*os.Process, error) {
	req := nl.NewNetlinkRequest(int(libcontainer.InitMsg), 0)
	req.AddData(&libcontainer.Int32msg{Type: libcontainer.CloneFlagsAttr, Value: uint32(l.config.Config.Namespaces.CloneFlags())})
	req.AddData(&libcontainer.Boolmsg{Type: libcontainer.RootlessEUIDAttr, Value: l.config.Config.RootlessEUID})
	_, err := l.bootstrap.Write(req.Serialize())
	var pids struct {
		Middle int `json:"stage1_pid"`
		Final  int `json:"stage2_pid"`
	}
	if err == nil {
		err = json.NewDecoder(l.bootstrap).Decode(&pids)
	}
	if err != nil {
		kill(first)
		return nil, fmt.Errorf("enter namespaces: %w", err)
	}
	if middle, err := os.FindProcess(pids.Middle); err == nil {
		_, _ = middle.Wait()
	}
	final, err := os.FindProcess(pids.Final)
	if err != nil {
		return nil, err
	}
	if _, err := first.Wait(); err != nil {
		kill(final)
		return nil, fmt.Errorf("enter namespaces: %w", err)
	}
	return final, nil
}

func kill(p *os.Process) {
	_ = p.Kill()
	_, _ = p.Wait()
}

// because adds to err what the process, which has ended, logged.
func (l *launch) because(err error) error {
	// A process of its making may still have the pipe open.
	_ = l.log.SetReadDeadline(time.Now().Add(time.Second))
	data, _ := io.ReadAll(io.LimitReader(l.log, 64<<10))
	for line := range bytes.Lines(data) {
		var entry struct{ Msg string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg != "" {
			err = fmt.Errorf("%w: %s", err, entry.Msg)
		}
	}
	return err
}

// A syncMessage is what the process and we tell each other while it sets the
// container up.
type syncMessage struct {
	Type string           `json:"type"`
	Arg  *json.RawMessage `json:"arg,omitempty"`
}

// configure gives the process its configuration and waits until it is about to
// exec. pid is the process's.
func (l *launch) configure(pid int) error {
	data, err := json.Marshal(l.config)
	if err != nil {
		return err
	}
	if _, err := l.bootstrap.Write(data); err != nil {
		return fmt.Errorf("configure init: %w", err)
	}
	ready := false
	packet := make([]byte, 64<<10)
	for {
		n, err := l.sync.Read(packet)
		if err == io.EOF && ready {
			return nil
		}
		if err != nil {
			return fmt.Errorf("init ended early: %w", err)
		}
		var m syncMessage
		if err := json.Unmarshal(packet[:n], &m); err != nil {
			return fmt.Errorf("read from init: %w", err)
		}
		var answer string
		switch m.Type {
		case "procHooks":
			answer = "procHooksDone"
		case "procReady":
			ready, answer = true, "procRun"
			if err := l.finish(pid); err != nil {
				return err
			}
		default:
			return initError(m)
		}
		data, err := json.Marshal(syncMessage{Type: answer})
		if err != nil {
			return err
		}
		if _, err := l.sync.Write(data); err != nil {
			return fmt.Errorf("configure init: %w", err)
		}
	}
}

// finish does what comes between the last mount and the drop of privileges.
func (l *launch) finish(pid int) error {
	for _, r := range l.config.Rlimits {
		if err := unix.Prlimit(pid, r.Type, &unix.Rlimit{Cur: r.Soft, Max: r.Hard}, nil); err != nil {
			return fmt.Errorf("set ulimit %d to %d:%d: %w", r.Type, r.Soft, r.Hard, err)
		}
	}
	if l.filter == nil {
		return nil
	}
	if _, err := l.control.Write([]byte{1}); err != nil {
		return fmt.Errorf("load the syscall filter: %w", err)
	}
	var answer [4]byte
	if _, err := io.ReadFull(l.control, answer[:]); err != nil {
		return fmt.Errorf("load the syscall filter: %w", err)
	}
	if errno := int32(nl.NativeEndian().Uint32(answer[:])); errno != 0 {
		return fmt.Errorf("load the syscall filter: %w", syscall.Errno(errno))
	}
	return nil
}

// initError is the error in a message, or one about the message.
func initError(m syncMessage) error {
	if m.Arg == nil {
		return fmt.Errorf("unexpected word %q from init", m.Type)
	}
	switch m.Type {
	case "procError":
		var arg struct{ Message string }
		if err := json.Unmarshal(*m.Arg, &arg); err != nil {
			return fmt.Errorf("read from init: %w", err)
		}
		return errors.New(arg.Message)
	case "procMountPlease": // it cannot open the source of a mount
		var arg configs.Mount
		if err := json.Unmarshal(*m.Arg, &arg); err != nil {
			return fmt.Errorf("read from init: %w", err)
		}
		_, err := os.Stat(arg.Source)
		return fmt.Errorf("mount %s: source cannot be opened: %w", arg.Destination, errors.Join(err))
	}
	return fmt.Errorf("unexpected word %q from init", m.Type)
}
