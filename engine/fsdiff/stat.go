package fsdiff

import (
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// fill sets the fields of e that a stat tells.
func (e *Entry) fill(st *unix.Stat_t) {
	e.Mode = fileMode(st.Mode)
	e.UID, e.GID = st.Uid, st.Gid
	e.ModTime = time.Unix(st.Mtim.Unix())
	switch {
	case e.Mode.IsRegular():
		e.Size = st.Size
		if st.Nlink > 1 {
			e.Inode = inode(st)
		}
	case e.Mode&fs.ModeDevice != 0:
		e.Devmajor, e.Devminor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
}

// inode returns what tells hard links of one Diff. The device is mixed in since
// a View may join two file systems.
func inode(st *unix.Stat_t) uint64 { return st.Ino ^ uint64(st.Dev)<<40 }

func fileMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	}
	if m&unix.S_ISUID != 0 {
		mode |= fs.ModeSetuid
	}
	if m&unix.S_ISGID != 0 {
		mode |= fs.ModeSetgid
	}
	if m&unix.S_ISVTX != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

func fstatat(dir int, name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	for {
		err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err != unix.EINTR {
			return st, err
		}
	}
}

func readlinkat(dir int, name string) (string, error) {
	for size := 256; ; size *= 2 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}
