package executor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/userns"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A Bundle is a Process made ready for an OCI runtime: its spec, the files the
// spec names, and what has to be undone afterwards.
type Bundle struct {
	Spec *specs.Spec

	dir   string
	stubs *stubs
}

// Prepare makes the files that p's spec names in dir, which exists and is
// empty, and p's working directory in p.Root. The caller calls Close when the
// process has ended. With filter, a sandboxed process gets the default seccomp
// profile; without, that is the caller's business.
func Prepare(p Process, dir string, filter bool) (_ *Bundle, retErr error) {
	b := &Bundle{dir: dir}
	defer func() {
		if retErr != nil {
			_ = b.Close()
		}
	}()

	if err := check(p); err != nil {
		return nil, err
	}
	// The runtimes want a root without links, and stubs are found by its path.
	root, err := filepath.EvalSymlinks(p.Root)
	if err != nil {
		return nil, fmt.Errorf("root file system: %w", err)
	}
	p.Root = root
	dests := []string{"/etc/resolv.conf", "/etc/hosts"}
	for _, m := range p.Mounts {
		dests = append(dests, m.Dest)
	}
	b.stubs = findStubs(p.Root, dests, p.RemoveMountStubsRecursive)

	user, err := LookupUser(p.Root, p.User)
	if err != nil {
		return nil, err
	}
	h, err := facts(p, dir)
	if err != nil {
		return nil, err
	}
	b.Spec = spec(p, user, h)
	if filter && p.Security == pb.SecurityMode_SANDBOX {
		if b.Spec.Linux.Seccomp, err = DefaultFilter(); err != nil {
			return nil, err
		}
	}
	if err := makeCwd(p.Root, b.Spec.Process.Cwd, user.UID, user.GID); err != nil {
		return nil, fmt.Errorf("make working directory %s: %w", p.Cwd, err)
	}
	return b, nil
}

// Close removes the Bundle's directory, and the mount points the run has made in
// the root and left empty.
func (b *Bundle) Close() error {
	if b.stubs != nil {
		b.stubs.remove()
	}
	return os.RemoveAll(b.dir)
}

func check(p Process) error {
	switch {
	case len(p.Args) == 0:
		return errors.New("no command to run")
	case !filepath.IsAbs(p.Root):
		return fmt.Errorf("root %q is not absolute", p.Root)
	}
	if _, ok := pb.NetMode_name[int32(p.Network)]; !ok {
		return fmt.Errorf("unknown network mode %d", p.Network)
	}
	if _, ok := pb.SecurityMode_name[int32(p.Security)]; !ok {
		return fmt.Errorf("unknown security mode %d", p.Security)
	}
	for _, m := range p.Mounts {
		if !filepath.IsAbs(m.Dest) || filepath.Clean(m.Dest) == "/" {
			return fmt.Errorf("mount target %q: want an absolute path below /", m.Dest)
		}
		if !m.Tmpfs && !filepath.IsAbs(m.Source) {
			return fmt.Errorf("mount %s: source %q is not absolute", m.Dest, m.Source)
		}
	}
	if p.Cwd != "" && !filepath.IsAbs(p.Cwd) {
		return fmt.Errorf("working directory %q is not absolute", p.Cwd)
	}
	return nil
}

// facts looks at the host, and writes the container's network files to dir.
func facts(p Process, dir string) (h hostFacts, err error) {
	h.resolvConf, h.hosts = filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hosts")
	if err := os.WriteFile(h.hosts, hostsFile(hostname(p), p.ExtraHosts), 0o644); err != nil {
		return h, err
	}
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return h, err
	}
	if err := os.WriteFile(h.resolvConf, resolvConf(host, p.Network != pb.NetMode_NONE), 0o644); err != nil {
		return h, err
	}
	// The umask may have taken bits that every user of the container needs.
	if err := errors.Join(os.Chmod(h.hosts, 0o644), os.Chmod(h.resolvConf, 0o644)); err != nil {
		return h, err
	}
	_, nsErr := os.Stat("/proc/self/ns/cgroup")
	_, v2Err := os.Stat("/sys/fs/cgroup/cgroup.subtree_control")
	h.cgroupNS = nsErr == nil && v2Err == nil
	h.masked = maskedPaths()
	if p.Security == pb.SecurityMode_INSECURE {
		if h.caps, err = hostCaps(); err != nil {
			return h, err
		}
		if !userns.RunningInUserNS() {
			h.devices = slices.Clip(hostDevices())
		}
	}
	return h, nil
}
