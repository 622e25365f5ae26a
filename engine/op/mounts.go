package op

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/cachemount"
	"github.com/mayfly-build/mayfly/engine/executor"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/layertar"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/secret"
	"github.com/mayfly-build/mayfly/engine/snapshot"
)

// mounts are the mounts of one step: made, used, committed, closed.
type mounts struct {
	w      *World
	v      *llb.Vertex
	op     *pb.ExecOp
	inputs []*layer.State

	root         string
	rootReadOnly bool
	list         []executor.Mount

	outputs []output
	closers []func() error
	secrets string   // directory on a tmpfs, made with the first secret
	values  [][]byte // of the secrets that the step gets
}

// An output is what one mount leaves for other steps.
type output struct {
	index   int64
	dest    string
	below   *layer.State
	mounted *snapshot.Mounted // nil: below itself is the result
}

func (m *mounts) onClose(f func() error) { m.closers = append(m.closers, f) }

// close undoes what prepare did, last first; what was committed stays.
func (m *mounts) close() error {
	var errs []error
	for _, f := range slices.Backward(m.closers) {
		errs = append(errs, f())
	}
	m.closers = nil
	return errors.Join(errs...)
}

func (m *mounts) prepare(ctx context.Context) error {
	dirs, err := m.dirs(ctx)
	if err != nil {
		return err
	}
	for _, pm := range m.op.Mounts {
		if err := m.add(ctx, pm, dirs); err != nil {
			return fmt.Errorf("mount %s: %w", pm.Dest, err)
		}
	}
	slices.SortStableFunc(m.list, func(a, b executor.Mount) int { return strings.Compare(a.Dest, b.Dest) })
	return nil
}

// dirs makes the lower directories of every input at once.
func (m *mounts) dirs(ctx context.Context) ([][]string, error) {
	out := make([][]string, len(m.inputs))
	g, ctx := errgroup.WithContext(ctx)
	for i, in := range m.inputs {
		if in == nil {
			continue
		}
		g.Go(func() (err error) {
			out[i], err = in.Dirs(ctx)
			return err
		})
	}
	return out, g.Wait()
}

func (m *mounts) add(ctx context.Context, pm *pb.Mount, dirs [][]string) error {
	var below *layer.State
	var lowers []string
	if pm.Input >= 0 {
		below, lowers = m.inputs[pm.Input], dirs[pm.Input]
	}
	if pm.Dest == pb.RootMount && pm.MountType != pb.MountType_BIND {
		return fmt.Errorf("the root cannot be a %s mount", pm.MountType)
	}
	switch pm.MountType {
	case pb.MountType_BIND:
		return m.bind(ctx, pm, below, lowers)
	case pb.MountType_CACHE:
		return m.cache(ctx, pm, below)
	case pb.MountType_TMPFS:
		m.append(pm, executor.Mount{Tmpfs: true, Size: pm.GetTmpfsOpt().GetSize()})
		return nil
	case pb.MountType_SECRET:
		return m.secret(ctx, pm)
	case pb.MountType_SSH:
		return m.ssh(ctx, pm)
	}
	return fmt.Errorf("mounts of the kind %s are not supported", pm.MountType)
}

func (m *mounts) append(pm *pb.Mount, em executor.Mount) {
	em.Dest = pm.Dest
	if !path.IsAbs(em.Dest) {
		em.Dest = path.Join("/", m.op.Meta.Cwd, em.Dest)
	}
	em.ReadOnly = em.ReadOnly || pm.Readonly
	m.list = append(m.list, em)
}

func (m *mounts) bind(ctx context.Context, pm *pb.Mount, below *layer.State, lowers []string) error {
	isRoot := pm.Dest == pb.RootMount
	hasOutput := pm.Output != int64(pb.SkipOutput)
	passes := hasOutput && pm.Readonly && pm.Input >= 0 && !isRoot // the output is the input
	writable := hasOutput && !passes || !hasOutput && (!pm.Readonly || pm.Input < 0 || isRoot)
	mounted, err := m.w.Snapshot.Mount(ctx, lowers, !writable)
	if err != nil {
		return err
	}
	m.onClose(mounted.Discard)
	if hasOutput {
		out := output{index: pm.Output, dest: pm.Dest, below: below}
		if !passes {
			out.mounted = mounted
		}
		m.outputs = append(m.outputs, out)
	}
	if isRoot {
		m.root, m.rootReadOnly = mounted.Root, pm.Readonly
		return nil
	}
	src, err := inside(mounted.Root, pm.Selector)
	if err != nil {
		return err
	}
	m.append(pm, executor.Mount{Source: src})
	return nil
}

// inside returns the host path of sel in root, following links as if root
// were the root directory.
func inside(root, sel string) (string, error) {
	if path.Join("/", sel) == "/" {
		return root, nil
	}
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, strings.TrimPrefix(path.Join("/", sel), "/"), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return "", fmt.Errorf("%s: %w", sel, err)
	}
	defer unix.Close(fd)
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}

func (m *mounts) cache(ctx context.Context, pm *pb.Mount, below *layer.State) error {
	if pm.CacheOpt == nil {
		return errors.New("cache mount without options")
	}
	id := pm.CacheOpt.ID
	if id == "" {
		id = pm.Dest
	}
	var fill func(string) error
	if below != nil {
		view, err := below.View(ctx)
		if err != nil {
			return err
		}
		sum, err := m.w.Hasher.Sum(ctx, view, nil)
		if err != nil {
			return err
		}
		id += ":" + sum.String()
		fill = func(dir string) error { return layertar.Materialize(ctx, view, dir) }
	}
	if m.v.Metadata.IgnoreCache {
		if err := m.w.Mounts.Empty(id); err != nil {
			return err
		}
	}
	sharing := cachemount.Shared
	switch pm.CacheOpt.Sharing {
	case pb.CacheSharingOpt_PRIVATE:
		sharing = cachemount.Private
	case pb.CacheSharingOpt_LOCKED:
		sharing = cachemount.Locked
	}
	mount, err := m.w.Mounts.Get(ctx, cachemount.Want{
		Use: cachemount.Use{ID: id, Platform: platforms.Format(m.v.Platform())}, Sharing: sharing, Fill: fill,
	})
	if err != nil {
		return err
	}
	m.onClose(mount.Close)
	src, err := inside(mount.Dir, pm.Selector)
	if err != nil {
		return err
	}
	if pm.Output != int64(pb.SkipOutput) && below != nil {
		m.outputs = append(m.outputs, output{index: pm.Output, dest: pm.Dest, below: below})
	}
	m.append(pm, executor.Mount{Source: src})
	return nil
}

func (m *mounts) secret(ctx context.Context, pm *pb.Mount) error {
	opt := pm.SecretOpt
	if opt == nil || opt.ID == "" {
		return errors.New("secret mount without an id")
	}
	dt, err := m.w.Secrets.Get(ctx, opt.ID)
	if errors.Is(err, secret.ErrNotFound) && opt.Optional {
		return nil
	}
	if err != nil {
		return secretHint(err, opt.ID)
	}
	m.values = append(m.values, dt)
	dir, err := m.secretDir()
	if err != nil {
		return err
	}
	file := filepath.Join(dir, fmt.Sprintf("secret-%d", len(m.list)))
	if err := os.WriteFile(file, dt, 0o600); err != nil {
		return err
	}
	if err := errors.Join(os.Chown(file, int(opt.Uid), int(opt.Gid)), os.Chmod(file, os.FileMode(opt.Mode&0o777))); err != nil {
		return err
	}
	m.append(pm, executor.Mount{Source: file, ReadOnly: true, NoExec: true})
	return nil
}

// secretDir returns a directory in memory: a secret's bytes never reach a disk.
func (m *mounts) secretDir() (string, error) {
	if m.secrets != "" {
		return m.secrets, nil
	}
	dir, err := tmpDir(m.w, m)
	if err != nil {
		return "", err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return "", fmt.Errorf("mount tmpfs for secrets: %w", err)
	}
	m.onClose(func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
	m.secrets = dir
	return dir, nil
}

func (m *mounts) ssh(ctx context.Context, pm *pb.Mount) error {
	opt := pm.SSHOpt
	if opt == nil {
		return errors.New("ssh mount without options")
	}
	dir, err := os.MkdirTemp("", "mayfly-ssh-") // a socket's path has 108 bytes at most
	if err != nil {
		return err
	}
	m.onClose(func() error { return os.RemoveAll(dir) })
	sock := filepath.Join(dir, "agent.sock")
	stop, err := m.w.Agents.Forward(ctx, opt.ID, sock)
	if errors.Is(err, secret.ErrNotFound) && opt.Optional {
		return nil
	}
	if err != nil {
		return err
	}
	m.onClose(func() error { stop(); return nil })
	if err := errors.Join(os.Chown(sock, int(opt.Uid), int(opt.Gid)), os.Chmod(sock, os.FileMode(opt.Mode&0o777))); err != nil {
		return err
	}
	m.append(pm, executor.Mount{Source: sock, NoExec: true})
	return nil
}

// commit turns what the outputs' mounts changed into states.
func (m *mounts) commit(ctx context.Context) ([]*layer.State, error) {
	n := int64(0)
	for _, o := range m.outputs {
		n = max(n, o.index+1)
	}
	states := make([]*layer.State, n)
	for _, o := range m.outputs {
		if o.mounted == nil {
			states[o.index] = o.below
			continue
		}
		dir, err := o.mounted.Commit(ctx)
		if err != nil {
			return nil, fmt.Errorf("commit mount %s: %w", o.dest, err)
		}
		states[o.index], err = m.w.Layers.FromDir(o.below, dir, layer.Info{
			Description: fmt.Sprintf("mount %s from exec %s", o.dest, strings.Join(m.op.Meta.Args, " ")),
			Created:     now(),
		})
		if err != nil {
			return nil, err
		}
	}
	return states, nil
}
