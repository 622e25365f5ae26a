package action

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// nobody runs what is not to be root.
const nobody = 65534

// TestMain plays the mayfly binary when fakeVariable says where its report
// goes.
const fakeVariable = "MAYFLY_FAKE_REPORT"

func TestMain(m *testing.M) {
	if report := os.Getenv(fakeVariable); report != "" {
		os.Exit(fakeMayfly(report))
	}
	os.Exit(m.Run())
}

// fakeMayfly reports its arguments and the environment on standard input. With
// the input target=wait it waits until standard input ends, and says so.
func fakeMayfly(report string) int {
	args := strings.Join(os.Args[1:], " ")
	if args == "version" {
		fmt.Println("mayfly v1.2.3-fake")
		return 0
	}
	r := bufio.NewReader(os.Stdin)
	lines := []string{"args " + args, fmt.Sprint("uid ", os.Getuid())}
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); name != "PATH" && name != fakeVariable && name != "PWD" {
			lines = append(lines, "seen "+name)
		}
	}
	waits := false
	for {
		entry, err := r.ReadString(0)
		if err != nil {
			lines = append(lines, "error "+err.Error())
			break
		}
		if entry = strings.TrimSuffix(entry, "\x00"); entry == "" {
			break
		}
		lines = append(lines, "env "+strings.ReplaceAll(entry, "\n", "\\n"))
		waits = waits || entry == "INPUT_TARGET=wait"
	}
	if err := os.WriteFile(report, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 9
	}
	fmt.Println("to stdout")
	fmt.Fprintln(os.Stderr, "to stderr")
	if waits {
		_, _ = io.Copy(io.Discard, r)
		fmt.Println("stopped")
		return 1
	}
	return 7
}

// A runner runs main.js as a runner does.
type runner struct {
	t      *testing.T
	dir    string
	uid    uint32
	env    map[string]string
	binary string // the fake
	report string
	sudo   string // file that the fake sudo writes its arguments to
	main   string // script that node runs
}

// newRunner makes a runner for a user, with the programs of bin.
func newRunner(t *testing.T, uid uint32, bin map[string]string) *runner {
	t.Helper()
	node, err := services.Tool("node")
	services.Need(t, err)
	if os.Getuid() != 0 && uid != uint32(os.Getuid()) {
		t.Skip("needs root: it runs as another user")
	}
	dir, err := os.MkdirTemp("", "mayfly-action-test-") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &runner{t: t, dir: dir, main: "action/main.js", uid: uid, report: filepath.Join(dir, "work", "report"), sudo: filepath.Join(dir, "work", "sudo")}
	for _, d := range []string{"bin", "tools", "temp", "work", "action", "setup"} {
		if err := os.Mkdir(r.path(d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	r.binary = r.path("mayfly")
	for _, file := range []string{"action/main.js", "action/install.js", "setup/main.js"} {
		text, err := os.ReadFile(filepath.Join("..", file))
		if err != nil {
			t.Fatal(err)
		}
		r.write(file, text, 0o644)
	}
	r.write("self", self, 0o755)
	r.write("mayfly", r.fake(""), 0o755)
	r.write("state", nil, 0o666)
	if err := os.Symlink(node, r.path("bin/node")); err != nil {
		t.Fatal(err)
	}
	for name, text := range bin {
		r.write("bin/"+name, []byte(strings.ReplaceAll(text, "SUDO_LOG", r.sudo)), 0o755)
	}
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o777)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	r.env = map[string]string{
		"PATH": r.path("bin") + ":/usr/bin:/bin", "HOME": r.path("work"), "GITHUB_ACTION_REF": "v1.2.3", "GITHUB_STATE": r.path("state"),
		"RUNNER_TOOL_CACHE": r.path("tools"), "RUNNER_TEMP": r.path("temp"), "INPUT_SECRETS": "A=s3cret\nB=two",
		"ACTIONS_RUNTIME_TOKEN": "t0ken", "LD_PRELOAD": "", "NODE_OPTIONS": "",
	}
	return r
}

func (r *runner) path(name string) string { return filepath.Join(r.dir, name) }

func (r *runner) write(name string, data []byte, mode os.FileMode) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), data, mode); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Chmod(r.path(name), mode); err != nil {
		r.t.Fatal(err)
	}
}

// fake is a mayfly binary; text makes it another one.
func (r *runner) fake(text string) []byte {
	return []byte("#!/bin/sh\n# " + text + "\nexec env " + fakeVariable + "=" + r.report + " " + r.path("self") + ` "$@"` + "\n")
}

func (r *runner) command() *exec.Cmd {
	cmd := exec.Command(r.path("bin/node"), r.path(r.main))
	cmd.Dir = r.path("work")
	for name, value := range r.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: r.uid, Gid: r.uid}
	}
	return cmd
}

// run returns the exit status and what was said.
func (r *runner) run() (int, string) {
	r.t.Helper()
	cmd := r.command()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		r.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// reported returns the lines of the fake's report.
func (r *runner) reported() []string {
	data, err := os.ReadFile(r.report)
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

const sudoThatWorks = "#!/bin/sh\necho \"$*\" >>SUDO_LOG\n[ \"$1\" = -n ] && [ \"$2\" = -- ] || exit 99\nshift 2\nexec \"$@\"\n"

// TestRunAsRoot and TestRunBySudo: the binary gets the job's environment by
// standard input, and nothing of it by its own environment or arguments.
func TestRunAsRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	r := newRunner(t, 0, nil)
	r.env["MAYFLY_BINARY"] = r.binary
	r.env["SUDO_UID"] = "1000"
	testRun(t, r)
}

func TestRunBySudo(t *testing.T) {
	r := newRunner(t, nobody, map[string]string{"sudo": sudoThatWorks})
	r.env["MAYFLY_BINARY"] = r.binary
	testRun(t, r)
	log, err := os.ReadFile(r.sudo)
	want := "-n -- " + r.binary + " version\n-n -- " + r.binary + " action --environment-stdin\n"
	if err != nil || string(log) != want {
		t.Errorf("sudo was called with\n%s%v\nwant\n%s", log, err, want)
	}
}

func testRun(t *testing.T, r *runner) {
	t.Helper()
	status, out := r.run()
	if status != 7 || !strings.Contains(out, "mayfly v1.2.3-fake") || !strings.Contains(out, "to stdout\nto stderr\n") {
		t.Errorf("exit status %d, and\n%s", status, out)
	}
	got := r.reported()
	for _, want := range []string{"args action --environment-stdin", "env INPUT_SECRETS=A=s3cret\\nB=two", "env ACTIONS_RUNTIME_TOKEN=t0ken", "env HOME=" + r.path("work")} {
		if !slices.Contains(got, want) {
			t.Errorf("the report has no %q:\n%s", want, strings.Join(got, "\n"))
		}
	}
	tmp := ""
	for _, line := range got {
		if dir, ok := strings.CutPrefix(line, "env TMPDIR="); ok {
			tmp = dir
		}
		for _, no := range []string{"seen ", "env LD_", "env NODE_", "env SUDO_", "error "} {
			if strings.HasPrefix(line, no) {
				t.Errorf("the report has %q", line)
			}
		}
	}
	if filepath.Dir(tmp) != r.path("temp") {
		t.Errorf("temporary files are in %q", tmp)
	}

	// The post step removes what was left, and nothing else.
	state, err := os.ReadFile(r.path("state"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(state)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		r.env["STATE_"+name] = value
	}
	if r.env["STATE_tmp"] != tmp || r.env["STATE_isPost"] == "" {
		t.Fatalf("state %q, TMPDIR %q", state, tmp)
	}
	if err := os.MkdirAll(filepath.Join(tmp, "mayfly-context-1", "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(tmp, "mayfly-context-1"), int(r.uid), int(r.uid)); err != nil {
		t.Fatal(err)
	}
	if status, out := r.run(); status != 0 || out != "" {
		t.Errorf("the post step ended with %d and %q", status, out)
	}
	if left, err := os.ReadDir(r.path("temp")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestNoRoot: neither root nor sudo is an error that says what to do.
func TestNoRoot(t *testing.T) {
	for name, bin := range map[string]map[string]string{
		"no sudo":  {},
		"password": {"sudo": "#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			r := newRunner(t, nobody, bin)
			r.env["MAYFLY_BINARY"] = r.binary
			r.env["PATH"] = r.path("bin") // the machine may have sudo
			status, out := r.run()
			if status != 1 || !strings.HasPrefix(out, "::error::mayfly needs root") || !strings.Contains(out, "sudo") || !strings.Contains(out, "without a password") {
				t.Errorf("exit status %d, and\n%s", status, out)
			}
			if name == "password" && !strings.Contains(out, "a password is required") {
				t.Errorf("what sudo said is missing:\n%s", out)
			}
			if r.reported() != nil {
				t.Error("mayfly ran")
			}
		})
	}
}

// TestCancel: the runner interrupts node, which may not signal what sudo runs.
func TestCancel(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM, os.Kill} {
		t.Run(sig.String(), func(t *testing.T) {
			r := newRunner(t, nobody, map[string]string{"sudo": sudoThatWorks})
			r.env["MAYFLY_BINARY"], r.env["INPUT_TARGET"] = r.binary, "wait"
			cmd := r.command()
			out, err := os.Create(r.path("out"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			cmd.Stdout, cmd.Stderr = out, out // a file: mayfly may outlive node
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, func() bool { return r.reported() != nil })
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			err = cmd.Wait()
			waitFor(t, func() bool {
				said, err := os.ReadFile(r.path("out"))
				return err == nil && strings.HasSuffix(string(said), "stopped\n")
			})
			if sig != os.Kill && cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("node ended with %v", err)
			}
		})
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen in 20 seconds")
		}
	}
}
