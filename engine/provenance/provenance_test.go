package provenance_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/llb"
	"github.com/mayfly-build/mayfly/engine/provenance"
)

const hex = "5c80159d35ad23bf98d3f8913c66601d2db2f08f783456e75f81b59be7d8bec3"

func amd64() ocispec.Platform { return ocispec.Platform{OS: "linux", Architecture: "amd64"} }
func arm64() ocispec.Platform { return ocispec.Platform{OS: "linux", Architecture: "arm64"} }

func source(id, pinned string, attrs map[string]string) provenance.Step {
	return provenance.Step{Pinned: pinned, Vertex: &llb.Vertex{Op: &pb.Op{
		Platform: &pb.Platform{OS: "linux", Architecture: "amd64"},
		Op:       &pb.Op_Source{Source: &pb.SourceOp{Identifier: id, Attrs: attrs}},
	}}}
}

func run(op *pb.ExecOp) provenance.Step {
	return provenance.Step{Vertex: &llb.Vertex{Op: &pb.Op{Op: &pb.Op_Exec{Exec: op}}}}
}

// predicate is what the tests read of one.
type predicate struct {
	BuildDefinition struct {
		ExternalParameters struct {
			ConfigSource struct {
				URI, Path string
				Digest    map[string]string
			}
			Request struct {
				Args         map[string]string
				Secrets, SSH []struct {
					ID       string
					Optional bool
				}
				Locals []struct{ Name string }
			}
		}
		ResolvedDependencies []struct {
			URI    string
			Digest map[string]string
		}
	}
	RunDetails struct {
		Builder  struct{ ID string }
		Metadata struct {
			Hermetic     bool                                         `json:"buildkit_hermetic"`
			Completeness struct{ Request, ResolvedDependencies bool } `json:"buildkit_completeness"`
		}
	}
}

func predicateOf(t *testing.T, b *provenance.Build, o provenance.Options) (p predicate, text string) {
	t.Helper()
	dt, err := b.Predicate(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(dt, &p); err != nil {
		t.Fatal(err)
	}
	return p, string(dt)
}

func gitBuild() *provenance.Build {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	return &provenance.Build{
		Frontend: "dockerfile.v0", Platform: amd64(), All: []ocispec.Platform{amd64()}, Started: time.Unix(1, 0), Finished: time.Unix(2, 0),
		Args: map[string]string{
			"context": "https://user:S3CR3T@git.test/app.git#main:sub", "filename": "F", "build-arg:A": "b", "label:c": "d",
			"platform": "linux/amd64", "attest:provenance": "", "target": "t", "context:other": "https://user:S3CR3T@git.test/other.git",
		},
		Steps: []provenance.Step{
			source("git://git.test/app.git#main:sub", commit, map[string]string{
				pb.AttrFullRemoteURL: "https://user:S3CR3T@git.test/app.git", pb.AttrAuthTokenSecret: "GIT_AUTH_TOKEN",
			}),
			source("https://user:S3CR3T@files.test/x", "sha256:"+hex, nil),
			run(&pb.ExecOp{Network: pb.NetMode_NONE, Mounts: []*pb.Mount{
				{MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "key", Optional: true}},
				{MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "key"}},
				{MountType: pb.MountType_SSH, SSHOpt: &pb.SSHOpt{}},
			}, Secretenv: []*pb.SecretEnv{{ID: "env", Optional: true}}}),
		},
	}
}

func TestGitContext(t *testing.T) {
	p, text := predicateOf(t, gitBuild(), provenance.Options{BuilderID: "https://ci.test/1"})
	src := p.BuildDefinition.ExternalParameters.ConfigSource
	if src.URI != "https://xxxxx:xxxxx@git.test/app.git#main:sub" || src.Path != "F" || src.Digest["sha1"] == "" {
		t.Errorf("config source %+v", src)
	}
	req := p.BuildDefinition.ExternalParameters.Request
	if len(req.Args) != 4 || req.Args["build-arg:A"] != "b" || req.Args["target"] != "t" {
		t.Errorf("arguments %v", req.Args)
	}
	if len(req.Secrets) != 3 || req.Secrets[0].ID != "GIT_AUTH_TOKEN" || req.Secrets[2].ID != "key" || req.Secrets[2].Optional || len(req.SSH) != 1 || req.SSH[0].ID != "default" {
		t.Errorf("secrets %v, agents %v", req.Secrets, req.SSH)
	}
	deps := p.BuildDefinition.ResolvedDependencies
	if len(deps) != 2 || deps[0].URI != "https://xxxxx:xxxxx@git.test/app.git#main" || deps[1].Digest["sha256"] != hex {
		t.Errorf("dependencies %+v", deps)
	}
	m := p.RunDetails.Metadata
	if !m.Hermetic || !m.Completeness.Request || !m.Completeness.ResolvedDependencies || p.RunDetails.Builder.ID != "https://ci.test/1" {
		t.Errorf("run details %+v", p.RunDetails)
	}
	if strings.Contains(text, "S3CR3T") {
		t.Errorf("a password is in %s", text)
	}
}

// mode=min tells neither arguments nor the ids of secrets, and that it does not.
func TestMin(t *testing.T) {
	p, text := predicateOf(t, gitBuild(), provenance.Options{Mode: provenance.Min})
	req := p.BuildDefinition.ExternalParameters.Request
	if len(req.Args) != 2 || len(req.Secrets)+len(req.SSH) > 0 || p.RunDetails.Metadata.Completeness.Request {
		t.Errorf("%s", text)
	}
}

// Local files, the network and what nobody knows make it incomplete.
func TestCompleteness(t *testing.T) {
	for name, tt := range map[string]struct {
		step               provenance.Step
		complete, hermetic bool
	}{
		"image":         {source("docker-image://docker.io/library/a:1@sha256:"+hex, "", nil), true, true},
		"unknown image": {source("docker-image://docker.io/library/a:1", "", nil), false, false},
		"local":         {source("local://context", "", nil), false, false},
		"unknown":       {source("https://files.test/x", "", nil), false, false},
		"scheme":        {source("blob://x", "sha256:"+hex, nil), false, false},
		"network":       {run(&pb.ExecOp{}), true, false},
		"no network":    {run(&pb.ExecOp{Network: pb.NetMode_NONE}), true, true},
	} {
		b := &provenance.Build{Frontend: "dockerfile.v0", Platform: amd64(), Steps: []provenance.Step{tt.step}}
		p, _ := predicateOf(t, b, provenance.Options{})
		if m := p.RunDetails.Metadata; m.Completeness.ResolvedDependencies != tt.complete || m.Hermetic != tt.hermetic {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

// An image that was looked up for every platform is the one of this platform,
// and one that the frontend pinned is named by its tag.
func TestImages(t *testing.T) {
	amd, arm := amd64(), arm64()
	b := &provenance.Build{
		Frontend: "dockerfile.v0", Platform: amd, All: []ocispec.Platform{amd, arm},
		Steps: []provenance.Step{source("docker-image://docker.io/library/a:1@sha256:"+hex, "", nil)},
		Images: []provenance.Image{
			{Ref: "docker.io/library/a:1", Platform: &amd, Digest: "sha256:" + hex},
			{Ref: "docker.io/library/a:1", Platform: &arm, Digest: "sha256:" + hex},
			{Ref: "docker.io/library/tool", Platform: &arm, Digest: "sha256:" + hex},
		},
	}
	p, text := predicateOf(t, b, provenance.Options{})
	deps := p.BuildDefinition.ResolvedDependencies
	if len(deps) != 2 || deps[0].URI != "pkg:docker/a@1?platform=linux%2Famd64" || deps[1].URI != "pkg:docker/tool@latest?platform=linux%2Farm64" {
		t.Errorf("%s", text)
	}
}

func TestImageURI(t *testing.T) {
	p := arm64()
	for ref, want := range map[string]string{
		"alpine":                         "pkg:docker/alpine@latest?platform=linux%2Farm64",
		"ghcr.io/acme/app:1":             "pkg:docker/ghcr.io/acme/app@1?platform=linux%2Farm64",
		"alpine:3@sha256:" + hex:         "pkg:docker/alpine@3?digest=sha256:" + hex + "&platform=linux%2Farm64",
		"localhost:5000/a@sha256:" + hex: "pkg:docker/localhost%3A5000/a?digest=sha256:" + hex + "&platform=linux%2Farm64",
	} {
		if got, err := provenance.ImageURI(ref, &p); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", ref, got, err, want)
		}
	}
	if _, err := provenance.ImageURI("Not A Ref", nil); err == nil {
		t.Error("Not A Ref is an image")
	}
}

func TestDefinition(t *testing.T) {
	for name, def := range map[string]*pb.Definition{
		"no return":   {Def: [][]byte{marshal(t, &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "local://x"}}})}},
		"no input":    {Def: [][]byte{marshal(t, &pb.Op{Inputs: []*pb.Input{{Digest: "sha256:" + hex}}})}},
		"no protobuf": {Def: [][]byte{{0xff}}},
	} {
		b := &provenance.Build{Definition: def}
		if _, err := b.Predicate(provenance.Options{}); err == nil || !strings.Contains(err.Error(), "provenance: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func marshal(t *testing.T, op *pb.Op) []byte {
	t.Helper()
	dt, err := op.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return dt
}

// What is hidden is nowhere: neither in the arguments nor in a step's
// environment.
func TestHidden(t *testing.T) {
	exec := marshal(t, &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{
		Args: []string{"sh", "-c", "login --password=hunter2!"}, Env: []string{"API_TOKEN=hunter2!", "PIN=12", "N=1234"},
	}}}})
	ret := marshal(t, &pb.Op{Inputs: []*pb.Input{{Digest: digest.FromBytes(exec).String()}}})
	b := gitBuild()
	b.Definition = &pb.Definition{Def: [][]byte{exec, ret}}
	b.Args["build-arg:API_TOKEN"], b.Args["build-arg:PIN"] = "hunter2!", "12"
	b.Hidden = []string{"hunter2!", "12", ""}
	for _, o := range []provenance.Options{{}, {Version: provenance.V02}} {
		p, text := predicateOf(t, b, o)
		if strings.Contains(text, "hunter2") || strings.Contains(text, "PIN=12") || !strings.Contains(text, "API_TOKEN=***") || !strings.Contains(text, "N=1234") {
			t.Errorf("%s", text)
		}
		if o.Version == "" && p.BuildDefinition.ExternalParameters.Request.Args["build-arg:PIN"] != "***" {
			t.Errorf("arguments %v", p.BuildDefinition.ExternalParameters.Request.Args)
		}
	}
	if dt, err := b.Record(provenance.Options{Mode: provenance.Min}); err != nil || strings.Contains(string(dt), "hunter2") {
		t.Errorf("%s, %v", dt, err)
	}
}
