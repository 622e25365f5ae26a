package op

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	osexec "os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/internal/hint"
)

// checkRunnable says, before anything is mounted, why the program of a step
// for another platform cannot run here. What it cannot judge, it lets run.
func (e *exec) checkRunnable(ctx context.Context, inputs []*layer.State) error {
	p := e.v.Platform()
	if p.Architecture == runtime.GOARCH || len(e.op.Meta.GetArgs()) == 0 {
		return nil
	}
	i := slices.IndexFunc(e.op.Mounts, func(m *pb.Mount) bool { return m.Dest == pb.RootMount })
	if i < 0 || e.op.Mounts[i].Input < 0 {
		return nil
	}
	root, err := inputs[e.op.Mounts[i].Input].View(ctx)
	if err != nil || root == nil {
		return err
	}
	prog := programOf(root, e.op.Meta)
	if prog == nil || slices.Contains(nativeMachines(), prog.machine) {
		return nil // a tool for this machine in an image for another is fine
	}
	why, err := e.w.probe(ctx, prog)
	if err != nil || why == "" {
		return err
	}
	platform := platforms.Format(p)
	return hint.With(fmt.Errorf("%s is a program for %s, and %s", prog.path, platform, why),
		fmt.Sprintf("register one: `docker run --privileged --rm tonistiigi/binfmt --install %s`, or `apt-get install qemu-user-static binfmt-support`; "+
			"or build each platform on a runner of its own and join the images with `mayfly merge`", p.Architecture))
}

// A program is what the kernel is to execute.
type program struct {
	path    string
	head    [elfHead]byte // of the file
	machine elf.Machine
}

const (
	elfHead   = 20 // bytes up to the machine, the same in 32 and 64 bits
	scriptMax = 4  // interpreters of interpreters that the kernel follows
)

func nativeMachines() []elf.Machine {
	switch runtime.GOARCH {
	case "amd64":
		return []elf.Machine{elf.EM_X86_64, elf.EM_386}
	case "arm64":
		return []elf.Machine{elf.EM_AARCH64, elf.EM_ARM}
	}
	return nil
}

// programOf finds what a step executes, past scripts to their interpreter; nil
// when it is not in the root or not known.
func programOf(root *fsdiff.View, meta *pb.Meta) *program {
	name := lookPath(root, meta)
	for range scriptMax {
		head := make([]byte, 256)
		n, err := readHead(root, name, head)
		if err != nil {
			return nil
		}
		head = head[:n]
		if line, ok := bytes.CutPrefix(head, []byte("#!")); ok {
			line, _, _ = bytes.Cut(line, []byte("\n"))
			fields := strings.Fields(string(line))
			if len(fields) == 0 {
				return nil
			}
			name = fields[0]
			continue
		}
		if len(head) < elfHead || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
			return nil
		}
		p := &program{path: name}
		copy(p.head[:], head)
		var order binary.ByteOrder = binary.LittleEndian
		if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
			order = binary.BigEndian
		}
		p.machine = elf.Machine(order.Uint16(head[elfHead-2:]))
		return p
	}
	return nil
}

// lookPath returns the path of the step's program in its root.
func lookPath(root *fsdiff.View, meta *pb.Meta) string {
	name := meta.Args[0]
	if strings.Contains(name, "/") {
		return path.Join("/", meta.Cwd, name)
	}
	dirs := defaultPath
	for _, kv := range meta.Env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			dirs = v
		}
	}
	for _, d := range strings.Split(dirs, ":") {
		p := path.Join("/", d, name)
		if e, err := root.Stat(p[1:]); err == nil && e.Mode.IsRegular() && e.Mode&0o111 != 0 {
			return p
		}
	}
	return ""
}

func readHead(root *fsdiff.View, name string, head []byte) (int, error) {
	e, err := root.Stat(strings.TrimPrefix(path.Clean("/"+name), "/"))
	if err != nil {
		return 0, err
	}
	if !e.Mode.IsRegular() || e.Content == nil {
		return 0, fs.ErrInvalid
	}
	r, err := e.Content.Open()
	if err != nil {
		return 0, err
	}
	n, err := io.ReadFull(r, head)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	// Only a first part was read: whether the file changed meanwhile is seen
	// when it is executed.
	_ = r.Close()
	return n, err
}

// probe executes the head of a program, and nothing of it, in an empty root:
// that the kernel takes it says that there is an emulator. "" is that, or not
// known. The kernel's list of emulators in /proc is not asked: in a container
// it is often not mounted.
func (w *World) probe(ctx context.Context, p *program) (why string, err error) {
	dir, err := w.Tmp()
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	file := make([]byte, 64) // an ELF header of 64 bits, without segments
	copy(file, p.head[:])
	if err := os.WriteFile(filepath.Join(dir, "probe"), file, 0o755); err != nil {
		return "", err
	}
	cmd := osexec.CommandContext(ctx, "/probe")
	cmd.Dir = "/"
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir}
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Sprintf("this machine (%s) has no emulator for it", runtime.GOARCH), nil
	case errors.Is(err, syscall.ENOENT):
		return fmt.Sprintf("the emulator that this machine (%s) has for it is not seen from inside a step: it is registered without the flag F", runtime.GOARCH), nil
	}
	return "", nil // started, whatever it came to then
}
