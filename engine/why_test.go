package engine

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/explain"
	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/remotecache"
)

const sampleFile = `ARG BASE
FROM $BASE AS build
ARG VERSION=1  OTHER
  arg third
RUN make \
    $VERSION
`

func vertexOf(name string, line, end int32, op *pb.Op) *llb.Vertex {
	op.Platform = &pb.Platform{OS: "linux", Architecture: "amd64"}
	v := &llb.Vertex{Digest: digest.FromString(name), Name: name, Op: op, Metadata: &pb.OpMetadata{}}
	if line > 0 {
		v.Sources = []*llb.SourceRange{{
			Info:   &pb.SourceInfo{Filename: "Dockerfile", Data: []byte(sampleFile)},
			Ranges: []*pb.Range{{Start: &pb.Position{Line: line}, End: &pb.Position{Line: end}}},
		}}
	}
	return v
}

func TestIdentify(t *testing.T) {
	mask := explain.NewMasker(map[string]string{"VERSION": "1.2.3"})
	run := func(name string, line, end int32) identity {
		return identify(vertexOf(name, line, end, &pb.Op{}), mask)
	}
	a := run("[build 2/3] RUN make 1.2.3", 5, 6)
	if a.name != "[build 2/3] RUN make $VERSION" || a.text != "RUN make $VERSION" || a.where != "Dockerfile:5" {
		t.Errorf("%+v", a)
	}
	for name, tt := range map[string]struct {
		b              identity
		sameID, sameAt bool
	}{
		"another value":    {run("[build 2/3] RUN make 1.2.4", 5, 6), true, true},
		"another place":    {run("[build 3/4] RUN make 1.2.3", 5, 6), true, false},
		"another stage":    {run("[test 2/3] RUN make 1.2.3", 5, 6), false, false},
		"another text":     {run("[build 2/3] RUN make", 2, 2), false, true},
		"several platform": {run("[linux/amd64 build 2/3] RUN make 1.2.3", 5, 6), true, true},
	} {
		if (tt.b.base == a.base) != tt.sameID || (tt.b.seat == a.seat) != tt.sameAt {
			t.Errorf("%s: %+v and %+v", name, a, tt.b)
		}
	}
	if one, two := run("[2/3] RUN x", 0, 0), run("[stage-0 2/3] RUN x", 0, 0); one.base != two.base || one.seat != two.seat {
		t.Error("a stage without a name is another one when there are two of them")
	}
	if one, two := run("[2/3] COPY --link a b", 2, 2), run("[2/3] LINK COPY --link a b", 2, 2); one.base == two.base {
		t.Error("the two halves of a COPY --link are one")
	}
	// Where nothing says what the Dockerfile has, the name does.
	if b := run("curl 1.2.3", 0, 0); b.text != "curl ${VERSION}" || b.seat != "" || b.where != "" {
		t.Errorf("%+v", b)
	}
	if b := run("[1/2] RUN x", 90, 99); b.text != "RUN x" {
		t.Errorf("%+v", b)
	}
}

func TestArgNames(t *testing.T) {
	if got := argNames([]byte(sampleFile)); !slices.Equal(got, []string{"BASE", "VERSION", "OTHER", "third"}) {
		t.Errorf("%q", got)
	}
}

// TestFields takes operations apart: what is part of the key is there, and
// what may be secret is not to be seen.
func TestFields(t *testing.T) {
	f := fielder{mask: explain.NewMasker(map[string]string{"DIR": "s3cret-dir"}), args: map[string]bool{"VERSION": true}}
	byName := func(u string) *pb.UserOpt {
		return &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: u}}}
	}
	byID := &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: 7}}
	for _, tt := range []struct {
		name   string
		op     *pb.Op
		pinned string
		kind   explain.Kind
		want   string
	}{
		{"exec", &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{
			Meta: &pb.Meta{
				Args: []string{"sh", "-c", "make"}, Env: []string{"VERSION=s3cret", "PATH=/bin"}, Cwd: "/s3cret-dir/src", User: "me", Hostname: "h",
				ExtraHosts: []*pb.HostIP{{Host: "db", IP: "10.0.0.1"}}, Ulimit: []*pb.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}},
				ProxyEnv: &pb.ProxyEnv{HttpProxy: "http://u:s3cret@proxy"},
			},
			Network: pb.NetMode_NONE, Security: pb.SecurityMode_INSECURE,
			Secretenv: []*pb.SecretEnv{{ID: "token", Name: "TOKEN", Optional: true}},
			Mounts: []*pb.Mount{
				{Dest: "/"}, {Dest: "/src", Selector: "/sub", Readonly: true, Input: 1},
				{Dest: "/c", MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "/c"}, Input: -1},
				{Dest: "/d", MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "other"}, Input: -1},
				{Dest: "/run/secrets/x", MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "x", Mode: 0o400}, Input: -1},
				{Dest: "/ssh", MountType: pb.MountType_SSH, SSHOpt: &pb.SSHOpt{ID: "default", Uid: 1, Optional: true}, Input: -1},
				{Dest: "/t", MountType: pb.MountType_TMPFS, TmpfsOpt: &pb.TmpfsOpt{Size: 9}, Input: -1},
			},
		}}}, "", explain.Exec, `command=sh -c make; arg VERSION=#; env PATH=#; cwd=/${DIR}/src#; user=me; hostname=h; network=none; security=insecure; ` +
			`extra host db=given; ulimit nofile=1:2; secret env TOKEN=id token optional; mount /=bind; mount /src=bind readonly; mount /src from=/sub; ` +
			`mount /c=cache empty id /c; mount /d=cache empty; mount /run/secrets/x=secret empty id x owner 0:0 mode 0400; ` +
			`mount /ssh=ssh empty id default owner 1:0 mode 0000 optional; mount /t=tmpfs empty size 9`},
		{"copy", &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{{Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{
			Src: "/a/b", Dest: "/s3cret-dir/", Mode: -1, Owner: &pb.ChownOpt{User: byName("me"), Group: byID}, FollowSymlink: true, Timestamp: -1,
		}}}}}}}, "", explain.File, `source=b; destination=/${DIR}/#; owner=me:7; options={"followSymlink":true}`},
		{"others", &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{
			{Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: "/f", Mode: 0o600, Data: []byte("s3cret"), Timestamp: 5}}},
			{Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/d", Mode: 0o755, MakeParents: true, Timestamp: -1}}},
			{Action: &pb.FileAction_Symlink{Symlink: &pb.FileActionSymlink{Oldpath: "/o", Newpath: "/n", Timestamp: -1}}},
			{Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: "/r", AllowNotFound: true}}},
		}}}}, "", explain.File, `action 1 file=/f; action 1 mode=0600; action 1 time=5; action 1 content=#; action 2 directory=/d; action 2 mode=0755; ` +
			`action 2 parents=made too; action 3 link=/n; action 3 target=/o; action 4 removed=/r; action 4 options={"allowNotFound":true}`},
		{"image", srcOp("docker-image://docker.io/library/alpine:3@sha256:aa", pb.AttrImageResolveMode, "pull"), "", explain.Image, `image=alpine:3; digest=sha256:aa`},
		{"image by tag", srcOp("docker-image://ghcr.io/s3cret-dir/x:3"), "sha256:bb", explain.Image, `image=ghcr.io/${DIR}/x:3#; digest=sha256:bb`},
		{"git", srcOp("git://u:s3cret@host/r.git#main:sub", pb.AttrAuthTokenSecret, "GIT_AUTH_TOKEN", pb.AttrKeepGitDir, "true"), "c0ffee", explain.Git, `repository=git://host/r.git#; ref=main:sub; commit=c0ffee; git.authtokensecret=#; git.keepgitdir=true`},
		{"http", srcOp("https://u:p@host/f.tgz?sig=s3cret", pb.AttrHTTPHeaderPrefix+"x", "s3cret"), "sha256:cc", explain.HTTP, `url=https://host/f.tgz#; checksum=sha256:cc; http.header.x=#`},
		{"local", srcOp("local://context", pb.AttrLocalSessionID, "1", pb.AttrExcludePatterns, `["a"]`), "", explain.Local, `name=context; local.excludepatterns=["a"]`},
		{"unknown source", srcOp("ipfs://x"), "", explain.Other, `identifier=ipfs://x`},
		{"merge", &pb.Op{Op: &pb.Op_Merge{Merge: &pb.MergeOp{}}}, "", explain.Merge, ``},
		{"diff", &pb.Op{Op: &pb.Op_Diff{Diff: &pb.DiffOp{}}}, "", explain.Diff, ``},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kind, fields := f.fields(vertexOf(tt.name, 0, 0, tt.op), tt.pinned)
			var parts []string
			for _, f := range fields {
				sum := ""
				if f.Sum != "" {
					sum = "#"
				}
				parts = append(parts, f.Name+"="+f.Text+sum)
			}
			if got := strings.Join(parts, "; "); got != tt.want || kind != tt.kind {
				t.Errorf("%s\n%s\nwant %s\n%s", kind, got, tt.kind, tt.want)
			}
			if s := fmt.Sprint(fields); strings.Contains(s, "s3cret") {
				t.Errorf("a value is to be seen: %s", s)
			}
		})
	}
}

func srcOp(id string, attrs ...string) *pb.Op {
	op := &pb.SourceOp{Identifier: id, Attrs: map[string]string{}}
	for i := 0; i < len(attrs); i += 2 {
		op.Attrs[attrs[i]] = attrs[i+1]
	}
	return &pb.Op{Op: &pb.Op_Source{Source: op}}
}

func TestModeBits(t *testing.T) {
	for _, bits := range []uint32{0, 0o644, 0o4755, 0o2750, 0o1777, 0o7777} {
		if got := bitsOf(modeOf(bits)); got != bits {
			t.Errorf("%o became %o", bits, got)
		}
	}
}

// TestFetchRecords: what cannot be had, or is not what was promised, is none.
func TestFetchRecords(t *testing.T) {
	good, err := explain.Encode([]*explain.Set{{Steps: []explain.Record{{ID: "a"}}}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		blob remotecache.Blob
		data []byte
		err  error
		want int
	}{
		{"good", remotecache.Blob{Digest: digest.FromBytes(good), Size: int64(len(good))}, good, nil, 1},
		{"gone", remotecache.Blob{Digest: digest.FromBytes(good)}, nil, remotecache.ErrNotFound, 0},
		{"another", remotecache.Blob{Digest: digest.FromString("x")}, good, nil, 0},
		{"no records", remotecache.Blob{Digest: digest.FromString("x")}, []byte("x"), nil, 0},
		{"too large", remotecache.Blob{Digest: digest.FromBytes(good), Size: 1 << 30}, good, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := fetchRecords(t.Context(), tt.blob, func(context.Context, ocispec.Descriptor, int64) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(tt.data)), tt.err
			})
			if len(got) != tt.want {
				t.Errorf("%d sets, want %d", len(got), tt.want)
			}
		})
	}
}

func TestLastBuilds(t *testing.T) {
	root := t.TempDir()
	if refs, err := LastBuilds(root); len(refs) > 0 || err != nil {
		t.Errorf("of no directory: %v, %v", refs, err)
	}
	w := &why{dir: filepath.Join(root, "builds"), tmp: root}
	for i := range keptBuilds + 3 {
		w.ref = fmt.Sprintf("b%02d", i)
		w.save(&explain.Set{Build: w.ref})
		at := time.Unix(int64(1000+i), 0)
		if err := os.Chtimes(RecordsFile(root, w.ref), at, at); err != nil {
			t.Fatal(err)
		}
	}
	refs, err := LastBuilds(root)
	if err != nil || len(refs) != keptBuilds || refs[0] != "b52" || refs[keptBuilds-1] != "b03" {
		t.Errorf("%d builds, %v: %v", len(refs), refs, err)
	}
}
