//go:build linux && cgo && seccomp

package runc

import (
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/mayfly-build/mayfly/engine/executor"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A call is what a filter sees of a syscall.
type call struct {
	arch   uint32
	number uint32
	args   [6]uint64
}

// judge runs the filter. The simulator reads big-endian words.
func judge(t *testing.T, vm *bpf.VM, c call) uint32 {
	t.Helper()
	data := binary.BigEndian.AppendUint32(nil, c.number)
	data = binary.BigEndian.AppendUint32(data, c.arch)
	data = binary.BigEndian.AppendUint64(data, 0)
	for _, a := range c.args {
		low, high := uint32(a), uint32(a>>32)
		if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
			low, high = high, low
		}
		data = binary.BigEndian.AppendUint32(data, low)
		data = binary.BigEndian.AppendUint32(data, high)
	}
	n, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	// The simulator returns how many of the packet's bytes to keep.
	return uint32(n)
}

func TestDefaultFilter(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the syscall numbers are those of amd64")
	}
	profile, err := executor.DefaultFilter()
	if err != nil {
		t.Fatal(err)
	}
	insns, err := compile(profile)
	if err != nil {
		t.Fatal(err)
	}
	var raw []bpf.RawInstruction
	for _, i := range insns {
		raw = append(raw, bpf.RawInstruction{Op: i.Code, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the filter is no program")
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	const (
		allow = unix.SECCOMP_RET_ALLOW
		eperm = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		nosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		kill  = unix.SECCOMP_RET_KILL_THREAD
	)
	for _, c := range []struct {
		name string
		call call
		want uint32
	}{
		{"read", call{unix.AUDIT_ARCH_X86_64, 0, [6]uint64{}}, allow},
		{"execve", call{unix.AUDIT_ARCH_X86_64, 59, [6]uint64{}}, allow},
		{"chroot: its capability is there", call{unix.AUDIT_ARCH_X86_64, 161, [6]uint64{}}, allow},
		{"mount", call{unix.AUDIT_ARCH_X86_64, 165, [6]uint64{}}, eperm},
		{"unshare", call{unix.AUDIT_ARCH_X86_64, 272, [6]uint64{unix.CLONE_NEWUSER}}, eperm},
		{"clone of a process", call{unix.AUDIT_ARCH_X86_64, 56, [6]uint64{unix.CLONE_VM}}, allow},
		{"clone of a user namespace", call{unix.AUDIT_ARCH_X86_64, 56, [6]uint64{unix.CLONE_NEWUSER}}, eperm},
		{"clone3: C libraries fall back to clone", call{unix.AUDIT_ARCH_X86_64, 435, [6]uint64{}}, nosys},
		{"bpf", call{unix.AUDIT_ARCH_X86_64, 321, [6]uint64{}}, eperm},
		{"newer than the profile", call{unix.AUDIT_ARCH_X86_64, 5000, [6]uint64{}}, nosys},
		{"personality of Linux", call{unix.AUDIT_ARCH_X86_64, 135, [6]uint64{0}}, allow},
		{"personality of another system", call{unix.AUDIT_ARCH_X86_64, 135, [6]uint64{4}}, eperm},
		{"socket", call{unix.AUDIT_ARCH_X86_64, 41, [6]uint64{unix.AF_INET}}, allow},
		{"socket of a virtual machine", call{unix.AUDIT_ARCH_X86_64, 41, [6]uint64{unix.AF_VSOCK}}, eperm},
		{"x32 read", call{unix.AUDIT_ARCH_X86_64, x32Bit, [6]uint64{}}, allow},
		{"x32 mount", call{unix.AUDIT_ARCH_X86_64, x32Bit | 165, [6]uint64{}}, eperm},
		{"x32 newer than the profile", call{unix.AUDIT_ARCH_X86_64, x32Bit | 5000, [6]uint64{}}, nosys},
		{"i386 read", call{unix.AUDIT_ARCH_I386, 3, [6]uint64{}}, allow},
		{"i386 mount", call{unix.AUDIT_ARCH_I386, 21, [6]uint64{}}, eperm},
		{"i386 newer than the profile", call{unix.AUDIT_ARCH_I386, 5000, [6]uint64{}}, nosys},
		{"another architecture", call{unix.AUDIT_ARCH_AARCH64, 0, [6]uint64{}}, kill},
	} {
		if got := judge(t, vm, c.call); got != c.want {
			t.Errorf("%s: got %#x, want %#x", c.name, got, c.want)
		}
	}
}

func TestUnknownStub(t *testing.T) {
	stub := unknownStub([]archLimit{{audit: 1, max: 10}, {audit: 2, max: 20, x32: x32Bit | 30}, {audit: 3, max: 5}})
	var raw []bpf.RawInstruction
	for _, i := range append(stub, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 7}) {
		raw = append(raw, bpf.RawInstruction{Op: i.Code, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the stub is no program")
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	const on, nosys = 7, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	for _, c := range []struct{ arch, number, want uint32 }{
		{1, 10, on}, {1, 11, nosys}, {1, 0, on},
		{2, 20, on}, {2, 21, nosys}, {2, x32Bit | 30, on}, {2, x32Bit | 31, nosys}, {2, x32Bit, on},
		{3, 5, on}, {3, 6, nosys},
		{4, 1000, on},
	} {
		if got := judge(t, vm, call{arch: c.arch, number: c.number}); got != c.want {
			t.Errorf("architecture %d, syscall %#x: got %#x, want %#x", c.arch, c.number, got, c.want)
		}
	}
}
