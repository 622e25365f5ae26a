package snapshottest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/layertar"
)

// Trees are written as lines "kind path argument":
//
//	d dir            f file bytes      l link target    h link file
//	p pipe           c device 1:3      m path 4755      u path 1000:50
//	x path name=v    w path (gone)     o dir (opaque)

// build makes what lines say in dir, which exists. Everything gets a time of
// whole seconds, as if it had been unpacked.
func build(t testing.TB, dir string, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 3)
		if len(f) < 2 {
			continue
		}
		name, arg := filepath.Join(dir, f[1]), ""
		if len(f) > 2 {
			arg = f[2]
		}
		if err := buildOne(dir, name, f[0], arg); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	when := time.Unix(1_600_000_000, 0)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		ts, err := unix.TimeToTimespec(when)
		if err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func buildOne(root, name, kind, arg string) error {
	switch kind {
	case "d":
		return os.MkdirAll(name, 0o755)
	case "f":
		return os.WriteFile(name, []byte(arg), 0o644)
	case "l":
		return os.Symlink(arg, name)
	case "h":
		return os.Link(filepath.Join(root, arg), name)
	case "p":
		return unix.Mkfifo(name, 0o644)
	case "w":
		return unix.Mknod(name, unix.S_IFCHR, 0)
	case "o":
		return unix.Setxattr(name, "trusted.overlay.opaque", []byte("y"), 0)
	case "c":
		major, minor, _ := strings.Cut(arg, ":")
		ma, _ := strconv.Atoi(major)
		mi, _ := strconv.Atoi(minor)
		if err := unix.Mknod(name, unix.S_IFCHR, int(unix.Mkdev(uint32(ma), uint32(mi)))); err != nil {
			return err
		}
		return unix.Chmod(name, 0o666) // whatever the umask
	case "m":
		mode, err := strconv.ParseUint(arg, 8, 32)
		if err != nil {
			return err
		}
		return unix.Chmod(name, uint32(mode))
	case "u":
		uid, gid, _ := strings.Cut(arg, ":")
		u, _ := strconv.Atoi(uid)
		g, _ := strconv.Atoi(gid)
		return os.Lchown(name, u, g)
	case "x":
		key, value, _ := strings.Cut(arg, "=")
		return unix.Lsetxattr(name, key, []byte(value), 0)
	}
	return fmt.Errorf("unknown kind %q", kind)
}

// change lists, in the same lines, what the layer in dir changes of lowers: the
// entries of its tar, so that two directories that mean the same are equal.
func change(t testing.TB, lowers []string, dir string) []string {
	t.Helper()
	var base *fsdiff.View
	for _, l := range lowers {
		base = fsdiff.NewView(base, fsdiff.Dir(l))
	}
	var buf bytes.Buffer
	if _, err := layertar.Write(t.Context(), &buf, fsdiff.Dir(dir), base); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for tr := tar.NewReader(&buf); ; {
		hdr, err := tr.Next()
		if err == io.EOF {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, lineOf(hdr, string(data)))
	}
}

func lineOf(hdr *tar.Header, data string) string {
	name := strings.TrimSuffix(hdr.Name, "/")
	if gone, ok := strings.CutPrefix(filepath.Base(name), ".wh."); ok {
		return "w " + filepath.Join(filepath.Dir(name), gone)
	}
	kind, arg, usual := "f", data, int64(0o644)
	switch hdr.Typeflag {
	case tar.TypeDir:
		kind, usual = "d", 0o755
	case tar.TypeSymlink:
		kind, arg, usual = "l", hdr.Linkname, 0o777
	case tar.TypeLink:
		kind, arg, usual = "h", hdr.Linkname, hdr.Mode
	case tar.TypeFifo:
		kind = "p"
	case tar.TypeChar:
		kind, arg, usual = "c", fmt.Sprintf("%d:%d", hdr.Devmajor, hdr.Devminor), 0o666
	}
	if hdr.Mode != usual {
		arg += fmt.Sprintf(" mode=%o", hdr.Mode)
	}
	if hdr.Uid != 0 || hdr.Gid != 0 {
		arg += fmt.Sprintf(" owner=%d:%d", hdr.Uid, hdr.Gid)
	}
	for key, value := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			arg += fmt.Sprintf(" %s=%x", name, value)
		}
	}
	return strings.TrimSpace(kind + " " + name + " " + strings.TrimSpace(arg))
}

// list lists what is in a mounted root, with contents and modes.
func list(t testing.TB, root string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == root {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		hdr := &tar.Header{Name: rel, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid)}
		data := ""
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			hdr.Typeflag = tar.TypeReg
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			data = string(b)
		case unix.S_IFDIR:
			hdr.Typeflag = tar.TypeDir
		case unix.S_IFLNK:
			hdr.Typeflag = tar.TypeSymlink
			if hdr.Linkname, err = os.Readlink(name); err != nil {
				return err
			}
		case unix.S_IFIFO:
			hdr.Typeflag = tar.TypeFifo
		case unix.S_IFCHR:
			hdr.Typeflag = tar.TypeChar
			hdr.Devmajor, hdr.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
		}
		lines = append(lines, lineOf(hdr, data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// same compares lists with want, written as lines.
func same(t testing.TB, what string, got []string, want string) {
	t.Helper()
	var lines []string
	for line := range strings.Lines(want) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	if !slices.Equal(got, lines) {
		t.Errorf("%s:\n%s\nwant:\n%s", what, strings.Join(got, "\n"), strings.Join(lines, "\n"))
	}
}
