package layertar

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

// inFlight bounds the file contents, in bytes, that wait to be written.
const inFlight = 16 << 20

// node is one object to be made in a tree.
type node struct {
	path         string // clean, relative, below real directories of the tree
	mode         uint32 // with the S_IF bits
	uid, gid     uint32
	rdev         uint64
	target       string // of a symbolic link
	atime, mtime time.Time
	xattrs       map[string][]byte
}

// A tree makes a directory in overlay format. One goroutine, the builder,
// says what to make; directories are made at once, all else by workers.
//
// The builder's paths name real directories of the tree: whoever has paths
// from elsewhere resolves them first (see resolver). So no path that reaches
// a system call leads through a symbolic link.
type tree struct {
	ctx   context.Context
	group *errgroup.Group
	path  string // absolute
	root  int    // descriptor
	jobs  chan func() error
	bytes *semaphore.Weighted

	userns bool // devices cannot be made, overlay's attributes are user.*

	dirs map[string]*dirState // real directories, by path; used by the builder

	mu      sync.Mutex
	settled sync.Cond
	pending map[string]bool // paths that a worker is about to make
	failed  bool
}

// A dirState is what the builder remembers of a directory.
type dirState struct {
	atime, mtime time.Time // to be set at the end, unless mtime is zero
	setgid       bool
}

// newTree opens dir, which exists, and starts the workers. The caller calls
// close.
func newTree(ctx context.Context, dir string) (*tree, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	root, err := unix.Open(abs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: abs, Err: err}
	}
	g, ctx := errgroup.WithContext(ctx)
	t := &tree{
		ctx: ctx, group: g, path: abs, root: root,
		jobs:    make(chan func() error, 64),
		bytes:   semaphore.NewWeighted(inFlight),
		userns:  inUserNamespace(),
		dirs:    map[string]*dirState{"": {}},
		pending: map[string]bool{},
	}
	t.settled.L = &t.mu
	for range workers() {
		g.Go(t.work)
	}
	return t, nil
}

func inUserNamespace() bool {
	m, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(m)), " ") != "0 0 4294967295"
}

func (t *tree) work() error {
	for job := range t.jobs {
		if err := job(); err != nil {
			t.mu.Lock()
			t.failed = true
			t.mu.Unlock()
			t.settled.Broadcast()
			return err
		}
	}
	return nil
}

// close waits for the workers, sets the times of the directories when all went
// well, and returns err or else the first error of a worker.
func (t *tree) close(err error) error {
	if err == nil {
		err = t.barrier()
	}
	if err == nil {
		err = t.setDirTimes()
	}
	close(t.jobs)
	if werr := t.group.Wait(); werr != nil {
		err = werr // what the builder saw then is a consequence
	}
	return errors.Join(err, unix.Close(t.root))
}

// do has a worker make what path names. Jobs of one path run one after the
// other, in the order of do.
func (t *tree) do(path string, job func() error) error {
	if err := t.await(path); err != nil {
		return err
	}
	t.mu.Lock()
	t.pending[path] = true
	t.mu.Unlock()
	run := func() error {
		err := job()
		if err != nil {
			return fmt.Errorf("make %q: %w", path, err)
		}
		t.mu.Lock()
		delete(t.pending, path)
		t.mu.Unlock()
		t.settled.Broadcast()
		return nil
	}
	select {
	case t.jobs <- run:
		return nil
	case <-t.ctx.Done():
		return context.Cause(t.ctx)
	}
}

// await returns when no worker is about to make path.
func (t *tree) await(path string) error {
	return t.waitFor(func() bool { return !t.pending[path] })
}

// barrier returns when the workers have nothing left to do.
func (t *tree) barrier() error {
	return t.waitFor(func() bool { return len(t.pending) == 0 })
}

func (t *tree) waitFor(ready func() bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !ready() && !t.failed {
		t.settled.Wait()
	}
	if t.failed {
		// The error itself comes from the group.
		return context.Canceled
	}
	return nil
}

// put makes n in the place of whatever this tree has at n.path.
func (t *tree) put(n node) error {
	if n.mode&unix.S_IFMT == unix.S_IFDIR {
		return t.mkdir(n)
	}
	if err := t.clear(n.path); err != nil {
		return err
	}
	return t.do(n.path, func() error { return t.make(n) })
}

// clear removes a directory that is in the way of something else at p. Other
// things are replaced where they are made.
func (t *tree) clear(p string) error {
	if t.dirs[p] == nil {
		return nil
	}
	if err := t.barrier(); err != nil {
		return err
	}
	for d := range t.dirs {
		if d == p || strings.HasPrefix(d, p+"/") {
			delete(t.dirs, d)
		}
	}
	return os.RemoveAll(t.abs(p))
}

// mkdir makes a directory, or gives the one that is there n's attributes.
func (t *tree) mkdir(n node) error {
	d := t.dirs[n.path]
	if d == nil {
		var err error
		if d, err = t.newDir(n.path); err != nil {
			return err
		}
	}
	d.atime, d.mtime = n.atime, n.mtime
	d.setgid = n.mode&unix.S_ISGID != 0
	return t.setAttrs(&n)
}

func (t *tree) newDir(p string) (*dirState, error) {
	if err := t.await(p); err != nil {
		return nil, err
	}
	d := &dirState{}
	err := unix.Mkdirat(t.root, p, 0o700)
	if errors.Is(err, unix.EEXIST) {
		var opaque bool
		if opaque, err = t.unlinkForDir(p); err == nil {
			err = unix.Mkdirat(t.root, p, 0o700)
		}
		if err == nil && opaque {
			err = t.setOpaque(p)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make directory %q: %w", p, err)
	}
	t.dirs[p] = d
	return d, nil
}

// unlinkForDir removes a non-directory so that a directory can take its place,
// and says whether it was a whiteout: the directory is then opaque, lest what
// the whiteout hid shines through.
func (t *tree) unlinkForDir(p string) (whiteout bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(t.root, p, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0, unix.Unlinkat(t.root, p, 0)
}

// whiteout says that p of the lower layers is gone. What this tree itself has
// at p stays: a directory as one with nothing of the lower layers in it.
func (t *tree) whiteout(p string) error {
	if t.dirs[p] != nil {
		return t.setOpaque(p)
	}
	return t.do(p, func() error {
		err := unix.Mknodat(t.root, p, unix.S_IFCHR, 0)
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return err
	})
}

// setOpaque marks the directory p as opaque.
func (t *tree) setOpaque(p string) error {
	name := "trusted.overlay.opaque"
	if t.userns {
		name = "user.overlay.opaque"
	}
	if err := unix.Lsetxattr(t.abs(p), name, []byte("y"), 0); err != nil {
		return fmt.Errorf("mark directory %q opaque: %w", p, err)
	}
	return nil
}

// setDirTimes comes last, since whatever is made in a directory changes its
// time.
func (t *tree) setDirTimes() error {
	for p, d := range t.dirs {
		if d.mtime.IsZero() {
			continue
		}
		if err := t.setTimes(p, d.atime, d.mtime); err != nil {
			return fmt.Errorf("set times of %q: %w", p, err)
		}
	}
	return nil
}

func (t *tree) abs(p string) string { return path.Join(t.path, p) }
