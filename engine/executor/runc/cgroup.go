package runc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // device rules
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// cgroupPrefix begins the names of our cgroups; our PID and the container's ID
// follow.
const cgroupPrefix = "mayfly-"

// A cgroupHome is where cgroups of containers are made: directly below our
// own, so that the limits of the job hold for what it runs.
type cgroupHome struct {
	unified bool
	dirs    []string // our own cgroup in each hierarchy that a container gets one in; none: not writable
	shown   []shownCgroup
}

// A shownCgroup is a version 1 hierarchy whose cgroup a container may read.
type shownCgroup struct{ name, own string }

// findCgroupHome looks where cgroups can be made. Of the separate hierarchies
// of version 1 those are used that do something for a container without
// limits: devices keeps it from the host's, memory tells of a kill.
func findCgroupHome() cgroupHome {
	if _, err := os.Stat("/sys/fs/cgroup"); err != nil {
		return cgroupHome{}
	}
	if cgroups.IsCgroup2UnifiedMode() {
		own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
		if err != nil {
			return cgroupHome{}
		}
		dir := filepath.Join("/sys/fs/cgroup", own[""])
		if unix.Access(dir, unix.W_OK) != nil {
			return cgroupHome{}
		}
		return cgroupHome{unified: true, dirs: []string{dir}}
	}
	var h cgroupHome
	for _, name := range []string{"devices", "memory"} {
		dir, err := cgroups.GetOwnCgroupPath(name)
		if err == nil && unix.Access(dir, unix.W_OK) == nil {
			h.dirs = append(h.dirs, dir)
		}
	}
	// Language runtimes read their limits there. Each costs two mounts.
	for _, name := range []string{"cpu", "cpuacct", "cpuset", "memory", "pids"} {
		if own, err := cgroups.GetOwnCgroupPath(name); err == nil {
			h.shown = append(h.shown, shownCgroup{name, own})
		}
	}
	return h
}

// mounts is all with, instead of all version 1 hierarchies (libcontainer's
// answer to a "cgroup" mount), those that a process may look for.
func (g *cgroup) mounts(all []*configs.Mount) []*configs.Mount {
	i := slices.IndexFunc(all, func(m *configs.Mount) bool { return m.Device == "cgroup" })
	if i < 0 || len(g.home.shown) == 0 || g.manager != nil {
		return all
	}
	m := all[i]
	with := []*configs.Mount{{Source: "tmpfs", Device: "tmpfs", Destination: m.Destination, Flags: m.Flags, Data: "mode=755"}}
	for _, shown := range g.home.shown {
		dir := shown.own
		for _, d := range g.dirs {
			if filepath.Dir(d) == dir {
				dir = d
			}
		}
		with = append(with, &configs.Mount{
			Source:      dir,
			Device:      "bind",
			Destination: filepath.Join(m.Destination, shown.name),
			Flags:       unix.MS_BIND | unix.MS_REC | m.Flags,
		})
	}
	return slices.Replace(slices.Clone(all), i, i+1, with...)
}

// sweep removes the cgroups of processes of ours that were killed. One in use
// cannot be removed.
func (h cgroupHome) sweep() {
	for _, dir := range h.dirs {
		old, _ := filepath.Glob(filepath.Join(dir, cgroupPrefix+"*-*"))
		for _, path := range old {
			pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), cgroupPrefix), "-")
			if n, err := strconv.Atoi(pid); err == nil && unix.Kill(n, 0) == unix.ESRCH {
				_ = os.Remove(path)
			}
		}
	}
}

// A cgroup is a container's, in one or more hierarchies.
type cgroup struct {
	home    cgroupHome
	dirs    []string
	manager cgroups.Manager // for a cgroup with a parent of the caller's choice; else nil
	ooms    uint64          // kills before the container started
	stuck   bool            // the thread that started the process could not leave
}

// new makes the cgroup of a container, with the device rules of config. A
// config with a path gets the cgroup there, in all hierarchies.
func (h cgroupHome) new(id string, config *cgroups.Cgroup) (_ *cgroup, retErr error) {
	g := &cgroup{home: h}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(fmt.Errorf("make cgroup: %w", retErr), g.remove())
		}
	}()
	if config.Path != "" {
		var err error
		g.manager, err = manager.New(config)
		return g, err
	}
	for _, parent := range h.dirs {
		dir := filepath.Join(parent, cgroupPrefix+strconv.Itoa(os.Getpid())+"-"+id)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
		g.dirs = append(g.dirs, dir)
	}
	if len(g.dirs) > 0 {
		set := cgroups.DevicesSetV1
		if h.unified {
			set = cgroups.DevicesSetV2
		}
		// Who may make cgroups but no device rules is in a container that
		// has rules itself, or in a user namespace, where nodes cannot be
		// opened.
		if err := set(g.dirs[0], config.Resources); err != nil && !errors.Is(err, unix.EPERM) {
			return nil, err
		}
	}
	g.ooms = g.kills()
	return g, nil
}

// start calls f, which starts a process from the calling thread, so that the
// process is born in the cgroup: to move it there later would wait for an RCU
// grace period, some 10 ms. The caller has locked the thread.
func (g *cgroup) start(f func(*syscall.SysProcAttr) (*os.Process, error)) (p *os.Process, err error) {
	switch {
	case g.manager != nil:
		return g.startAndMove(f)
	case len(g.dirs) == 0:
		return f(nil)
	case g.home.unified:
		dir, err := os.Open(g.dirs[0])
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		return f(&syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())})
	}
	// In version 1 a thread can go alone, and takes nobody's lock.
	defer func() {
		for _, dir := range g.home.dirs {
			if backErr := moveThread(dir); backErr != nil {
				g.stuck, err = true, join(err, backErr)
			}
		}
	}()
	for _, dir := range g.dirs {
		if err := moveThread(dir); err != nil {
			return nil, err
		}
	}
	return f(nil)
}

// moveThread moves the calling thread to the version 1 cgroup dir.
func moveThread(dir string) error {
	return os.WriteFile(filepath.Join(dir, "tasks"), []byte("0"), 0)
}

func (g *cgroup) startAndMove(f func(*syscall.SysProcAttr) (*os.Process, error)) (*os.Process, error) {
	p, err := f(nil)
	if err != nil {
		return nil, err
	}
	err = g.manager.Apply(p.Pid)
	if err == nil {
		config, _ := g.manager.GetCgroups()
		err = g.manager.Set(config.Resources)
	}
	if err != nil {
		_ = p.Kill()
		_, _ = p.Wait()
		return nil, fmt.Errorf("join cgroup: %w", err)
	}
	return p, nil
}

// oom reports whether the kernel has killed a process of the cgroup for want
// of memory. When only our own cgroup counts, it may have been another's.
func (g *cgroup) oom() bool { return g.kills() > g.ooms }

func (g *cgroup) kills() uint64 {
	if g.manager != nil {
		n, _ := g.manager.OOMKillCount()
		return n
	}
	for _, dir := range slices.Concat(g.dirs, g.home.dirs) {
		for _, name := range []string{"memory.events", "memory.oom_control"} {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(data)) {
				if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
					count, _ := strconv.ParseUint(strings.TrimSpace(n), 10, 64)
					return count
				}
			}
		}
	}
	return 0
}

// remove removes the cgroup, in which no process is left.
func (g *cgroup) remove() error {
	var errs []error
	if g.manager != nil {
		errs = append(errs, g.manager.Destroy())
	}
	for _, dir := range g.dirs {
		errs = append(errs, cgroups.RemovePath(dir))
	}
	return errors.Join(errs...)
}
