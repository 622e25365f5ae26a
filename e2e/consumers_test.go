package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// TestConsumers gives an image that mayfly pushed to the programs that read
// images: skopeo inspects it, umoci unpacks it, podman runs it.
func TestConsumers(t *testing.T) {
	services.NeedRoot(t)
	reg := services.NewRegistry(t)
	var c diffCase
	c.load(t, "testdata/differential/ci.txtar", reg.Addr)
	_, args := c.commands(reg.Addr)
	ref := reg.Addr + "/app"
	b, err := mayfly(t.Context(), t, filepath.Join(t.TempDir(), "state"), nil, append(args, "-t", ref, "--push", c.dir)...)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("skopeo", func(t *testing.T) {
		var got struct {
			Digest string
			Layers []string
		}
		if err := json.Unmarshal(tool(t, "skopeo", "inspect", "--tls-verify=false", "docker://"+ref), &got); err != nil {
			t.Fatal(err)
		}
		if got.Digest != b.digest || len(got.Layers) != 6 {
			t.Errorf("skopeo sees digest %s and %d layers; mayfly printed %s, and the Dockerfile makes 6", got.Digest, len(got.Layers), b.digest)
		}
	})
	t.Run("umoci", func(t *testing.T) {
		dir := t.TempDir()
		tool(t, "skopeo", "copy", "--src-tls-verify=false", "docker://"+ref, "oci:"+dir+"/layout:app")
		tool(t, "umoci", "unpack", "--image", dir+"/layout:app", dir+"/bundle")
		root := filepath.Join(dir, "bundle", "rootfs")
		for path, want := range map[string]string{"app/ready": "ok\n", "opt/app/base": "base\n", "app/prod/p50": "prod 50\n"} {
			got, err := os.ReadFile(filepath.Join(root, path))
			if err != nil || string(got) != want {
				t.Errorf("%s is %q, %v; want %q", path, got, err, want)
			}
		}
		if _, err := os.Stat(filepath.Join(root, "src", "src")); err == nil {
			t.Error("the files of another stage are in the image")
		}
	})
	t.Run("podman", func(t *testing.T) {
		dir, err := os.MkdirTemp("", "mfpod") // podman refuses a run root of more than 50 characters
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		})
		// runc with cgroupfs works with either version of cgroups and without
		// systemd; the limits are below any hard limit of the machine.
		got := tool(t, "podman", "--root", dir+"/root", "--runroot", dir+"/run", "--storage-driver", "vfs",
			"--runtime", "runc", "--cgroup-manager", "cgroupfs", "run", "--rm", "--tls-verify=false",
			"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network=host", ref)
		if string(got) != "ok\n" {
			t.Errorf("podman run printed %q, want ok", got)
		}
	})
}

// tool runs a program and returns its stdout.
func tool(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	bin, err := services.Tool(name)
	services.Need(t, err)
	var stderr strings.Builder
	cmd := exec.Command(bin, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, &stderr)
	}
	return out
}
