package main

import (
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/platforms"

	"github.com/mayfly-build/mayfly/engine/op"
	"github.com/mayfly-build/mayfly/engine/secret"
	"github.com/mayfly-build/mayfly/internal/hint"
)

func TestFrontendOptions(t *testing.T) {
	native := platforms.Format(platforms.Normalize(platforms.DefaultSpec()))
	env := map[string]string{"FROM_ENV": "e", "EMPTY": ""}
	tests := []struct {
		args string
		want map[string]string
		err  string
	}{
		{"", map[string]string{}, ""},
		{"--build-arg A=1 --build-arg B= --build-arg C=x=y", map[string]string{"build-arg:A": "1", "build-arg:B": "", "build-arg:C": "x=y"}, ""},
		{"--build-arg FROM_ENV --build-arg EMPTY --build-arg UNSET", map[string]string{"build-arg:FROM_ENV": "e", "build-arg:EMPTY": ""}, ""},
		{"--build-arg =1", nil, "NAME[=VALUE]"},
		{"--label a=1 --label b", map[string]string{"label:a": "1", "label:b": ""}, ""},
		{"--label =1", nil, "KEY=VALUE"},
		{"--target x", map[string]string{"target": "x"}, ""},
		{"--no-cache", map[string]string{"no-cache": ""}, ""},
		{"--no-cache-filter a --no-cache-filter b", map[string]string{"no-cache": "a,b"}, ""},
		{"--network host", map[string]string{"force-network-mode": "host"}, ""},
		{"--network default", map[string]string{}, ""},
		{"--network bridge", nil, "default, host, none"},
		{"--add-host a:1.2.3.4 --add-host b=::1 --add-host c:::2", map[string]string{"add-hosts": "a=1.2.3.4,b=::1,c=::2"}, ""},
		{"--add-host a", nil, "HOST:IP"},
		{"--shm-size 64m", map[string]string{"shm-size": "67108864"}, ""},
		{"--shm-size big", nil, "--shm-size"},
		{"--ulimit nofile=1:2 --ulimit nproc=3", map[string]string{"ulimit": "nofile=1:2,nproc=3"}, ""},
		{"--ulimit nosuch=1", nil, "--ulimit"},
		{"--cgroup-parent ci", map[string]string{"cgroup-parent": "ci"}, ""},
		{"--platform " + native, map[string]string{"platform": native}, ""},
		{"--platform linux/s390x,linux/arm64/v8 --platform linux/s390x", map[string]string{"platform": "linux/s390x,linux/arm64"}, ""},
	}
	for _, tt := range tests {
		w := worldOf(env, "")
		got := map[string]string{}
		err := frontendOptions(w, parse(t, w, strings.Fields(tt.args)...), got)
		switch {
		case tt.err == "" && (err != nil || !maps.Equal(got, tt.want)):
			t.Errorf("%s: %v, %v", tt.args, got, err)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err) || !isUsage(err)):
			t.Errorf("%s: %v does not say %q", tt.args, err, tt.err)
		}
	}
}

func TestSourceDateEpoch(t *testing.T) {
	for args, want := range map[string]string{"": "5", "--build-arg SOURCE_DATE_EPOCH=7": "7"} {
		w := worldOf(map[string]string{"SOURCE_DATE_EPOCH": "5"}, "")
		got := map[string]string{}
		if err := frontendOptions(w, parse(t, w, strings.Fields(args)...), got); err != nil || got["build-arg:SOURCE_DATE_EPOCH"] != want {
			t.Errorf("%q: %v, %v", args, got, err)
		}
	}
}

func TestSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	writeFile(t, file, "v")
	env := map[string]string{"TOKEN": "SEKRET"}
	inFile, inEnv := secret.Source{File: file}, secret.Source{Value: []byte("SEKRET")}
	tests := []struct {
		text  string
		want  secret.Source
		err   string
		usage bool
	}{
		{"id=x,src=" + file, inFile, "", false},
		{"id=x,source=" + file, inFile, "", false},
		{"id=x,type=file,src=" + file, inFile, "", false},
		{"id=" + file, inFile, "", false},
		{"id=x,env=TOKEN", inEnv, "", false},
		{"id=x,type=env,src=TOKEN", inEnv, "", false},
		{"id=TOKEN", inEnv, "", false},
		{"id=TOKEN,type=file", secret.Source{}, "TOKEN", false},
		{"id=x,env=UNSET", secret.Source{}, "variable UNSET is not set", false},
		{"id=x,src=" + file + ".missing", secret.Source{}, "missing", false},
		{"src=" + file, secret.Source{}, "id is missing", true},
		{"x", secret.Source{}, "expected id=", true},
		{"id=x,type=vault", secret.Source{}, "vault", true},
	}
	for _, tt := range tests {
		w := worldOf(env, "")
		got, err := secrets(w, parse(t, w, "--secret", tt.text))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || isUsage(err) != tt.usage || strings.Contains(err.Error(), "SEKRET") {
				t.Errorf("%s: %v does not say %q", tt.text, err, tt.err)
			}
			continue
		}
		if err != nil || len(got) != 1 {
			t.Errorf("%s: %v, %v", tt.text, got, err)
			continue
		}
		for _, src := range got {
			if src.File != tt.want.File || string(src.Value) != string(tt.want.Value) {
				t.Errorf("%s: %+v", tt.text, src)
			}
		}
	}
}

func TestAgents(t *testing.T) {
	dir := t.TempDir()
	key, other, socket := filepath.Join(dir, "key"), filepath.Join(dir, "other"), filepath.Join(dir, "socket")
	writeFile(t, key, "k")
	writeFile(t, other, "k")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	env := map[string]string{"SSH_AUTH_SOCK": "/run/agent"}
	tests := []struct {
		text, id, socket string
		keys             []string
		err              string
		env              map[string]string
	}{
		{text: "default", id: "default", socket: "/run/agent", env: env},
		{text: "a=", id: "a", socket: "/run/agent", env: env},
		{text: "default", err: "SSH_AUTH_SOCK is not set"},
		{text: "a=" + socket, id: "a", socket: socket, env: env},
		{text: "a=" + key + "," + other, id: "a", keys: []string{key, other}, env: env},
		{text: "a=" + key + ".missing", err: "missing"},
		{text: "=" + key, err: "no id"},
	}
	for _, tt := range tests {
		w := worldOf(tt.env, "")
		got, err := agents(w, parse(t, w, "--ssh", tt.text))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v does not say %q", tt.text, err, tt.err)
			}
			continue
		}
		if a := got[tt.id]; err != nil || len(got) != 1 || a.Socket != tt.socket || !slices.Equal(a.Keys, tt.keys) {
			t.Errorf("%s: %v, %v", tt.text, got, err)
		}
	}
}

func TestEntitlements(t *testing.T) {
	w := worldOf(nil, "")
	got, err := entitlements(parse(t, w, "--allow", "network.host", "--allow", "security.insecure"))
	if err != nil || got != (op.Entitlements{HostNetwork: true, Insecure: true}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := entitlements(parse(t, w)); err != nil || got != (op.Entitlements{}) {
		t.Errorf("allowed without a flag: %v, %v", got, err)
	}
}

func TestMissingSecretHasAHint(t *testing.T) {
	w := worldOf(nil, "")
	_, err := secrets(w, parse(t, w, "--secret", "id=nosuchfile"))
	if !strings.Contains(hint.Of(err), "src=FILE") {
		t.Errorf("%v: hint %q", err, hint.Of(err))
	}
}
