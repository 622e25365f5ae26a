package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// options is what a mount is made of.
type options struct {
	lowers      []string // the lowest first
	upper, work string   // "" for a read-only mount
	target      string
}

// An option is a name, and a value unless it is a flag.
type option struct{ name, value string }

// settings returns the options but for the lower directories.
func (o *Overlay) settings(opts options) []option {
	s := []option{{"index", "off"}} // lower directories are shared by any number of mounts
	if o.userns {
		// Excludes metacopy and redirect_dir, and refuses to be told so.
		s = append(s, option{"userxattr", ""})
	} else {
		// The upper directory has files whole, and directories where they are.
		s = append(s, option{"metacopy", "off"}, option{"redirect_dir", "off"})
	}
	if opts.upper != "" {
		s = append(s, option{"upperdir", opts.upper}, option{"workdir", opts.work})
	}
	return s
}

// mount mounts by file system context where the kernel has that for overlayfs
// (6.8): lower directories are named one by one, without a limit on the length
// of all names together. Else it is mount(2).
func (o *Overlay) mount(opts options) error {
	if !o.useMount {
		err := o.mountByContext(opts)
		if !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	return o.mountByData(opts)
}

func (o *Overlay) mountByContext(opts options) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err == unix.ENOSYS || err == unix.EPERM { // EPERM: also old seccomp profiles
		return errors.ErrUnsupported
	}
	if err != nil {
		return fmt.Errorf("open overlayfs: %w", err)
	}
	defer unix.Close(fs)
	for i := range opts.lowers { // the topmost first
		lower := opts.lowers[len(opts.lowers)-1-i]
		if err := unix.FsconfigSetString(fs, "lowerdir+", lower); err != nil {
			if i == 0 && err == unix.EINVAL {
				return errors.ErrUnsupported // before 6.8
			}
			return explain(fs, fmt.Errorf("lower directory %s: %w", lower, err))
		}
	}
	settings := o.settings(opts)
	if opts.upper != "" {
		settings = append(settings, option{"volatile", ""})
	}
	for _, s := range settings {
		if s.value == "" {
			err = unix.FsconfigSetFlag(fs, s.name)
		} else {
			err = unix.FsconfigSetString(fs, s.name, s.value)
		}
		if err != nil {
			return explain(fs, fmt.Errorf("overlay option %s: %w", s.name, err))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return explain(fs, fmt.Errorf("create an overlay: %w", err))
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return explain(fs, fmt.Errorf("mount an overlay: %w", err))
	}
	defer unix.Close(mnt)
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, opts.target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount an overlay on %s: %w", opts.target, err)
	}
	return nil
}

// explain adds what the kernel has logged in the context: its reason.
func explain(fs int, err error) error {
	var buf [1024]byte
	var reasons []string
	for {
		n, rerr := unix.Read(fs, buf[:])
		if rerr != nil || n <= 0 {
			break
		}
		// "e overlay: reason", e for error, w for warning, i for information
		if level, text, ok := strings.Cut(string(buf[:n]), " "); ok && level != "i" {
			reasons = append(reasons, strings.TrimSpace(strings.TrimPrefix(text, "overlay: ")))
		}
	}
	if len(reasons) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(reasons, "; "))
}

// mountByData mounts with mount(2), whose options fit into a page: every
// directory gets a short name in a directory of links, which is the working
// directory of a thread made for the purpose.
func (o *Overlay) mountByData(opts options) error {
	links := opts.target + ".l"
	if err := os.Mkdir(links, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(links)
	names := make([]string, len(opts.lowers))
	for i, l := range opts.lowers {
		name := strconv.FormatInt(int64(i), 36)
		if err := os.Symlink(l, filepath.Join(links, name)); err != nil {
			return err
		}
		names[len(opts.lowers)-1-i] = name // the topmost first
	}
	short := opts
	if opts.upper != "" {
		short.upper, short.work = "../"+filepath.Base(opts.upper), "../"+filepath.Base(opts.work)
	}
	data := []string{"lowerdir=" + strings.Join(names, ":")}
	for _, s := range o.settings(short) {
		if s.value != "" {
			s.name += "=" + s.value
		}
		data = append(data, s.name)
	}
	return inDirectory(links, func() error {
		var err error
		if opts.upper != "" {
			// Since 5.10; older kernels say EINVAL, as they do to much else.
			err = unix.Mount("overlay", opts.target, "overlay", 0, strings.Join(append(data, "volatile"), ","))
		}
		if opts.upper == "" || err == unix.EINVAL {
			err = unix.Mount("overlay", opts.target, "overlay", 0, strings.Join(data, ","))
		}
		if err != nil {
			return fmt.Errorf("mount an overlay on %s: %w", opts.target, err)
		}
		return nil
	})
}

// inDirectory runs f in a thread whose working directory is dir and that
// nothing else runs in.
func inDirectory(dir string, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Chdir(dir)
		}
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}
