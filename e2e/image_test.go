package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// imageBase puts a base for image/Dockerfile into a registry: Debian with what
// the image has of Alpine's packages. The first call on a machine downloads it.
func imageBase(t *testing.T, reg *services.Registry) string {
	t.Helper()
	ref := reg.Addr + "/image-base"
	services.Need(t, services.Debian(t.Context(), ref, "ca-certificates", "git", "openssh-client"))
	return ref
}

// TestImage builds mayfly's own image by mayfly, as `make image` does, and
// builds in a container of it: what a container step of a CI service is.
func TestImage(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a Debian root file system and two copies of it")
	}
	services.NeedRoot(t)
	podman, err := services.Tool("podman")
	services.Need(t, err)
	reg := services.NewRegistry(t)
	bin := filepath.Join(t.TempDir(), "bin")
	if err := errors.Join(os.Mkdir(bin, 0o755), copyFile(mayflyBin, filepath.Join(bin, "mayfly"))); err != nil {
		t.Fatal(err)
	}
	image := reg.Addr + "/mayfly:test"
	if _, err := mayfly(t.Context(), t, filepath.Join(t.TempDir(), "state"), nil,
		"--build-context", "base=docker-image://"+imageBase(t, reg), "--build-context", "bin="+bin, "-t", image, "--push", "../image"); err != nil {
		t.Fatal(err)
	}

	app := t.TempDir()
	for name, text := range map[string]string{
		"Dockerfile": "ARG BASE\nFROM $BASE\nCOPY f /f\nRUN cat /f /f >/ff\n", "f": "from the container\n",
	} {
		if err := os.WriteFile(filepath.Join(app, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	repos := t.TempDir()
	commit, err := services.GitRepo(t.Context(), app, filepath.Join(repos, "app.git"))
	services.Need(t, err)
	git, err := services.StartGitHTTP(t.Context(), repos, "s3cret")
	services.Use(t, git, err)

	dir, err := os.MkdirTemp("", "mfpod") // podman refuses a run root of more than 50 characters
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	// A runner replaces the entrypoint and gives its shell the script. The job
	// has a directory of the runner's, and another user has checked it out.
	script := strings.Join([]string{
		"set -e",
		"command -v git ssh >/dev/null && test -s /etc/ssl/certs/ca-certificates.crt",
		"cd /builds/app && chown -R 1234 .",
		"mayfly build --build-arg BASE=$REGISTRY/base --dotenv /builds/app/x.env -t $REGISTRY/app --push .",
		"grep -q ' /var/cache/mayfly ' /proc/mounts",
		"mayfly build --build-arg BASE=$REGISTRY/base --secret id=GIT_AUTH_TOKEN -o /builds/app/out " + git.URL + "/app.git#" + commit,
	}, "\n")
	cmd := exec.Command(podman, "--root", dir+"/root", "--runroot", dir+"/run", "--storage-driver", "overlay",
		"--runtime", "runc", "--cgroup-manager", "cgroupfs", "run", "--rm", "-i", "--tls-verify=false", "--privileged",
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network=host",
		"-v", app+":/builds/app", "-e", "GIT_AUTH_TOKEN=s3cret", "-e", "REGISTRY="+reg.Addr, "-e", "GITLAB_CI=true",
		"--entrypoint", `[""]`, image, "sh")
	cmd.Stdin = strings.NewReader(script)
	code, out := status(t, cmd)
	if code != 0 {
		t.Fatalf("it ended with %d:\n%s", code, out)
	}
	if got, err := os.ReadFile(filepath.Join(app, "out", "ff")); err != nil || string(got) != "from the container\nfrom the container\n" {
		t.Errorf("the files are %q, %v", got, err)
	}
	if env, err := os.ReadFile(filepath.Join(app, "x.env")); err != nil || !strings.Contains(string(env), "MAYFLY_IMAGE_DIGEST=sha256:") {
		t.Errorf("the dotenv report is %q, %v", env, err)
	}
}

// copyFile copies a program or script.
func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}
