package executortest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-build/mayfly/engine/executor"
	"github.com/moby/buildkit/solver/pb"
)

func testArgsEnvCwd(f *fixture) {
	p := f.process(`pwd; echo "$0|$1|$2"; env`)
	p.Args = append(p.Args, "zero", "a b", "")
	p.Env = append(p.Env, "EMPTY=", "SPACE= x y", "LINES=1\n2")
	p.Cwd = "/tmp"
	out := f.output(p)
	f.want("pwd and arguments", strings.Join(strings.SplitN(out, "\n", 3)[:2], "\n"), "/tmp\nzero|a b|")
	for _, line := range []string{"PATH=/bin\n", "EMPTY=\n", "SPACE= x y\n", "LINES=1\n2\n"} {
		if !strings.Contains(out, line) {
			f.Errorf("environment lacks %q:\n%s", line, out)
		}
	}
	if strings.Contains(out, "_LIBCONTAINER") || strings.Contains(out, "MAYFLY") || strings.Contains(out, "GO") {
		f.Errorf("environment has the runtime's variables:\n%s", out)
	}
}

func testStreams(f *fixture) {
	var out, err bytes.Buffer
	p := f.process("echo out; echo err >&2; echo more > /dev/stdout; echo fd > /proc/self/fd/2; ls /proc/self/fd")
	p.Stdout, p.Stderr = &out, &err
	f.output(p)
	// 3 is the directory that ls reads.
	f.want("stdout", out.String(), "out\nmore\n0\n1\n2\n3\n")
	f.want("stderr", err.String(), "err\nfd\n")

	p = f.process("echo into the void; echo this too >&2")
	if err := f.e.Run(f.Context(), p); err != nil {
		f.Errorf("without writers: %v", err)
	}

	out.Reset()
	err.Reset()
	p = f.process("echo mine > /dev/stdout; echo too > /dev/stderr")
	p.User, p.Stdout, p.Stderr = "ann", &out, &err
	f.output(p)
	f.want("streams of another user", out.String()+err.String(), "mine\ntoo\n")
}

func testStreamsOrder(f *fixture) {
	p := f.process("for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done")
	f.want("one writer for both", f.output(p),
		"out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\nout 4\nerr 4\nout 5\nerr 5\n")
}

func testStdin(f *fixture) {
	f.want("no stdin", f.script("cat; echo end"), "end\n")

	p := f.process("tr a-z A-Z")
	p.Stdin = strings.NewReader(strings.Repeat("hello ", 50_000))
	if got := f.output(p); got != strings.Repeat("HELLO ", 50_000) {
		f.Errorf("stdin: %d bytes came through, want %d", len(got), 300_000)
	}

	p = f.process("read line; echo got $line")
	r, w := io.Pipe()
	defer w.Close()
	p.Stdin = io.MultiReader(strings.NewReader("first\n"), r)
	f.want("a stdin that stays open", f.output(p), "got first\n")
}

func testBigOutput(f *fixture) {
	const n = 10 << 20
	var out, err count
	p := f.process(fmt.Sprintf("head -c %d /dev/zero; head -c %d /dev/zero >&2", n, n))
	p.Stdout, p.Stderr = &out, &err
	f.output(p)
	if out != n || err != n {
		f.Errorf("got %d and %d bytes, want %d", out, err, n)
	}
}

// A count is a writer that counts.
type count int

func (c *count) Write(p []byte) (int, error) {
	*c += count(len(p))
	return len(p), nil
}

func testWriterError(f *fixture) {
	broken := errors.New("disk full")
	p := f.process("head -c 1000000 /dev/zero && echo > /tmp/done")
	p.Stdout = failing{broken}
	if err := f.e.Run(f.Context(), p); !errors.Is(err, broken) {
		f.Errorf("error is %v, want %v", err, broken)
	}
	if _, err := os.Stat(f.path("tmp/done")); err != nil {
		f.Errorf("the process did not get to its end: %v", err)
	}
}

type failing struct{ error }

func (w failing) Write([]byte) (int, error) { return 0, w.error }

func testExitStatus(f *fixture) {
	for _, status := range []int{1, 2, 42, 127, 255} {
		_, err := f.run(f.Context(), f.process(fmt.Sprintf("exit %d", status)))
		if exit := f.exit(err); exit.Status != status || exit.OOM {
			f.Errorf("exit %d gave %+v", status, exit)
		}
	}
	_, err := f.run(f.Context(), f.process("sh -c 'kill -9 $$'; exit $?"))
	if exit := f.exit(err); exit.Status != 128+9 {
		f.Errorf("a shell whose command was killed gave %+v", exit)
	}
}

func testSignal(f *fixture) {
	p := f.process("while :; do :; done")
	p.Ulimits = []*pb.Ulimit{{Name: "cpu", Soft: 1, Hard: 1}}
	_, err := f.run(f.Context(), p)
	if exit := f.exit(err); exit.Status != 128+9 || exit.Signal != syscall.SIGKILL {
		f.Errorf("a process out of CPU time gave %+v", exit)
	}
}

func testNotFound(f *fixture) {
	for _, name := range []string{"nosuchthing", "/bin/nosuchthing"} {
		p := f.process("")
		p.Args = []string{name}
		_, err := f.run(f.Context(), p)
		var exit *executor.ExitError
		if err == nil || errors.As(err, &exit) || !strings.Contains(err.Error(), "nosuchthing") {
			f.Errorf("error for %s is %v, want one that names it and is no ExitError", name, err)
		}
	}
}

func testBadProcess(f *fixture) {
	for name, change := range map[string]func(*executor.Process){
		"no arguments":    func(p *executor.Process) { p.Args = nil },
		"no ID":           func(p *executor.Process) { p.ID = "" },
		"ID is a path":    func(p *executor.Process) { p.ID = "../x" },
		"relative target": func(p *executor.Process) { p.Mounts = []executor.Mount{{Tmpfs: true, Dest: "x"}} },
		"target is /":     func(p *executor.Process) { p.Mounts = []executor.Mount{{Tmpfs: true, Dest: "/"}} },
		"no source":       func(p *executor.Process) { p.Mounts = []executor.Mount{{Source: "/no/such", Dest: "/x"}} },
		"relative cwd":    func(p *executor.Process) { p.Cwd = "x" },
		"unknown ulimit":  func(p *executor.Process) { p.Ulimits = []*pb.Ulimit{{Name: "bananas", Soft: 1, Hard: 1}} },
		"cwd is a file":   func(p *executor.Process) { p.Cwd = "/etc/passwd" },
		"missing root":    func(p *executor.Process) { p.Root += "x" },
	} {
		p := f.process("echo ran")
		change(&p)
		out, err := f.run(f.Context(), p)
		if err == nil || strings.Contains(out, "ran") {
			f.Errorf("%s: error is %v, output %q", name, err, out)
		}
	}
}

func testUser(f *fixture) {
	for _, c := range []struct{ user, id string }{
		{"", "0:0:0 10"},
		{"root", "0:0:0 10"},
		{"0", "0:0:0 10"},
		{"ann", "1000:1000:1000 10 20"},
		{"1000", "1000:1000:1000 10 20"},
		{"ann:wheel", "1000:10:10"},
		{"ann:7", "1000:7:7"},
		{"7", "7:0:0"},
		{"7:8", "7:8:8"},
		{"root:build", "0:20:20"},
		{"root:root", "0:0:0"},
	} {
		p := f.process("exec 2>/dev/null; echo $(id -u):$(id -g):$(id -G)")
		p.User = c.user
		f.want("user "+c.user, strings.TrimSpace(f.output(p)), c.id)
	}
	// A root without accounts.
	must(f.T, os.Remove(f.path("etc/passwd")))
	must(f.T, os.Remove(f.path("etc/group")))
	must(f.T, os.Symlink("/proc/1/environ", f.path("etc/passwd")))
	for _, c := range []struct{ user, id string }{{"", "0:0:0"}, {"7", "7:0:0"}, {"7:8", "7:8:8"}} {
		p := f.process("exec 2>/dev/null; echo $(id -u):$(id -g):$(id -G)")
		p.User = c.user
		f.want("user "+c.user+" without accounts", strings.TrimSpace(f.output(p)), c.id)
	}
}

func testUserUnknown(f *fixture) {
	for _, user := range []string{"bob", "ann:nogroup", "bob:0"} {
		p := f.process("true")
		p.User = user
		if _, err := f.run(f.Context(), p); err == nil {
			f.Errorf("user %s ran", user)
		}
	}
}

func testCwdMade(f *fixture) {
	p := f.process("pwd; stat -c '%u:%g %a %n' /a /a/b /a/b/c; touch here")
	p.Cwd, p.User = "/a/b/c", "ann"
	f.want("cwd", f.output(p), "/a/b/c\n1000:1000 755 /a\n1000:1000 755 /a/b\n1000:1000 755 /a/b/c\n")
	if _, err := os.Stat(f.path("a/b/c/here")); err != nil {
		f.Error(err)
	}

	must(f.T, os.Symlink("/a/b", f.path("link")))
	p = f.process("pwd -P")
	p.Cwd = "/link/../b/d"
	f.want("cwd through a link", f.output(p), "/a/b/d\n")
}

func testUlimits(f *fixture) {
	p := f.process("ulimit -Sn; ulimit -Hn; ulimit -Sc")
	p.Ulimits = []*pb.Ulimit{{Name: "nofile", Soft: 123, Hard: 456}, {Name: "core", Soft: 0, Hard: -1}}
	f.want("limits", f.output(p), "123\n456\n0\n")
}

func testUlimitsOurs(f *fixture) {
	// Go raises its own; a process gets what we were started with.
	own, err := exec.Command("sh", "-c", "ulimit -Sn; ulimit -Hn").Output()
	must(f.T, err)
	f.want("limits not given", f.script("ulimit -Sn; ulimit -Hn"), string(own))
}

func testSequential(f *fixture) {
	start := time.Now()
	const n = 50
	for i := range n {
		if got, want := f.script(fmt.Sprint("echo ", i)), fmt.Sprintln(i); got != want {
			f.Fatalf("got %q, want %q", got, want)
		}
	}
	f.Logf("%v each", time.Since(start)/n)
}
