package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// TestScripts runs testdata/script/*.txtar. Every script has a registry of its
// own in $REGISTRY, which holds the image $BASE (static busybox), and an empty
// home, so that mayfly's default state directory is an empty one. The commands
// beside testscript's own are in commands_test.go.
func TestScripts(t *testing.T) {
	services.NeedRoot(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		Setup:               setupScript,
		Cmds:                commands(),
		Condition:           condition,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// scriptKey keys what a script's commands share.
type scriptKey struct{}

// A script is what the commands of one script share.
type script struct {
	dir      string // $WORK
	registry *services.Registry
	mark     int             // requests before `reglog mark`
	files    *services.Files // of httpserve
	git      bool            // gitserve has started the servers
}

func setupScript(env *testscript.Env) error {
	reg, err := services.StartRegistry(services.RegistryConfig{})
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("MAYFLY_REQUIRE_TOOLS") == "" {
		env.T().Skip(err)
	}
	if err != nil {
		return err
	}
	env.Defer(func() { closeService(env.T(), reg.Close) })
	base := reg.Addr + "/base"
	if err := services.Base(env.T().(testing.TB).Context(), base); err != nil {
		return err
	}
	home := filepath.Join(env.WorkDir, "home")
	bin := filepath.Join(env.WorkDir, "bin")
	for _, d := range []string{home, bin} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink(mayflyBin, filepath.Join(bin, "mayfly")); err != nil {
		return err
	}
	env.Setenv("HOME", home)
	env.Setenv("XDG_CACHE_HOME", filepath.Join(home, ".cache"))
	env.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	env.Setenv("BUILDX_NO_DEFAULT_ATTESTATIONS", "1") // most scripts are about plain images
	env.Setenv("REGISTRY", reg.Addr)
	env.Setenv("BASE", base)
	env.Values[scriptKey{}] = &script{dir: env.WorkDir, registry: reg}
	return nil
}

func closeService(t testscript.T, f func() error) {
	if err := f(); err != nil {
		t.Log("close a service: ", err)
		t.FailNow()
	}
}

// condition adds [overlay]-like questions about the machine to the scripts:
// [tool:NAME] is true where the program NAME is installed.
func condition(cond string) (bool, error) {
	name, ok := cutPrefix(cond, "tool:")
	if !ok {
		return false, errors.New("unknown condition " + cond)
	}
	_, err := services.Tool(name)
	return err == nil, nil
}
