package executortest

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mayfly-build/mayfly/engine/executor"
	"github.com/moby/buildkit/solver/pb"
)

func testMasks(f *fixture) {
	const script = `
		if cat /proc/kcore > /dev/null 2>&1 && test -s /proc/kcore; then echo kcore; fi
		test -s /proc/timer_list && echo timer_list
		(echo x > /proc/sys/kernel/domainname) 2>/dev/null && echo proc sys
		(echo 1 > /proc/sysrq-trigger) 2>/dev/null && echo sysrq
		dir=/sys/fs/cgroup; test -d $dir/memory && dir=$dir/memory
		mkdir $dir/x 2>/dev/null && echo cgroup
		(echo 1 > /sys/kernel/mm/ksm/run) 2>/dev/null && echo sysfs
		grep -q ' /sys .*ro,' /proc/mounts && echo sys is ro
		grep -q ' /proc proc rw,' /proc/mounts && echo proc is rw
		true`
	f.want("sandbox", f.script(script), "sys is ro\nproc is rw\n")
	p := f.process("grep ' /sys ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1; grep -c ' /proc/[a-z]' /proc/mounts; true")
	p.Security = pb.SecurityMode_INSECURE
	f.want("insecure", f.output(p), "rw\n0\n")
}

// status is a line of /proc/self/status without its name.
func (f *fixture) status(p executor.Process, name string) string {
	f.Helper()
	p.Args = []string{"/bin/grep", "^" + name + ":", "/proc/self/status"}
	_, value, _ := strings.Cut(f.output(p), ":")
	return strings.TrimSpace(value)
}

func testCapabilities(f *fixture) {
	const sandbox, none = "00000000a80425fb", "0000000000000000"
	p := f.process("")
	for name, want := range map[string]string{"CapInh": none, "CapPrm": sandbox, "CapEff": sandbox, "CapBnd": sandbox, "CapAmb": none, "NoNewPrivs": "0"} {
		p.ID += "x"
		f.want(name, f.status(p, name), want)
	}
	p.User = "ann"
	for name, want := range map[string]string{"CapPrm": none, "CapEff": none, "CapBnd": sandbox, "Groups": "10 20 1000"} {
		p.ID += "x"
		f.want(name+" of ann", f.status(p, name), want)
	}
	status, err := os.ReadFile("/proc/self/status")
	must(f.T, err)
	_, own, _ := strings.Cut(string(status), "CapEff:")
	own, _, _ = strings.Cut(strings.TrimSpace(own), "\n")
	p.Security = pb.SecurityMode_INSECURE
	for _, name := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		p.ID += "x"
		f.want(name+" of ann, insecure", f.status(p, name), own)
	}
}

func testFilter(f *fixture) {
	p := f.process("")
	if f.status(p, "Seccomp") == "0" {
		f.Skip("built without libseccomp")
	}
	p = f.process("unshare -m true 2>/dev/null || echo no unshare; mount -t tmpfs none /tmp 2>/dev/null || echo no mount; unshare -U true 2>/dev/null || echo no userns; chroot / true && echo chroot")
	f.want("sandbox", f.output(p), "no unshare\nno mount\nno userns\nchroot\n")
	p = f.process("unshare -m true && mount -t tmpfs none /tmp && echo all")
	p.Security = pb.SecurityMode_INSECURE
	f.want("insecure", f.output(p), "all\n")
	p = f.process("")
	p.Security = pb.SecurityMode_INSECURE
	f.want("Seccomp of insecure", f.status(p, "Seccomp"), "0")
}

func testDevices(f *fixture) {
	p := f.process(`cd /dev; stat -c '%n %F %a' null zero full tty random urandom
		for l in ptmx fd stdin; do readlink $l; done; ls pts/ptmx
		head -c 3 zero | wc -c; echo x > null; head -c 1 urandom | wc -c
		df -k shm | tail -1 | tr -s ' ' | cut -d' ' -f2; stat -c %a shm
		grep -c ' /dev/mqueue mqueue ' /proc/mounts`)
	const nodes = "null character special file 666\nzero character special file 666\nfull character special file 666\n" +
		"tty character special file 666\nrandom character special file 666\nurandom character special file 666\n" +
		"pts/ptmx\n/proc/self/fd\n/proc/self/fd/0\npts/ptmx\n3\n1\n"
	f.want("devices", f.output(p), nodes+"65536\n1777\n1\n")
	p.ID += "x"
	p.ShmSize = 1 << 20
	f.want("devices with little shared memory", f.output(p), nodes+"1024\n1777\n1\n")

	p = f.process("test -c /dev/kmsg && test -b /dev/loop0 && echo yes")
	p.Security = pb.SecurityMode_INSECURE
	f.want("insecure", f.output(p), "yes\n")
}

// testDeviceRules makes nodes, which is allowed, of devices the host has, which
// cannot be opened.
func testDeviceRules(f *fixture) {
	const script = `mknod /tmp/disk b 8 0; mknod /tmp/loop b 7 0; mknod /tmp/port c 1 4; mknod /tmp/kmsg c 1 11; mknod /tmp/null c 1 3
		for d in disk loop port kmsg; do dd if=/tmp/$d of=/dev/null bs=1 count=1 2>&1 | grep -q 'not permitted' && echo no $d; done
		echo > /tmp/null && echo null`
	f.want("sandbox", f.script(script), "no disk\nno loop\nno port\nno kmsg\nnull\n")
	p := f.process("dd if=/dev/kmsg of=/dev/null bs=8192 count=1 2>/dev/null && echo kmsg")
	p.Security = pb.SecurityMode_INSECURE
	f.want("insecure", f.output(p), "kmsg\n")
}

func testNamespaces(f *fixture) {
	p := f.process("echo $$; ls /proc | grep -c '^[0-9]'; for n in mnt pid ipc uts net user; do readlink /proc/self/ns/$n; done")
	lines := strings.Split(f.output(p), "\n")
	if lines[0] != "1" {
		f.Errorf("PID is %s, want 1", lines[0])
	}
	for i, name := range []string{"mnt", "pid", "ipc", "uts", "net", "user"} {
		own, err := os.Readlink("/proc/self/ns/" + name)
		must(f.T, err)
		if shared := lines[2+i] == own; shared != slices.Contains([]string{"net", "user"}, name) {
			f.Errorf("namespace %s shared with the host: %v", name, shared)
		}
	}
}

func testHosts(f *fixture) {
	p := f.process("hostname; cat /etc/hosts; test -s /etc/resolv.conf && echo resolv; (echo x >> /etc/hosts) 2>/dev/null || echo read only; stat -c '%a %u' /etc/hosts /etc/resolv.conf")
	const end = "resolv\nread only\n644 0\n644 0\n"
	f.want("defaults", f.output(p), "buildkitsandbox\n127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n"+end)
	p.ID += "x"
	p.Hostname = "box"
	p.ExtraHosts = []executor.Host{{Name: "db", IP: net.ParseIP("10.1.2.3")}, {Name: "db6", IP: net.ParseIP("fd00::1")}}
	f.want("given", f.output(p), "box\n127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.1.2.3\tdb\nfd00::1\tdb6\n"+end)
	p = f.process("touch /etc/hosts 2>/dev/null; cat /etc/hosts | wc -l")
	p.User = "ann"
	f.want("as ann", strings.TrimSpace(f.output(p)), "2")
}

func testNetworkNone(f *fixture) {
	p := f.process("ls /sys/class/net; cat /sys/class/net/lo/flags; grep -c 127 /etc/resolv.conf; cut -d' ' -f1 /etc/resolv.conf | grep -q nameserver && echo nameserver")
	p.Network = pb.NetMode_NONE
	f.want("output", f.output(p), "lo\n0x9\n0\nnameserver\n") // 0x9: up, loopback
}

func testNetworkHost(f *fixture) {
	links, err := filepath.Glob("/sys/class/net/*")
	must(f.T, err)
	var want string
	for _, l := range links {
		want += filepath.Base(l) + "\n"
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(f.T, err)
	defer listener.Close()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hello\n"))
			_ = c.Close()
		}
	}()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	must(f.T, err)
	for _, mode := range []pb.NetMode{pb.NetMode_HOST, pb.NetMode_UNSET} {
		p := f.process("ls /sys/class/net; nc localhost " + port)
		p.Network = mode
		f.want(mode.String(), f.output(p), want+"hello\n")
	}
}
