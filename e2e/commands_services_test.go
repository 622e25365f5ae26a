package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mayfly-build/mayfly/e2e/services"
)

func cmdTarpit(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 0, "tarpit")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	done := make(chan struct{})
	ts.Defer(func() {
		ts.Check(l.Close())
		<-done
	})
	ts.Setenv("TARPIT", l.Addr().String())
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed by the end of the script
			}
			defer c.Close()
		}
	}()
}

func cmdRegistry(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 1, "registry auth|tls")
	cfg := services.RegistryConfig{User: "ci", Password: "secret", TLS: args[0] == "tls"}
	reg, err := services.StartRegistry(cfg)
	ts.Check(err)
	ts.Defer(func() { ts.Check(reg.Close()) })
	ts.Setenv("OTHER", reg.Addr)
	ts.Setenv("CA", reg.CAFile)
}

func cmdGitserve(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "gitserve DIR NAME")
	s, ctx := shared(ts), context.Background()
	dir := filepath.Join(s.dir, "git")
	if !s.git {
		s.git = true
		ts.Check(os.MkdirAll(dir, 0o755))
		d, err := services.StartGitDaemon(dir)
		ts.Check(err)
		ts.Defer(func() { ts.Check(d.Close()) })
		h, err := services.StartGitHTTP(ctx, dir, "token")
		ts.Check(err)
		ts.Defer(func() { ts.Check(h.Close()) })
		ts.Setenv("GIT", d.URL)
		ts.Setenv("GITHTTP", h.URL)
	}
	commit, err := services.GitRepo(ctx, ts.MkAbs(args[0]), filepath.Join(dir, args[1]+".git"))
	ts.Check(err)
	ts.Setenv("COMMIT", commit)
}

func cmdHTTPServe(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 1, "httpserve DIR")
	s := shared(ts)
	s.files = services.StartFiles(ts.MkAbs(args[0]))
	ts.Defer(func() { ts.Check(s.files.Close()) })
	ts.Setenv("HTTP", s.files.URL)
}

func cmdHTTPWait(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 1, "httpwait REGEXP")
	re, err := regexp.Compile(args[0])
	ts.Check(err)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, q := range shared(ts).files.Requests() {
			if re.MatchString(q.Path) {
				return
			}
		}
	}
	ts.Fatalf("no request matched %q in a minute", args[0])
}

func cmdSSHAgent(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 0, "sshagent")
	dir, err := os.MkdirTemp("", "mayfly-ssh-") // a socket's path has to be short
	ts.Check(err)
	ts.Defer(func() { ts.Check(os.RemoveAll(dir)) })
	sock, key := filepath.Join(dir, "sock"), filepath.Join(dir, "key")
	agent := exec.Command("ssh-agent", "-D", "-a", sock)
	ts.Check(agent.Start())
	ts.Defer(func() {
		ts.Check(agent.Process.Kill())
		_ = agent.Wait() // killed: its status says so
	})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(sock); err == nil {
			break
		}
		if time.Now().After(end) {
			ts.Fatalf("ssh-agent made no socket in 10s")
		}
	}
	ts.Check(exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "mayfly-e2e", "-f", key).Run())
	add := exec.Command("ssh-add", "-q", key)
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+sock)
	ts.Check(add.Run())
	ts.Setenv("SSH_AUTH_SOCK", sock)
}
