package runc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/engine/executor"
)

// filterProgram compiles the default seccomp profile, once for all containers,
// into a file that no one can change. It is nil, without error, when libseccomp
// is not linked in or the kernel has no filters.
func filterProgram() (*os.File, error) {
	if !filtering || unix.Prctl(unix.PR_GET_SECCOMP, 0, 0, 0, 0) == unix.EINVAL {
		return nil, nil
	}
	profile, err := executor.DefaultFilter()
	if err != nil {
		return nil, err
	}
	insns, err := compile(profile)
	if err != nil {
		return nil, fmt.Errorf("compile the default seccomp profile: %w", err)
	}
	var b bytes.Buffer
	if err := binary.Write(&b, binary.NativeEndian, insns); err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("mayfly-filter", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("keep the syscall filter: %w", err)
	}
	f := os.NewFile(uintptr(fd), "filter")
	if _, err := f.Write(b.Bytes()); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("keep the syscall filter: %w", err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("keep the syscall filter: %w", err)
	}
	return f, nil
}

// An archLimit is the largest syscall number that a profile knows of an
// architecture, as the kernel and the filter see it.
type archLimit struct {
	audit uint32 // AUDIT_ARCH_*
	max   uint32
	x32   uint32 // of x86-64 with the x32 bit; 0 means the profile has no x32
}

// x32Bit marks the syscalls of the x32 ABI on x86-64.
const x32Bit = 1 << 30

// unknownStub comes before a filter, and makes syscalls that are newer than the
// profile fail with ENOSYS instead of EPERM: C libraries then fall back to an
// older one.
func unknownStub(limits []archLimit) []unix.SockFilter {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		jeq  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		jgt  = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
		jset = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		jump = unix.BPF_JMP | unix.BPF_JA

		offNumber, offArch = 0, 4 // in struct seccomp_data
	)
	enosys := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}
	stub := []unix.SockFilter{{Code: load, K: offArch}}
	var toFilter []int // jumps whose target is the instruction after the stub
	for _, l := range limits {
		section := []unix.SockFilter{{Code: load, K: offNumber}}
		if l.x32 == 0 {
			section = append(section, unix.SockFilter{Code: jgt, K: l.max, Jf: 1}, enosys)
		} else {
			section = append(section,
				unix.SockFilter{Code: jset, K: x32Bit, Jt: 2},
				unix.SockFilter{Code: jgt, K: l.max, Jt: 2},
				unix.SockFilter{Code: jump, K: 2},
				unix.SockFilter{Code: jgt, K: l.x32, Jf: 1},
				enosys)
		}
		section = append(section, unix.SockFilter{Code: jump})
		stub = append(stub, unix.SockFilter{Code: jeq, K: l.audit, Jf: uint8(len(section))})
		stub = append(stub, section...)
		toFilter = append(toFilter, len(stub)-1)
	}
	for _, i := range toFilter {
		stub[i].K = uint32(len(stub) - 1 - i)
	}
	return stub
}
