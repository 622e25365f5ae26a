//go:build linux && cgo && seccomp

package runc

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/runc/libcontainer/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// filtering says that libseccomp is linked in.
const filtering = true

// compile makes a filter program of a profile: what runc loads for it.
// Syscalls that libseccomp does not know are left out.
func compile(profile *specs.LinuxSeccomp) ([]unix.SockFilter, error) {
	fallback, err := action(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	filter, err := libseccomp.NewFilter(fallback)
	if err != nil {
		return nil, err
	}
	defer filter.Release()
	archs, err := architectures(profile)
	if err != nil {
		return nil, err
	}
	for _, a := range archs {
		if err := filter.AddArch(a); err != nil {
			return nil, fmt.Errorf("architecture %v: %w", a, err)
		}
	}
	// A binary tree instead of a list; older libraries have only the list.
	_ = filter.SetOptimize(2)
	for _, s := range profile.Syscalls {
		if err := addRules(filter, fallback, s); err != nil {
			return nil, err
		}
	}
	program, err := export(filter)
	if err != nil {
		return nil, err
	}
	insns := append(unknownStub(limits(profile, archs)), program...)
	if len(insns) > unix.BPF_MAXINSNS {
		return nil, fmt.Errorf("%d instructions are more than the kernel takes", len(insns))
	}
	return insns, nil
}

// export goes through a file: to export to memory is new in libseccomp 2.6.
func export(filter *libseccomp.ScmpFilter) ([]unix.SockFilter, error) {
	fd, err := unix.MemfdCreate("mayfly-export", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "export")
	defer f.Close()
	if err := filter.ExportBPF(f); err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	insns := make([]unix.SockFilter, size/unix.SizeofSockFilter)
	return insns, binary.Read(io.NewSectionReader(f, 0, size), binary.NativeEndian, insns)
}

// architectures are those of a profile, the native one always among them.
func architectures(profile *specs.LinuxSeccomp) ([]libseccomp.ScmpArch, error) {
	native, err := libseccomp.GetNativeArch()
	if err != nil {
		return nil, err
	}
	archs := []libseccomp.ScmpArch{native}
	for _, name := range profile.Architectures {
		short, err := seccomp.ConvertStringToArch(string(name))
		if err != nil {
			return nil, fmt.Errorf("architecture %s: %w", name, err)
		}
		a, err := libseccomp.GetArchFromString(short)
		if err != nil {
			return nil, fmt.Errorf("architecture %s: %w", name, err)
		}
		if a != native {
			archs = append(archs, a)
		}
	}
	return archs, nil
}

func addRules(filter *libseccomp.ScmpFilter, fallback libseccomp.ScmpAction, s specs.LinuxSyscall) error {
	act, err := action(s.Action, s.ErrnoRet)
	if err != nil {
		return err
	}
	if act == fallback {
		return nil // libseccomp refuses what changes nothing
	}
	var all []libseccomp.ScmpCondition
	for _, a := range s.Args {
		op, err := operator(a.Op)
		if err != nil {
			return err
		}
		c, err := libseccomp.MakeCondition(a.Index, op, a.Value, a.ValueTwo)
		if err != nil {
			return err
		}
		all = append(all, c)
	}
	// A rule can test an argument once; several tests of one are alternatives.
	rules := [][]libseccomp.ScmpCondition{all}
	if testsTwice(s.Args) {
		rules = nil
		for _, c := range all {
			rules = append(rules, []libseccomp.ScmpCondition{c})
		}
	}
	for _, name := range s.Names {
		number, err := libseccomp.GetSyscallFromName(name)
		if err != nil {
			continue
		}
		for _, conditions := range rules {
			if len(conditions) == 0 {
				err = filter.AddRule(number, act)
			} else {
				err = filter.AddRuleConditional(number, act, conditions)
			}
			if err != nil {
				return fmt.Errorf("syscall %s: %w", name, err)
			}
		}
	}
	return nil
}

func testsTwice(args []specs.LinuxSeccompArg) bool {
	seen := map[uint]bool{}
	for _, a := range args {
		if seen[a.Index] {
			return true
		}
		seen[a.Index] = true
	}
	return false
}

func action(a specs.LinuxSeccompAction, errno *uint) (libseccomp.ScmpAction, error) {
	code := int16(unix.EPERM)
	if errno != nil {
		code = int16(*errno)
	}
	switch a {
	case specs.ActAllow:
		return libseccomp.ActAllow, nil
	case specs.ActErrno:
		return libseccomp.ActErrno.SetReturnCode(code), nil
	case specs.ActKill, specs.ActKillThread:
		return libseccomp.ActKillThread, nil
	case specs.ActKillProcess:
		return libseccomp.ActKillProcess, nil
	case specs.ActTrap:
		return libseccomp.ActTrap, nil
	case specs.ActLog:
		return libseccomp.ActLog, nil
	case specs.ActTrace:
		return libseccomp.ActTrace.SetReturnCode(code), nil
	}
	return libseccomp.ActInvalid, fmt.Errorf("action %s is not supported", a)
}

func operator(op specs.LinuxSeccompOperator) (libseccomp.ScmpCompareOp, error) {
	switch op {
	case specs.OpNotEqual:
		return libseccomp.CompareNotEqual, nil
	case specs.OpLessThan:
		return libseccomp.CompareLess, nil
	case specs.OpLessEqual:
		return libseccomp.CompareLessOrEqual, nil
	case specs.OpEqualTo:
		return libseccomp.CompareEqual, nil
	case specs.OpGreaterEqual:
		return libseccomp.CompareGreaterEqual, nil
	case specs.OpGreaterThan:
		return libseccomp.CompareGreater, nil
	case specs.OpMaskedEqual:
		return libseccomp.CompareMaskedEqual, nil
	}
	return libseccomp.CompareInvalid, fmt.Errorf("operator %s is not supported", op)
}

// limits are the largest known syscall numbers of each architecture.
func limits(profile *specs.LinuxSeccomp, archs []libseccomp.ScmpArch) []archLimit {
	var limits []archLimit
	for _, arch := range archs {
		audit, ok := auditArch(arch)
		largest := largestSyscall(profile, arch)
		switch {
		case !ok || largest == 0 || arch == libseccomp.ArchX32:
			continue
		case arch == libseccomp.ArchAMD64 && hasX32(archs):
			limits = append(limits, archLimit{audit: audit, max: largest, x32: largestSyscall(profile, libseccomp.ArchX32)})
		default:
			limits = append(limits, archLimit{audit: audit, max: largest})
		}
	}
	return limits
}

func hasX32(archs []libseccomp.ScmpArch) bool {
	for _, a := range archs {
		if a == libseccomp.ArchX32 {
			return true
		}
	}
	return false
}

func largestSyscall(profile *specs.LinuxSeccomp, arch libseccomp.ScmpArch) uint32 {
	var largest libseccomp.ScmpSyscall
	for _, s := range profile.Syscalls {
		for _, name := range s.Names {
			if n, err := libseccomp.GetSyscallFromNameByArch(name, arch); err == nil && n > largest {
				largest = n
			}
		}
	}
	return uint32(largest)
}

func auditArch(arch libseccomp.ScmpArch) (uint32, bool) {
	switch arch {
	case libseccomp.ArchAMD64:
		return unix.AUDIT_ARCH_X86_64, true
	case libseccomp.ArchX86:
		return unix.AUDIT_ARCH_I386, true
	case libseccomp.ArchARM64:
		return unix.AUDIT_ARCH_AARCH64, true
	case libseccomp.ArchARM:
		return unix.AUDIT_ARCH_ARM, true
	case libseccomp.ArchPPC64LE:
		return unix.AUDIT_ARCH_PPC64LE, true
	case libseccomp.ArchS390X:
		return unix.AUDIT_ARCH_S390X, true
	case libseccomp.ArchS390:
		return unix.AUDIT_ARCH_S390, true
	case libseccomp.ArchRISCV64:
		return unix.AUDIT_ARCH_RISCV64, true
	}
	return 0, false
}
