package op

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/cachekey"
	"github.com/mayfly-build/mayfly/engine/executor"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/progress"
	"github.com/mayfly-build/mayfly/engine/secret"
	"github.com/mayfly-build/mayfly/engine/solver"
	"github.com/mayfly-build/mayfly/internal/hint"
)

// An exec runs a process over mounted states.
type exec struct {
	w  *World
	v  *llb.Vertex
	op *pb.ExecOp
}

func (w *World) exec(v *llb.Vertex, op *pb.ExecOp) (solver.Op[*layer.State], error) {
	if op.Network == pb.NetMode_HOST && !w.Allow.HostNetwork {
		return nil, hint.With(errors.New("the step asks for the host network"), "allow it with --allow network.host")
	}
	if op.Security == pb.SecurityMode_INSECURE && !w.Allow.Insecure {
		return nil, hint.With(errors.New("the step asks to run without a sandbox"), "allow it with --allow security.insecure")
	}
	for _, d := range op.CdiDevices {
		if !d.Optional {
			return nil, fmt.Errorf("device %s: CDI devices are not supported", d.Name)
		}
	}
	return &exec{w: w, v: v, op: op}, nil
}

func (e *exec) Map(context.Context) (cachekey.Map, error) {
	return cachekey.Exec(e.op, e.v.Platform(), len(e.v.Inputs))
}

func (e *exec) Content(ctx context.Context, i int, in *layer.State) (digest.Digest, error) {
	m, err := e.Map(ctx)
	if err != nil {
		return "", err
	}
	return e.w.content(ctx, m.Inputs[i], in)
}

func (e *exec) Run(ctx context.Context, inputs []*layer.State) (_ []*layer.State, retErr error) {
	if err := e.checkRunnable(ctx, inputs); err != nil {
		return nil, err
	}
	m := &mounts{w: e.w, v: e.v, op: e.op, inputs: inputs}
	defer func() { retErr = errors.Join(retErr, m.close()) }()
	if err := m.prepare(ctx); err != nil {
		return nil, err
	}
	p, err := e.process(ctx, m)
	if err != nil {
		return nil, err
	}
	// What the step was given in confidence does not show when it prints it.
	stdout, stderr := secret.Mask(p.Stdout, m.values...), secret.Mask(p.Stderr, m.values...)
	p.Stdout, p.Stderr = stdout, stderr
	err = e.w.Executor.Run(ctx, p)
	if err := errors.Join(stdout.Close(), stderr.Close()); err != nil {
		return nil, err
	}
	if err != nil {
		var exit *executor.ExitError
		if !errors.As(err, &exit) || !slices.Contains(e.op.Meta.ValidExitCodes, int32(exit.Status)) {
			return nil, fmt.Errorf("process %q did not complete successfully: %w", strings.Join(e.op.Meta.Args, " "), err)
		}
	}
	return m.commit(ctx)
}

func (e *exec) process(ctx context.Context, m *mounts) (executor.Process, error) {
	meta := e.op.Meta
	vtx := progress.From(ctx)
	p := executor.Process{
		ID:   "mayfly-" + randomID(),
		Root: m.root, ReadOnly: m.rootReadOnly, Mounts: m.list,
		Args: meta.Args, Cwd: meta.Cwd, User: meta.User, Hostname: meta.Hostname,
		Network: e.op.Network, Security: e.op.Security, Ulimits: meta.Ulimit,
		CgroupParent:              meta.CgroupParent,
		RemoveMountStubsRecursive: meta.RemoveMountStubsRecursive,
		Stdout:                    vtx.Log(1), Stderr: vtx.Log(2),
	}
	if p.CgroupParent == "" {
		p.CgroupParent = e.w.CgroupParent
	}
	for _, h := range meta.ExtraHosts {
		ip := net.ParseIP(h.IP)
		if ip == nil {
			return p, fmt.Errorf("extra host %s: %q is not an IP address", h.Host, h.IP)
		}
		p.ExtraHosts = append(p.ExtraHosts, executor.Host{Name: h.Host, IP: ip})
	}
	p.Env = append(slices.Clone(meta.Env), proxyEnv(meta.ProxyEnv)...)
	if !slices.ContainsFunc(p.Env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }) {
		p.Env = append(p.Env, "PATH="+defaultPath)
	}
	for _, s := range e.op.Secretenv {
		dt, err := e.w.Secrets.Get(ctx, s.ID)
		if errors.Is(err, secret.ErrNotFound) && s.Optional {
			continue
		}
		if err != nil {
			return p, secretHint(err, s.ID)
		}
		p.Env = append(p.Env, s.Name+"="+string(dt))
		m.values = append(m.values, dt)
	}
	if e.w.StepEnv != nil {
		p.Env = append(p.Env, e.w.StepEnv(e.v.Digest)...)
	}
	return p, nil
}

// defaultPath is the PATH of a step whose image says none, as BuildKit has it.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func secretHint(err error, id string) error {
	if !errors.Is(err, secret.ErrNotFound) {
		return err
	}
	return hint.With(err, "give it with --secret id="+id+",src=FILE or --secret id="+id+",env=VARIABLE")
}

func proxyEnv(p *pb.ProxyEnv) (out []string) {
	if p == nil {
		return nil
	}
	for _, kv := range [][2]string{
		{"HTTP_PROXY", p.HttpProxy}, {"HTTPS_PROXY", p.HttpsProxy}, {"FTP_PROXY", p.FtpProxy},
		{"NO_PROXY", p.NoProxy}, {"ALL_PROXY", p.AllProxy},
	} {
		if kv[1] != "" {
			out = append(out, kv[0]+"="+kv[1], strings.ToLower(kv[0])+"="+kv[1])
		}
	}
	return out
}

func randomID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func tmpDir(w *World, m *mounts) (string, error) {
	dir, err := w.Tmp()
	if err != nil {
		return "", err
	}
	m.onClose(func() error { return os.RemoveAll(dir) })
	return dir, nil
}
