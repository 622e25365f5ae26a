package executortest

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/mayfly-build/mayfly/engine/executor"
)

func testMountKinds(f *fixture) {
	src := f.TempDir()
	must(f.T, os.WriteFile(filepath.Join(src, "file"), []byte("from the host\n"), 0o644))
	must(f.T, os.WriteFile(filepath.Join(src, "run"), []byte("#!/bin/sh\necho ran\n"), 0o755))
	p := f.process(`cat /ro/file /deep/er/file
		(echo x > /ro/new) 2>/dev/null && echo wrote to ro
		(echo x > /deep/er/file) 2>/dev/null && echo wrote to file
		echo x > /rw/new
		/rw/run
		/noexec/run 2>/dev/null || echo no exec`)
	p.Mounts = []executor.Mount{
		{Source: src, Dest: "/ro", ReadOnly: true},
		{Source: src, Dest: "/rw"},
		{Source: src, Dest: "/noexec", NoExec: true},
		{Source: filepath.Join(src, "file"), Dest: "/deep/er/file", ReadOnly: true},
	}
	f.want("output", f.output(p), "from the host\nfrom the host\nran\nno exec\n")
	if data, err := os.ReadFile(filepath.Join(src, "new")); err != nil || string(data) != "x\n" {
		f.Errorf("written through the mount: %q, %v", data, err)
	}
}

func testMountNested(f *fixture) {
	outer, inner := f.TempDir(), f.TempDir()
	must(f.T, os.WriteFile(filepath.Join(inner, "file"), []byte("inner\n"), 0o644))
	p := f.process("cat /m/sub/dir/file; ls /m /m/sub; df -P /m/tmp | tail -1 | cut -d' ' -f1")
	p.Mounts = []executor.Mount{
		{Source: outer, Dest: "/m"},
		{Source: inner, Dest: "/m/sub/dir", ReadOnly: true},
		{Tmpfs: true, Dest: "/m/tmp"},
	}
	f.want("output", f.output(p), "inner\n/m:\nsub\ntmp\n\n/m/sub:\ndir\ntmpfs\n")
}

func testMountTmpfs(f *fixture) {
	p := f.process(`stat -c '%a' /t /small /moded
		df -k /small | tail -1 | tr -s ' ' | cut -d' ' -f2
		head -c 2000000 /dev/zero > /small/big 2>/dev/null || echo full
		touch /readonly/x 2>/dev/null || echo read only
		grep -c 'tmpfs /t .*nosuid' /proc/mounts`)
	p.Mounts = []executor.Mount{
		{Tmpfs: true, Dest: "/t"},
		{Tmpfs: true, Dest: "/small", Size: 1 << 20},
		{Tmpfs: true, Dest: "/moded", Mode: 0o750},
		{Tmpfs: true, Dest: "/readonly", ReadOnly: true},
	}
	f.want("output", f.output(p), "1777\n1777\n750\n1024\nfull\nread only\n1\n")
}

func testMountTmpfsMode(f *fixture) {
	must(f.T, os.Mkdir(f.path("mine"), 0o700))
	p := f.process("stat -c '%a' /mine")
	p.Mounts = []executor.Mount{{Tmpfs: true, Dest: "/mine"}}
	f.want("mode", f.output(p), "700\n")
}

func testMountLinks(f *fixture) {
	src := f.TempDir()
	must(f.T, os.WriteFile(filepath.Join(src, "file"), []byte("hi\n"), 0o644))
	must(f.T, os.MkdirAll(f.path("real"), 0o755))
	must(f.T, os.Symlink("/real", f.path("abs")))
	must(f.T, os.Symlink("../../../../../real", f.path("up")))
	p := f.process("cat /real/a/file /real/b/file")
	p.Mounts = []executor.Mount{{Source: src, Dest: "/abs/a"}, {Source: src, Dest: "/up/b"}}
	f.want("output", f.output(p), "hi\nhi\n")
	for _, name := range []string{"/real", f.path("real/a"), f.path("real/b")} {
		if _, err := os.Lstat(name); err == nil {
			f.Errorf("%s exists", name)
		}
	}
}

func testMountReplaces(f *fixture) {
	file := filepath.Join(f.TempDir(), "hosts")
	must(f.T, os.WriteFile(file, []byte("mine\n"), 0o644))
	p := f.process("cat /etc/hosts; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; touch /dev/null && echo ok")
	p.Mounts = []executor.Mount{{Source: file, Dest: "/etc/hosts"}, {Tmpfs: true, Dest: "/dev/shm", Size: 1 << 20}}
	f.want("output", f.output(p), "mine\n1024\nok\n")
}

// tree lists the root but for busybox.
func (f *fixture) tree() string {
	var names []string
	must(f.T, filepath.WalkDir(f.root, func(path string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() && d.Name() == "bin" {
			return filepath.SkipDir
		}
		if name := strings.TrimPrefix(path, f.root); name != "" {
			names = append(names, name)
		}
		return err
	}))
	return strings.Join(names, " ")
}

func (f *fixture) stubMounts() []executor.Mount {
	dir := f.TempDir()
	file := filepath.Join(dir, "file")
	must(f.T, os.WriteFile(file, []byte("x"), 0o644))
	return []executor.Mount{
		{Source: dir, Dest: "/new"},
		{Source: file, Dest: "/some/where/file"},
		{Source: dir, Dest: "/tmp"},
		{Tmpfs: true, Dest: "/home/ann/cache"},
	}
}

func testStubs(f *fixture) {
	p := f.process("stat -c %y /etc /home/ann")
	p.Mounts = f.stubMounts()
	inside := f.output(p)
	f.want("tree", f.tree(), "/dev /etc /etc/group /etc/passwd /home /home/ann /proc /some /some/where /sys /tmp")
	p = f.process("stat -c %y /etc /home/ann")
	must(f.T, os.WriteFile(f.path("etc/hosts"), nil, 0o644))
	must(f.T, os.WriteFile(f.path("etc/resolv.conf"), nil, 0o644))
	// Making the files has changed /etc; removing the stub did not change the other.
	_, want, _ := strings.Cut(inside, "\n")
	_, got, _ := strings.Cut(f.output(p), "\n")
	f.want("time of a stub's parent", got, want)
	if _, err := os.Stat(f.path("etc/hosts")); err != nil {
		f.Errorf("an empty file of the root is gone: %v", err)
	}
}

func testStubsRecursive(f *fixture) {
	p := f.process("true")
	p.Mounts = f.stubMounts()
	p.RemoveMountStubsRecursive = true
	f.output(p)
	f.want("tree", f.tree(), "/dev /etc /etc/group /etc/passwd /home /home/ann /proc /sys /tmp")
}

func testStubsKeep(f *fixture) {
	dir := f.TempDir()
	p := f.process("touch /some/other; touch /new/file")
	p.Mounts = []executor.Mount{{Source: dir, Dest: "/some/where"}, {Source: dir, Dest: "/new"}}
	p.RemoveMountStubsRecursive = true
	f.output(p)
	f.want("tree", f.tree(), "/dev /etc /etc/group /etc/passwd /home /home/ann /proc /some /some/other /sys /tmp")
	if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
		f.Error(err)
	}
}

func testReadOnlyRoot(f *fixture) {
	src := f.TempDir()
	for _, dir := range []string{"dev", "proc", "sys", "m"} {
		must(f.T, os.MkdirAll(f.path(dir), 0o755))
	}
	for _, file := range []string{"etc/hosts", "etc/resolv.conf"} {
		must(f.T, os.WriteFile(f.path(file), nil, 0o644))
	}
	p := f.process("touch /x 2>/dev/null || echo read only; touch /m/x; echo > /dev/null; touch /dev/shm/x")
	p.ReadOnly = true
	p.Mounts = []executor.Mount{{Source: src, Dest: "/m"}}
	f.want("output", f.output(p), "read only\n")
	if _, err := os.Stat(filepath.Join(src, "x")); err != nil {
		f.Error(err)
	}
}
