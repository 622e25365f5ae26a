package executor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
)

// stubs are the places of root where the runtime will make mount points.
type stubs struct {
	root  string
	paths []string // host paths, children before their parents
}

// findStubs notes which of dests (absolute in the container) do not exist in
// root yet; with parents, which of their parent directories neither.
// What the runtime itself needs (/dev, /proc, /sys) is not asked for: those
// directories stay in the layer, as they do with BuildKit.
func findStubs(root string, dests []string, parents bool) *stubs {
	s := &stubs{root: root}
	for _, dest := range dests {
		path, err := securejoin.SecureJoin(root, dest)
		if err != nil {
			continue
		}
		for path != root {
			_, err := os.Lstat(path)
			if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
				break
			}
			s.paths = append(s.paths, path)
			if !parents {
				break
			}
			path = filepath.Dir(path)
		}
	}
	return s
}

// remove deletes the mount points that are still empty. The parent keeps the
// times it had: removing must not be seen in the layer. What cannot be removed
// stays, since the run itself has succeeded or failed already.
func (s *stubs) remove() {
	for _, path := range s.paths {
		// The process may have put a link in the way.
		path, err := securejoin.SecureJoin(s.root, strings.TrimPrefix(path, s.root))
		if err != nil || path == s.root || !emptyStub(path) {
			continue
		}
		parent := filepath.Dir(path)
		if p, err := securejoin.SecureJoin(s.root, strings.TrimPrefix(parent, s.root)); err != nil || p != parent {
			continue
		}
		var st unix.Stat_t
		if err := unix.Lstat(parent, &st); err != nil {
			continue
		}
		if err := os.Remove(path); err != nil {
			continue
		}
		_ = unix.UtimesNanoAt(unix.AT_FDCWD, parent, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	}
}

// emptyStub tells whether path is a directory without entries or a file
// without bytes.
func emptyStub(path string) bool {
	fi, err := os.Lstat(path)
	if err != nil {
		return false
	}
	if !fi.IsDir() {
		return fi.Size() == 0
	}
	d, err := os.Open(path)
	if err != nil {
		return false
	}
	defer d.Close()
	names, _ := d.Readdirnames(1)
	return len(names) == 0
}

// makeCwd makes the directory cwd (absolute in the container) and its missing
// parents in root, with mode 0755 and the given owner. An existing one is left
// alone, of whatever type: starting the process then tells.
func makeCwd(root, cwd string, uid, gid uint32) error {
	path, err := securejoin.SecureJoin(root, cwd)
	if err != nil {
		return err
	}
	var missing []string
	for ; path != root; path = filepath.Dir(path) {
		_, err := os.Stat(path)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		missing = append(missing, path)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if err := os.Mkdir(missing[i], 0o755); err != nil {
			return err
		}
		// The umask may have taken bits.
		if err := os.Chmod(missing[i], 0o755); err != nil {
			return err
		}
		if err := os.Lchown(missing[i], int(uid), int(gid)); err != nil {
			return err
		}
	}
	return nil
}
