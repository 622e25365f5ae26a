package executor

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/rogpeppe/go-internal/txtar"
)

// TestSpecIsBuildKits compares the spec with BuildKit's, field by field. What
// differs on purpose: the version, the cgroup's name, the spelling of the size
// of /dev/shm.
func TestSpecIsBuildKits(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/buildkit-spec.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range archive.Files {
		t.Run(strings.TrimSuffix(file.Name, ".json"), func(t *testing.T) {
			var want specs.Spec
			if err := json.Unmarshal(file.Data, &want); err != nil {
				t.Fatal(err)
			}
			p := Process{ID: "id", Root: "/root", Args: []string{"/bin/sh", "-c", "true"}, Env: []string{"PATH=/bin"}, Cwd: "/src"}
			// Devices and capabilities are the host's.
			h := hostFacts{
				resolvConf: "/run/resolv.conf",
				hosts:      "/run/hosts",
				masked:     slices.DeleteFunc(maskedPaths(), func(s string) bool { return strings.HasSuffix(s, "thermal_throttle") }),
			}
			switch file.Name {
			case "none.json":
				p.Network = pb.NetMode_NONE
			case "insecure.json":
				p.Security, p.Hostname = pb.SecurityMode_INSECURE, "box"
				p.Ulimits = []*pb.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}}
				h.devices = hostDevices()
				h.caps = want.Process.Capabilities.Ambient
				want.Process.Capabilities = &specs.LinuxCapabilities{
					Bounding: h.caps, Effective: h.caps, Permitted: h.caps, Inheritable: h.caps, Ambient: h.caps,
				}
			}
			got := *spec(p, specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000, 10, 20}}, h)

			want.Version, want.Linux.CgroupsPath = got.Version, got.Linux.CgroupsPath
			for _, m := range want.Mounts {
				for i, option := range m.Options {
					if m.Destination == "/dev/shm" && option == "size=65536k" {
						m.Options[i] = "size=67108864"
					}
				}
			}
			for _, s := range []*specs.Spec{&got, &want} {
				s.Linux.Devices = slices.DeleteFunc(s.Linux.Devices, func(d specs.LinuxDevice) bool { return d.Type == "b" })
				slices.SortFunc(s.Linux.Namespaces, func(a, b specs.LinuxNamespace) int { return strings.Compare(string(a.Type), string(b.Type)) })
			}
			equal(t, "Process", got.Process, want.Process)
			equal(t, "Root", got.Root, want.Root)
			equal(t, "Mounts", got.Mounts, want.Mounts)
			equal(t, "Hostname", got.Hostname, want.Hostname)
			equal(t, "Linux", got.Linux, want.Linux)
		})
	}
}

// equal compares as JSON: there nil and empty are the same.
func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	g, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	w, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if string(g) != string(w) {
		t.Errorf("%s: got\n%s\nwant\n%s", what, g, w)
	}
}

func TestMountsReplaceByTarget(t *testing.T) {
	all := mounts(Process{Mounts: []Mount{
		{Source: "/a", Dest: "/m"},
		{Source: "/b", Dest: "/m/sub", ReadOnly: true},
		{Source: "/c", Dest: "/m/", NoExec: true},
		{Tmpfs: true, Dest: "/dev/shm", Size: 5, Mode: 0o700},
	}}, hostFacts{})
	var got []string
	for _, m := range all {
		got = append(got, m.Destination+" "+m.Source+" "+strings.Join(m.Options, ","))
	}
	if want := "/dev/shm tmpfs nosuid,size=5,mode=0700"; got[3] != want {
		t.Errorf("got %q, want %q", got[3], want)
	}
	want := []string{"/m /c rbind,noexec,nosuid,nodev", "/m/sub /b rbind,ro"}
	if tail := got[len(got)-2:]; !reflect.DeepEqual(tail, want) {
		t.Errorf("got %q, want %q", tail, want)
	}
}

func TestCgroupsPath(t *testing.T) {
	for parent, want := range map[string]string{
		"":             "/mayfly-x",
		"/ci/job":      "/ci/job/mayfly-x",
		"ci":           "/ci/mayfly-x",
		"ci.slice:":    "/ci.slice/mayfly-x",
		"../../escape": "/escape/mayfly-x",
	} {
		if got := cgroupsPath(Process{ID: "x", CgroupParent: parent}); got != want {
			t.Errorf("parent %q: got %q, want %q", parent, got, want)
		}
	}
}

func TestResolvConf(t *testing.T) {
	const host = `# made by someone
nameserver 127.0.0.53
nameserver 10.0.0.1   trailing
nameserver bad
nameserver ::1
nameserver fe80::1%eth0
domain old.example
search a.example b.example
options ndots:1
options edns0 trust-ad
sortlist 130.155.160.0/255.255.240.0
; end
`
	const rest = "search a.example b.example\noptions ndots:1 edns0 trust-ad\nsortlist 130.155.160.0/255.255.240.0\n"
	for _, c := range []struct {
		name, host string
		shares     bool
		want       string
	}{
		{"host network", host, true, "nameserver 127.0.0.53\nnameserver 10.0.0.1\nnameserver ::1\nnameserver fe80::1%eth0\n" + rest},
		{"own network", host, false, "nameserver 10.0.0.1\nnameserver fe80::1%eth0\n" + rest},
		{"none is usable", "nameserver 127.0.0.1\n", false, publicNameservers},
		{"no file", "", true, publicNameservers},
	} {
		if got := string(resolvConf([]byte(c.host), c.shares)); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}

func TestExitErrorText(t *testing.T) {
	for want, e := range map[string]*ExitError{
		"exit status 3":                           {Status: 3},
		"exit status 137 (killed)":                {Status: 137, Signal: 9},
		"exit status 137 (killed): out of memory": {Status: 137, Signal: 9, OOM: true},
	} {
		if got := e.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
