package git

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A store is the bare repository of one remote, held under its lock.
type store struct {
	dir    string
	lock   *os.File
	remote string // URL without credentials
	fresh  bool   // nothing is in it yet
}

// openStore locks and, when need be, makes the repository of a remote. The
// lock goes to the commands that run in it as well: should we be killed, the
// next process waits until git, too, is gone.
func (s *Source) openStore(ctx context.Context, r *runner, remote string, sha256sum bool) (*store, error) {
	name := sha256.Sum256([]byte(fmt.Sprint(cleanRemote(remote), " ", sha256sum)))
	dir := filepath.Join(s.cfg.Dir, hex.EncodeToString(name[:])[:32])
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockFile(ctx, dir+".lock")
	if err != nil {
		return nil, fmt.Errorf("lock the repository's store: %w", err)
	}
	st := &store{dir: dir, lock: lock, remote: cleanRemote(remote)}
	r.inherit = []*os.File{lock}
	if err := st.init(ctx, *r, sha256sum); err != nil {
		st.close()
		return nil, err
	}
	return st, nil
}

func (st *store) close() { st.lock.Close() }

// lockFile locks name for as long as the file it returns is open, here or in
// a child.
func lockFile(ctx context.Context, name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

func (st *store) init(ctx context.Context, r runner, sha256sum bool) error {
	if _, err := os.Stat(st.dir); err == nil {
		return st.unlock()
	}
	tmp := st.dir + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	args := []string{"init", "--quiet", "--bare"}
	if sha256sum {
		args = append(args, "--object-format=sha256")
	}
	if _, err := r.with("", "").run(ctx, append(args, tmp)...); err != nil {
		return err
	}
	st.fresh = true
	return os.Rename(tmp, st.dir)
}

// unlock removes the lock files of git commands that were killed. None runs:
// we have the lock they had.
func (st *store) unlock() error {
	for _, name := range []string{"shallow.lock", "packed-refs.lock", "config.lock", "HEAD.lock"} {
		if err := os.Remove(filepath.Join(st.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return filepath.WalkDir(filepath.Join(st.dir, "refs"), func(p string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(p, ".lock") {
			err = os.Remove(p)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

// drop removes a repository that is of no use any more.
func (st *store) drop() error { return os.RemoveAll(st.dir) }

// broken reports whether err is the store's fault, not the remote's: nothing is
// synced, so that a machine that went down may have left anything.
func (st *store) broken(err error) bool {
	return complains(err, "is corrupt", "is empty", "bad object", "unable to read", "missing blob", "missing tree",
		"did not send all necessary objects", "not a git repository: '"+st.dir, "bad config", "invalid index-pack output",
		"cannot lock ref", "unable to update local ref", "inflate: data stream error", "does not match index")
}

// keepRef is the name under which a fetched commit is kept.
func keepRef(commit string) string { return "refs/mayfly/" + commit }

func (st *store) has(ctx context.Context, r runner, commit string) bool {
	if st.fresh {
		return false
	}
	_, err := r.with(st.dir, "").run(ctx, "rev-parse", "--quiet", "--verify", keepRef(commit)+"^{tree}")
	return err == nil
}

// fetch gets p.Commit with its tree, and no history if the server allows that.
func (st *store) fetch(ctx context.Context, r runner, id Identifier, p Pinned) error {
	if st.has(ctx, r, p.Commit) {
		return nil
	}
	r = r.with(st.dir, "")
	if isCommit(p.Ref) || id.FetchByCommit {
		return st.fetchCommit(ctx, r, p.Commit)
	}
	keep := keepRef(p.Commit)
	if err := st.fetchRef(ctx, r, p.Ref, keep); err != nil {
		return err
	}
	got, err := r.line(ctx, "rev-parse", keep)
	if err != nil || got == p.Commit {
		return err
	}
	// The ref moved since it was resolved: the commit is wanted, wherever it
	// is by now.
	if _, err := r.run(ctx, "update-ref", "-d", keep); err != nil {
		return err
	}
	return st.fetchCommit(ctx, r, p.Commit)
}

// fetchRef fetches one ref of the remote.
func (st *store) fetchRef(ctx context.Context, r runner, ref, to string) error {
	spec := "+" + ref + ":" + to
	err := again(ctx, func() error {
		_, err := r.run(ctx, "fetch", "--quiet", "--depth=1", "--no-tags", "--", st.remote, spec)
		return err
	})
	if complains(err, "shallow", "--depth") { // a server that knows no shallow clones
		_, err = r.run(ctx, "fetch", "--quiet", "--no-tags", "--", st.remote, spec)
	}
	return err
}

// fetchCommit asks for the commit alone; from a server that gives only what
// its refs name it gets all there is, and looks for the commit in that.
func (st *store) fetchCommit(ctx context.Context, r runner, commit string) error {
	err := st.fetchRef(ctx, r, commit, keepRef(commit))
	if err == nil || !complains(err, "not our ref", "unadvertised object", "couldn't find remote ref") {
		return err
	}
	args := []string{"fetch", "--quiet", "--no-tags"}
	if _, err := os.Stat(filepath.Join(st.dir, "shallow")); err == nil {
		args = append(args, "--unshallow")
	}
	args = append(args, "--", st.remote, "+refs/heads/*:refs/mayfly-heads/*", "+refs/tags/*:refs/mayfly-tags/*")
	if _, err := r.run(ctx, args...); err != nil {
		return err
	}
	if _, err := r.run(ctx, "cat-file", "-e", commit); err != nil {
		return fmt.Errorf("the repository has no commit %s", commit)
	}
	_, err = r.run(ctx, "update-ref", "--no-deref", keepRef(commit), commit)
	return err
}

// tries is how often a command is run that the network may break.
const tries = 3

// again runs try until it does not fail for a passing reason.
func again(ctx context.Context, try func() error) error {
	for n := 1; ; n++ {
		err := try()
		if err == nil || n == tries || !passing(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Duration(n) * 500 * time.Millisecond):
		}
	}
}

func passing(err error) bool {
	return complains(err, "early EOF", "Connection reset", "Connection timed out", "unexpected disconnect",
		"the remote end hung up", "transfer closed", "Empty reply from server", "HTTP/2 stream", "TLS connection was non-properly terminated",
		"returned error: 429", "returned error: 500", "returned error: 502", "returned error: 503", "returned error: 504")
}

func complains(err error, about ...string) bool {
	e, ok := errors.AsType[*exitError](err)
	if !ok {
		return false
	}
	for _, text := range about {
		if strings.Contains(e.stderr, text) {
			return true
		}
	}
	return false
}
