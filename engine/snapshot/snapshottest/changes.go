package snapshottest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// changes has steps change a root in every way there is, and looks at what is
// committed and at the root that it makes on top of the lowers.
func (s suite) changes(t *testing.T) {
	const base = `
		d dir
		f dir/a one
		f dir/b two
		d dir/sub
		f dir/sub/c three
		d empty
		f file hello
		l link dir
		d other
		f other/a 1
		f other/z 26
	`
	for _, tc := range []struct {
		name   string
		layers []string // base when nil
		do     func(root string) error
		want   string // the change
		seen   string // the root afterwards, when not ""
	}{
		{
			name: "nothing",
			do:   func(root string) error { return nil },
		},
		{
			name: "touched and put back",
			do: func(root string) error {
				f := filepath.Join(root, "file")
				if err := os.Chmod(f, 0o600); err != nil {
					return err
				}
				return os.Chmod(f, 0o644)
			},
		},
		{
			name: "write",
			do: func(root string) error {
				return os.WriteFile(filepath.Join(root, "dir/sub/c"), []byte("drei"), 0)
			},
			want: "d dir\nd dir/sub\nf dir/sub/c drei",
		},
		{
			name: "write of as many bytes at the same time",
			do: func(root string) error {
				f := filepath.Join(root, "file")
				if err := os.WriteFile(f, []byte("HELLO"), 0); err != nil {
					return err
				}
				return os.Chtimes(f, time.Unix(1_600_000_000, 0), time.Unix(1_600_000_000, 0))
			},
			want: "f file HELLO",
		},
		{
			name: "chmod alone",
			do: func(root string) error {
				if err := os.Chmod(filepath.Join(root, "empty"), 0o700); err != nil {
					return err
				}
				return unix.Chmod(filepath.Join(root, "dir/a"), 0o4755)
			},
			want: "d dir\nf dir/a one mode=4755\nd empty mode=700",
		},
		{
			name: "chown alone",
			do:   func(root string) error { return os.Lchown(filepath.Join(root, "link"), 1000, 50) },
			want: "l link dir owner=1000:50",
		},
		{
			name: "remove file",
			do:   func(root string) error { return os.Remove(filepath.Join(root, "dir/a")) },
			want: "d dir\nw dir/a",
			seen: "d dir\nf dir/b two\nd dir/sub\nf dir/sub/c three\nd empty\nf file hello\nl link dir\nd other\nf other/a 1\nf other/z 26",
		},
		{
			name: "remove directory",
			do:   func(root string) error { return os.RemoveAll(filepath.Join(root, "dir")) },
			want: "w dir",
			seen: "d empty\nf file hello\nl link dir\nd other\nf other/a 1\nf other/z 26",
		},
		{
			name: "replace directory by a new one",
			do: func(root string) error {
				d := filepath.Join(root, "dir")
				if err := os.RemoveAll(d); err != nil {
					return err
				}
				if err := os.Mkdir(d, 0o755); err != nil {
					return err
				}
				return os.WriteFile(filepath.Join(d, "b2"), []byte("new"), 0o644)
			},
			want: "d dir\nw dir/a\nw dir/b\nf dir/b2 new\nw dir/sub",
			seen: "d dir\nf dir/b2 new\nd empty\nf file hello\nl link dir\nd other\nf other/a 1\nf other/z 26",
		},
		{
			name: "replace directory by a file",
			do: func(root string) error {
				d := filepath.Join(root, "dir")
				if err := os.RemoveAll(d); err != nil {
					return err
				}
				return os.WriteFile(d, []byte("now a file"), 0o644)
			},
			want: "f dir now a file",
			seen: "f dir now a file\nd empty\nf file hello\nl link dir\nd other\nf other/a 1\nf other/z 26",
		},
		{
			name: "replace file by a directory",
			do: func(root string) error {
				f := filepath.Join(root, "file")
				if err := os.Remove(f); err != nil {
					return err
				}
				if err := os.Mkdir(f, 0o755); err != nil {
					return err
				}
				return os.WriteFile(filepath.Join(f, "x"), []byte("x"), 0o644)
			},
			want: "d file\nf file/x x",
		},
		{
			name: "move directory over directory",
			do: func(root string) error {
				// What mv does when rename says EXDEV, as it does for a lower
				// directory of an overlay.
				if err := os.RemoveAll(filepath.Join(root, "other")); err != nil {
					return err
				}
				if err := os.Rename(filepath.Join(root, "dir"), filepath.Join(root, "other")); err == nil {
					return nil
				}
				if err := os.CopyFS(filepath.Join(root, "other"), os.DirFS(filepath.Join(root, "dir"))); err != nil {
					return err
				}
				return os.RemoveAll(filepath.Join(root, "dir"))
			},
			want: "w dir\nd other\nf other/a one\nf other/b two\nd other/sub\nf other/sub/c three\nw other/z",
			seen: "d empty\nf file hello\nl link dir\nd other\nf other/a one\nf other/b two\nd other/sub\nf other/sub/c three",
		},
		{
			name: "rename file",
			do: func(root string) error {
				return os.Rename(filepath.Join(root, "file"), filepath.Join(root, "dir/file"))
			},
			want: "d dir\nf dir/file hello\nw file",
		},
		{
			name:   "swap files of one size and time",
			layers: []string{"f a 1\nf b 2"},
			do: func(root string) error {
				return unix.Renameat2(unix.AT_FDCWD, filepath.Join(root, "a"), unix.AT_FDCWD, filepath.Join(root, "b"), unix.RENAME_EXCHANGE)
			},
			want: "f a 2\nf b 1",
		},
		{
			name: "all kinds",
			do: func(root string) error {
				for _, line := range []string{"c null 1:3", "p pipe ", "l dangling nowhere/at/all", "f caps x", "h hard caps", "u hard 7:8"} {
					f := strings.SplitN(line, " ", 3)
					if err := buildOne(root, filepath.Join(root, f[1]), f[0], f[2]); err != nil {
						return err
					}
				}
				s := filepath.Join(root, "sticky")
				if err := os.Mkdir(s, 0); err != nil {
					return err
				}
				if err := unix.Chmod(s, 0o3777); err != nil {
					return err
				}
				return unix.Setxattr(filepath.Join(root, "caps"), "security.capability", capNetBind(), 0)
			},
			want: fmt.Sprintf("f caps x owner=7:8 security.capability=%x\nl dangling nowhere/at/all\nh hard caps owner=7:8 security.capability=%[1]x\nc null 1:3\np pipe\nd sticky mode=3777", capNetBind()),
		},
		{
			name: "hard link of a lower file",
			do: func(root string) error {
				return os.Link(filepath.Join(root, "dir/a"), filepath.Join(root, "dir/a2"))
			},
			want: "d dir\nf dir/a2 one",
		},
		{
			name:   "whiteouts and opaque directories in lowers",
			layers: []string{base, "d dir\nw dir/a\nw file\nd other\no other\nf other/new n", "f file again\nd other\nw other/new\nf other/newer m"},
			do: func(root string) error {
				return os.WriteFile(filepath.Join(root, "dir/a"), []byte("back"), 0o644)
			},
			want: "d dir\nf dir/a back",
			seen: "d dir\nf dir/a back\nf dir/b two\nd dir/sub\nf dir/sub/c three\nd empty\nf file again\nl link dir\nd other\nf other/newer m",
		},
		{
			name:   "remove what a lower whiteout hides is made again",
			layers: []string{base, "w file"},
			do: func(root string) error {
				f := filepath.Join(root, "file")
				if _, err := os.Lstat(f); err == nil {
					return errors.New("the removed file is there")
				} else if !errors.Is(err, os.ErrNotExist) {
					return fmt.Errorf("the removed file: %w", err)
				}
				if err := os.WriteFile(f, nil, 0o644); err != nil {
					return err
				}
				return os.Remove(f)
			},
		},
		{
			name:   "file in the place of a lower directory's link",
			layers: []string{"d usr\nd usr/bin\nf usr/bin/sh #!\nl bin usr/bin"},
			do: func(root string) error {
				return os.WriteFile(filepath.Join(root, "bin/ls"), []byte("ls"), 0o755)
			},
			want: "d usr\nd usr/bin\nf usr/bin/ls ls mode=755",
		},
		{
			name: "attributes",
			do: func(root string) error {
				if err := unix.Setxattr(filepath.Join(root, "file"), "user.note", []byte("n"), 0); err != nil {
					return err
				}
				return unix.Setxattr(filepath.Join(root, "dir/b"), "security.capability", capNetBind(), 0)
			},
			// Of the attributes only capabilities are part of a layer.
			want: fmt.Sprintf("d dir\nf dir/b two security.capability=%x", capNetBind()),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			layers := tc.layers
			if layers == nil {
				layers = []string{base}
			}
			snap, _, lowers := s.layers(t, layers...)
			m := mount(t, snap, lowers, false)
			if err := tc.do(m.Root); err != nil {
				t.Fatal(err)
			}
			before := list(t, m.Root)
			if tc.seen != "" {
				same(t, "root", before, tc.seen)
			}
			dir := commit(t, m)
			same(t, "change", change(t, lowers, dir), tc.want)
			again := mount(t, snap, append(slices.Clone(lowers), dir), true)
			same(t, "root of the layers and the change", list(t, again.Root), strings.Join(before, "\n"))
		})
	}
}

// capNetBind is a file capability: version 2, cap_net_bind_service=ep.
func capNetBind() []byte {
	return []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
}
