package executor

import (
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A Host's facts that a spec depends on.
type hostFacts struct {
	resolvConf, hosts string // host paths of the files for /etc
	cgroupNS          bool   // unified cgroups with namespaces
	caps              []string
	masked            []string
	devices           []specs.LinuxDevice // for INSECURE
	seccomp           *specs.LinuxSeccomp // for SANDBOX; nil means none
}

// specVersion is the oldest that has all we use: runtimes refuse newer ones
// than they know.
const specVersion = "1.0.2"

// spec is what the runtime shall do for p, run as user. It is a function of
// its arguments, and its values are BuildKit's: what a process can see of its
// surroundings can end up in a layer.
func spec(p Process, user specs.User, h hostFacts) *specs.Spec {
	insecure := p.Security == pb.SecurityMode_INSECURE
	s := &specs.Spec{
		Version:  specVersion,
		Root:     &specs.Root{Path: p.Root, Readonly: p.ReadOnly},
		Hostname: hostname(p),
		Mounts:   mounts(p, h),
		Process: &specs.Process{
			Args:    p.Args,
			Env:     p.Env,
			Cwd:     p.Cwd,
			User:    user,
			Rlimits: rlimits(p.Ulimits),
			// NoNewPrivileges stays off: RUN sudo works.
			Capabilities: &specs.LinuxCapabilities{
				Bounding:  sandboxCaps(),
				Permitted: sandboxCaps(),
				Effective: sandboxCaps(),
			},
		},
		Linux: &specs.Linux{
			CgroupsPath:   cgroupsPath(p),
			Namespaces:    namespaces(p, h),
			MaskedPaths:   h.masked,
			ReadonlyPaths: readonlyPaths(),
			Seccomp:       h.seccomp,
			// Everything is denied but what the runtime allows on its own:
			// mknod, the default devices and /dev/pts.
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
	if s.Process.Cwd == "" {
		s.Process.Cwd = "/"
	}
	if insecure {
		s.Process.Capabilities = &specs.LinuxCapabilities{
			Bounding: h.caps, Permitted: h.caps, Effective: h.caps, Inheritable: h.caps, Ambient: h.caps,
		}
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths, s.Linux.Seccomp = nil, nil, nil
		s.Linux.Devices = h.devices
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{
			{Allow: true, Type: "c", Access: "rwm"},
			{Allow: true, Type: "b", Access: "rwm"},
		}
	}
	return s
}

func hostname(p Process) string {
	if p.Hostname == "" {
		return defaultHostname
	}
	return p.Hostname
}

func namespaces(p Process, h hostFacts) []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
	}
	if p.Network == pb.NetMode_NONE {
		ns = append(ns, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	if h.cgroupNS {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return ns
}

// cgroupsPath names the process's cgroup, from the root of the hierarchies. A
// parent in systemd's "a.slice:" form is read as its path.
func cgroupsPath(p Process) string {
	return path.Join("/", strings.TrimSuffix(p.CgroupParent, ":"), "mayfly-"+p.ID)
}

func rlimits(ulimits []*pb.Ulimit) []specs.POSIXRlimit {
	var limits []specs.POSIXRlimit
	for _, u := range ulimits {
		if u != nil {
			limits = append(limits, specs.POSIXRlimit{
				Type: "RLIMIT_" + strings.ToUpper(u.Name),
				Hard: uint64(u.Hard),
				Soft: uint64(u.Soft),
			})
		}
	}
	return limits
}

// defaultShmSize is 64 MiB, in bytes, as with Docker.
const defaultShmSize = 64 << 20

// mounts are the default ones, then the process's. One that has the Dest of
// an earlier one takes its place in the order.
func mounts(p Process, h hostFacts) []specs.Mount {
	access := "ro"
	if p.Security == pb.SecurityMode_INSECURE {
		access = "rw"
	}
	shm := p.ShmSize
	if shm == 0 {
		shm = defaultShmSize
	}
	noexec := []string{"nosuid", "noexec", "nodev"}
	with := func(more ...string) []string { return append(noexec[:3:3], more...) }
	all := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: noexec},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: with("mode=1777", "size="+strconv.FormatInt(shm, 10))},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: noexec},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: with(access)},
		{Destination: "/etc/resolv.conf", Type: "bind", Source: h.resolvConf, Options: with("rbind", "ro")},
		{Destination: "/etc/hosts", Type: "bind", Source: h.hosts, Options: with("rbind", "ro")},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: append([]string{access}, noexec...)},
	}
	at := map[string]int{}
	for i, m := range all {
		at[m.Destination] = i
	}
	for _, m := range p.Mounts {
		sm := specMount(m)
		if i, ok := at[sm.Destination]; ok {
			all[i] = sm
			continue
		}
		at[sm.Destination] = len(all)
		all = append(all, sm)
	}
	return all
}

func specMount(m Mount) specs.Mount {
	sm := specs.Mount{Destination: filepath.Join("/", m.Dest)}
	if m.Tmpfs {
		sm.Type, sm.Source, sm.Options = "tmpfs", "tmpfs", []string{"nosuid"}
	} else {
		sm.Type, sm.Source, sm.Options = "bind", m.Source, []string{"rbind"}
	}
	if m.ReadOnly {
		sm.Options = append(sm.Options, "ro")
	}
	if m.NoExec {
		sm.Options = append(sm.Options, "noexec", "nosuid", "nodev")
	}
	if m.Tmpfs && m.Size > 0 {
		sm.Options = append(sm.Options, "size="+strconv.FormatInt(m.Size, 10))
	}
	if m.Tmpfs && m.Mode != 0 {
		sm.Options = append(sm.Options, fmt.Sprintf("mode=%04o", m.Mode))
	}
	return sm
}
