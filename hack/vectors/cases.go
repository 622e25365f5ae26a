package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// A testCase is a definition and what it needs.
type testCase struct {
	name       string
	locals     map[string]fsutil.FS
	definition func(context.Context) (*llb.Definition, error)
}

// A world has what the cases' sources read.
type world struct {
	closers []io.Closer
	sources map[string]string // see vector
	base    llb.State         // busybox
	tree    llb.State         // a few files, made by file operations
	git     string
	http    string
	commit  string
	local   fsutil.FS
}

func newWorld(ctx context.Context, tmp string) (*world, error) {
	w := &world{sources: map[string]string{}}
	return w, errors.Join(w.startRegistry(ctx), w.startGit(ctx, tmp), w.startFiles(tmp))
}

func (w *world) startRegistry(ctx context.Context) error {
	r, err := services.StartRegistry(services.RegistryConfig{})
	if err != nil {
		return err
	}
	w.closers = append(w.closers, r)
	ref := r.Addr + "/base:latest"
	if err := services.Base(ctx, ref); err != nil {
		return err
	}
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return err
	}
	desc, err := remote.Get(parsed, remote.WithContext(ctx))
	if err != nil {
		return err
	}
	w.sources["docker-image://"+ref] = desc.Digest.String()
	w.base = llb.Image(ref)
	w.tree = llb.Scratch().File(llb.Mkdir("/d", 0o755).
		Mkfile("/d/a.txt", 0o644, []byte("a")).
		Mkfile("/d/b.md", 0o600, []byte("b")).
		Mkfile("/top", 0o644, []byte("top")))
	return nil
}

func (w *world) startGit(ctx context.Context, tmp string) error {
	tree := filepath.Join(tmp, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "sub"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tree, "sub", "f"), []byte("f\n"), 0o644); err != nil {
		return err
	}
	var err error
	if w.local, err = fsutil.NewFS(tree); err != nil {
		return err
	}
	if w.commit, err = services.GitRepo(ctx, tree, filepath.Join(tmp, "app.git")); err != nil {
		return err
	}
	g, err := services.StartGitHTTP(ctx, tmp, "")
	if err != nil {
		return err
	}
	w.closers = append(w.closers, g)
	w.git = g.URL + "/app.git"
	return nil
}

func (w *world) startFiles(tmp string) error {
	f := services.StartFiles(filepath.Join(tmp, "tree"))
	w.closers = append(w.closers, f)
	w.http = f.URL + "/sub/f"
	return nil
}

func (w *world) close() error {
	var errs []error
	for _, c := range slices.Backward(w.closers) {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func (w *world) cases() []testCase {
	states := map[string]llb.State{}
	maps.Copy(states, w.execs())
	maps.Copy(states, w.files())
	maps.Copy(states, w.graphs())
	var out []testCase
	for _, n := range slices.Sorted(maps.Keys(states)) {
		out = append(out, testCase{name: n, locals: map[string]fsutil.FS{"context": w.local},
			definition: func(ctx context.Context) (*llb.Definition, error) {
				return states[n].Marshal(ctx, llb.LinuxAmd64)
			}})
	}
	return append(out, testCase{name: "file_outputs", definition: w.outputs})
}

func (w *world) execs() map[string]llb.State {
	touch := llb.Args([]string{"touch", "/made"})
	run := func(opts ...llb.RunOption) llb.State { return w.base.Run(append(opts, touch)...).Root() }
	content := func(c llb.MountContentCache) llb.State {
		return run(llb.AddMount("/m", w.tree, llb.ContentCache(c), llb.Readonly))
	}
	rw := w.base.Run(llb.Args([]string{"touch", "/m/made"}))
	mounted := rw.AddMount("/m", w.tree)
	both := w.base.Run(llb.Args([]string{"cat", "/a/a.txt", "/b/top"}), llb.AddMount("/a", w.tree, llb.SourcePath("/d"), llb.Readonly))
	both.AddMount("/b", w.tree, llb.Readonly)
	part := w.base.Run(llb.Args([]string{"touch", "/m/made"}))
	return map[string]llb.State{
		"exec_plain": run(),
		"exec_twice": run().Run(llb.Args([]string{"rm", "/made"})).Root(),
		"exec_meta": w.base.Run(llb.Args([]string{"true"}), llb.With(llb.User("app"), llb.Dir("/tmp"), llb.AddEnv("B", "2"), llb.AddEnv("A", "1"),
			llb.Hostname("builder"))).Root(),
		"exec_args_html":     w.base.Run(llb.Args([]string{"sh", "-c", "echo '<&>\u2028\xc3\xa9' >/made"})).Root(),
		"exec_exit_codes":    w.base.Run(llb.Args([]string{"false"}), llb.ValidExitCodes(0, 1)).Root(),
		"exec_readonly_root": w.base.Run(llb.ReadonlyRootFS(), llb.Args([]string{"touch", "/m/made"})).AddMount("/m", llb.Scratch()),
		"exec_scratch_mount": run(llb.AddMount("/m", llb.Scratch())),

		"exec_bind":             run(llb.AddMount("/m", w.tree, llb.Readonly)),
		"exec_bind_selector":    run(llb.AddMount("/m", w.tree, llb.SourcePath("/d/"), llb.Readonly)),
		"exec_bind_no_output":   run(llb.AddMount("/m", w.tree, llb.SourcePath("d/a.txt"), llb.ForceNoOutput)),
		"exec_bind_output":      mounted,
		"exec_bind_output_part": part.AddMount("/m", w.tree, llb.SourcePath("/d")),
		"exec_bind_two":         both.Root(),
		"exec_content_on":       content(llb.MountContentCacheOn),
		"exec_content_off":      content(llb.MountContentCacheOff),
		"exec_base_as_mount":    run(llb.AddMount("/m", w.base, llb.SourcePath("/etc"), llb.Readonly)),

		"exec_cache_default":    run(llb.AddMount("/c", llb.Scratch(), llb.AsPersistentCacheDir("/c", llb.CacheMountShared))),
		"exec_cache_namespaced": run(llb.AddMount("/c", llb.Scratch(), llb.AsPersistentCacheDir("ns//c", llb.CacheMountShared))),
		"exec_cache_custom":     run(llb.AddMount("/c", llb.Scratch(), llb.AsPersistentCacheDir("go", llb.CacheMountShared))),
		"exec_cache_private":    run(llb.AddMount("/c", llb.Scratch(), llb.AsPersistentCacheDir("/c", llb.CacheMountPrivate))),
		"exec_cache_locked":     run(llb.AddMount("/c", llb.Scratch(), llb.AsPersistentCacheDir("/c", llb.CacheMountLocked))),
		"exec_cache_from": run(llb.AddMount("/c", w.tree, llb.SourcePath("/d"),
			llb.AsPersistentCacheDir("go", llb.CacheMountShared))),

		"exec_secret":      run(llb.AddSecret("/run/secrets/s", llb.SecretID("s"), llb.SecretOptional)),
		"exec_secret_file": run(llb.AddSecret("/s", llb.SecretID("other"), llb.SecretFileOpt(1000, 100, 0o440), llb.SecretOptional)),
		"exec_secret_env":  run(llb.AddSecret("TOKEN", llb.SecretID("s"), llb.SecretAsEnv(true), llb.SecretOptional)),
		"exec_ssh":         run(llb.AddSSHSocket(llb.SSHOptional)),
		"exec_ssh_target":  run(llb.AddSSHSocket(llb.SSHID("k"), llb.SSHSocketOpt("/ssh", 1, 2, 0o660), llb.SSHOptional)),
		"exec_tmpfs":       run(llb.AddMount("/t", llb.Scratch(), llb.Tmpfs())),
		"exec_tmpfs_size":  run(llb.AddMount("/t", llb.Scratch(), llb.Tmpfs(llb.TmpfsSize(1<<20)))),
		"exec_extra_hosts": run(llb.AddExtraHost("db", net.IPv4(10, 1, 2, 3)), llb.AddExtraHost("api", net.IPv4(10, 1, 2, 4))),
		"exec_proxy":       run(llb.WithProxy(llb.ProxyEnv{HTTPProxy: "http://proxy:3128", NoProxy: "localhost"})),
		"exec_network":     run(llb.Network(pb.NetMode_NONE)),
		"exec_ulimit":      run(llb.AddUlimit(llb.UlimitNofile, 512, 1024)),
		"exec_cgroup":      run(llb.WithCgroupParent("mayfly-vectors")),
	}
}

func (w *world) files() map[string]llb.State {
	named := w.base.File(llb.Mkdir("/app", 0o755, llb.WithUser("app")))
	byID := llb.WithUIDGID(1000, 100)
	chain := llb.Mkdir("/x", 0o750).Mkfile("/x/f", 0o640, []byte("f")).Symlink("f", "/x/l").Rm("/x/f")
	inner := llb.Scratch().File(llb.Mkdir("/in", 0o755).Mkfile("/in/f", 0o644, []byte("f")))
	copyOf := func(info *llb.CopyInfo, src string, more ...llb.CopyOption) llb.State {
		return llb.Scratch().File(llb.Copy(w.tree, src, "/out/", append([]llb.CopyOption{info}, more...)...))
	}
	// What has no inputs is exported only below something that has.
	copied := func(s llb.State) llb.State { return w.base.File(llb.Copy(s, "/", "/")) }
	return map[string]llb.State{
		"file_mkdir":         copied(llb.Scratch().File(llb.Mkdir("/a/b", 0o711, llb.WithParents(true)))),
		"file_mkdir_on_base": w.base.File(llb.Mkdir("/a", 0o755, byID)),
		"file_mkdir_named":   named,
		"file_mkfile":        w.base.File(llb.Mkfile("/f", 0o600, []byte("\x00\xff<&>"), llb.WithUser("app:root"))),
		"file_symlink":       w.base.File(llb.Symlink("/etc/passwd", "/l", byID)),
		"file_rm":            w.base.File(llb.Rm("/etc/passwd").Rm("/nothing*", llb.WithAllowNotFound(true), llb.WithAllowWildcard(true))),
		"file_chain":         w.base.File(chain),
		"file_chain_scratch": copied(llb.Scratch().File(chain)),
		"file_chain_reverse": w.base.File(llb.Rm("/tmp").Mkdir("/tmp", 0o777).Copy(w.tree, "/d", "/tmp/")),

		"file_copy":             copyOf(&llb.CopyInfo{CreateDestPath: true}, "/d/a.txt"),
		"file_copy_onto":        w.base.File(llb.Copy(w.tree, "/d", "/", &llb.CopyInfo{CopyDirContentsOnly: true})),
		"file_copy_root":        w.base.File(llb.Copy(w.tree, "/", "/all", &llb.CopyInfo{CopyDirContentsOnly: true, CreateDestPath: true})),
		"file_copy_wildcard":    copyOf(&llb.CopyInfo{CreateDestPath: true, AllowWildcard: true}, "/d/*.txt"),
		"file_copy_no_wildcard": copyOf(&llb.CopyInfo{CreateDestPath: true, AllowWildcard: true, AllowEmptyWildcard: true}, "/d/a.txt"),
		"file_copy_follow":      copyOf(&llb.CopyInfo{CreateDestPath: true, FollowSymlinks: true}, "/d"),
		"file_copy_include":     copyOf(&llb.CopyInfo{CreateDestPath: true, IncludePatterns: []string{"*.txt", "b*"}}, "/d"),
		"file_copy_exclude":     copyOf(&llb.CopyInfo{CreateDestPath: true, ExcludePatterns: []string{"**/*.md"}}, "/"),
		"file_copy_required":    copyOf(&llb.CopyInfo{CreateDestPath: true, IncludePatterns: []string{"a*"}, RequiredPaths: []string{"/d/a.txt"}}, "/d"),
		"file_copy_owner":       copyOf(&llb.CopyInfo{CreateDestPath: true}, "/top", byID),
		"file_copy_named":       w.base.File(llb.Copy(w.tree, "/top", "/top", llb.WithUser("app:root"))),
		"file_copy_mode":        copyOf(&llb.CopyInfo{CreateDestPath: true, Mode: &llb.ChmodOpt{ModeStr: "u=rw,go="}}, "/d"),
		"file_copy_mode_octal":  copyOf(&llb.CopyInfo{CreateDestPath: true, Mode: &llb.ChmodOpt{Mode: 0o4755}}, "/d"),
		"file_copy_unpack":      copyOf(&llb.CopyInfo{CreateDestPath: true, AttemptUnpack: true}, "/top"),
		"file_copy_two":         w.base.File(llb.Copy(w.tree, "/top", "/").Copy(w.tree, "/d/a.txt", "/")),
		"file_copy_two_inputs":  w.base.File(llb.Copy(w.tree, "/top", "/").Copy(named, "/app", "/")),
		"file_copy_same_input":  w.tree.File(llb.Copy(w.tree, "/d/a.txt", "/again")),
		"file_copy_from_inner":  w.base.File(llb.Copy(inner, "/in/f", "/f").Mkdir("/g", 0o700)),
		"file_copy_from_action": w.base.File(llb.Mkdir("/x", 0o755).Copy(
			llb.Mkdir("/y", 0o755).Mkfile("/y/f", 0o644, []byte("y")).WithState(llb.Scratch()), "/y/f", "/x/f")),
		"file_copy_escaped": copyOf(&llb.CopyInfo{CreateDestPath: true, AllowWildcard: true}, `/d/\a.t?t`),
	}
}

func (w *world) graphs() map[string]llb.State {
	one := llb.Scratch().File(llb.Mkfile("/one", 0o644, nil))
	two := llb.Scratch().File(llb.Mkfile("/two", 0o644, nil))
	grown := w.base.File(llb.Mkfile("/grown", 0o644, nil))
	git := func(key, ref string, opts ...llb.GitOption) llb.State {
		s := llb.Git(w.git, ref, opts...)
		w.note(s, key)
		return llb.Scratch().File(llb.Copy(s, "/", "/"))
	}
	local := llb.Local("context")
	return map[string]llb.State{
		"merge":       llb.Merge([]llb.State{one, two}),
		"merge_three": llb.Merge([]llb.State{w.base, one, two}).Run(llb.Args([]string{"true"})).Root(),
		"diff":        llb.Diff(w.base, grown),
		"diff_empty":  llb.Merge([]llb.State{one, llb.Diff(llb.Scratch(), two)}),
		"diff_copied": w.base.File(llb.Copy(llb.Diff(w.base, grown), "/grown", "/copied")),

		"source_git":        git(w.commit, w.commit),
		"source_git_subdir": git(w.commit+":sub", w.commit, llb.GitSubDir("sub")),
		"source_git_keep":   git(w.commit+".git#refs/heads/main", "main", llb.KeepGitDir()),
		"source_http":       w.httpSource(),
		"source_local":      w.base.File(llb.Copy(local, "/sub/f", "/f")).Run(llb.Args([]string{"cat", "/f"})).Root(),
	}
}

// note says what the only source of s stands for.
func (w *world) note(s llb.State, key string) {
	def, err := s.Marshal(context.Background())
	if err != nil {
		return // the case itself reports it
	}
	for _, dt := range def.Def {
		op := &pb.Op{}
		if op.UnmarshalVT(dt) == nil && op.GetSource() != nil {
			w.sources[op.GetSource().Identifier] = key
		}
	}
}

// outputs has a file operation with two outputs, which the client never makes.
func (w *world) outputs(ctx context.Context) (*llb.Definition, error) {
	def, err := w.base.Marshal(ctx, llb.LinuxAmd64)
	if err != nil {
		return nil, err
	}
	base := digest.FromBytes(def.Def[len(def.Def)-2]) // the last one is the return
	def.Def = def.Def[:len(def.Def)-1]
	add := func(op *pb.Op) (digest.Digest, error) {
		dt, err := op.MarshalVT()
		def.Def = append(def.Def, dt)
		return digest.FromBytes(dt), err
	}
	platform := &pb.Platform{OS: "linux", Architecture: "amd64"}
	mkdir := func(path string) *pb.FileAction_Mkdir {
		return &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: path, Mode: 0o755, Timestamp: -1}}
	}
	file, err := add(&pb.Op{Platform: platform, Inputs: []*pb.Input{{Digest: string(base)}}, Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{
		{Input: 0, SecondaryInput: -1, Output: 0, Action: mkdir("/first")},
		{Input: -1, SecondaryInput: -1, Output: -1, Action: mkdir("/second")},
		{Input: 2, SecondaryInput: 1, Output: 1, Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{
			Src: "/first", Dest: "/second/", Mode: -1, Timestamp: -1,
		}}},
	}}}})
	if err != nil {
		return nil, err
	}
	merge, err := add(&pb.Op{Platform: platform, Inputs: []*pb.Input{{Digest: string(file)}, {Digest: string(file), Index: 1}},
		Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 0}, {Input: 1}}}}})
	if err != nil {
		return nil, err
	}
	_, err = add(&pb.Op{Inputs: []*pb.Input{{Digest: string(merge)}}})
	return def, err
}

// httpSource reads a file that a checksum pins.
func (w *world) httpSource() llb.State {
	sum := digest.FromString("f\n")
	s := llb.HTTP(w.http, llb.Checksum(sum), llb.Filename("g"), llb.Chmod(0o640), llb.Chown(1, 2))
	key, err := json.Marshal(struct {
		Filename       string
		Perm, UID, GID int
		Checksum       digest.Digest
	}{"g", 0o640, 1, 2, sum})
	if err == nil { // else the source has no key, and the case says so
		w.note(s, digest.FromBytes(key).String())
	}
	return w.base.File(llb.Copy(s, "/g", "/g"))
}
