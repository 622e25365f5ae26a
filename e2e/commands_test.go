package e2e

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// commands are what scripts can do beside testscript's own commands:
//
//	status N prog args…       run prog, which must exit with status N
//	cached [-all] REGEXP      steps of the last build (--progress=plain) that match were cached; at least one
//	ran REGEXP                steps of the last build that match ran; at least one
//	reglog mark               forget the registry's log up to here
//	reglog blobs N            since the mark, N blobs were downloaded
//	reglog count METHOD REGEXP N   since the mark, N requests match
//	reglog wait METHOD REGEXP a request since the mark matches, within 20 seconds
//	tarpit                    start a registry in $TARPIT that takes requests and answers none
//	damage REF N              flip a byte of layer N of REF in the registry
//	digest REF FILE           write the manifest digest of REF to FILE
//	manifest REF FILE         write the manifest of REF to FILE
//	config REF FILE           write the image config of REF to FILE
//	tree REF FILE             write the root file system of REF to FILE, a line per path
//	putmanifest REF FILE      push FILE as the manifest of REF
//	copy SRC DST              copy an image inside the registry
//	registry auth|tls         start another registry (user ci, password secret) in $OTHER; its CA in $CA
//	gitserve DIR NAME         serve DIR as NAME.git in $GIT (git://) and $GITHTTP (password token); its commit in $COMMIT
//	httpserve DIR             serve DIR in $HTTP
//	httpwait REGEXP           wait until a request to $HTTP matches
//	sshagent                  start an SSH agent with a key in $SSH_AUTH_SOCK
//	sigterm                   send SIGTERM to what runs in the background
//	nomounts DIR              nothing is mounted below DIR
//	[!] process REGEXP        a process with such a command line runs
//	corrupt DIR               flip a byte in every regular file below DIR
//	same DIR DIR              two trees hold the same files
func commands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"status": cmdStatus, "cached": cmdCached, "ran": cmdRan, "reglog": cmdReglog,
		"digest": cmdDigest, "manifest": cmdManifest, "config": cmdConfig, "tree": cmdTree,
		"putmanifest": cmdPutManifest, "copy": cmdCopy, "registry": cmdRegistry, "gitserve": cmdGitserve,
		"httpserve": cmdHTTPServe, "httpwait": cmdHTTPWait, "sshagent": cmdSSHAgent, "nomounts": cmdNoMounts,
		"process": cmdProcess, "tarpit": cmdTarpit, "damage": cmdDamage, "sigterm": cmdSigterm, "corrupt": cmdCorrupt, "same": cmdSame,
	}
}

func shared(ts *testscript.TestScript) *script { return ts.Value(scriptKey{}).(*script) }

// usage ends the script when the number of arguments is wrong or the command
// was negated.
func usage(ts *testscript.TestScript, neg bool, args []string, n int, text string) {
	if neg {
		ts.Fatalf("unsupported: ! %s", text)
	}
	if len(args) != n {
		ts.Fatalf("usage: %s", text)
	}
}

func cutPrefix(s, prefix string) (string, bool) { return strings.CutPrefix(s, prefix) }

func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N prog args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s: exit status %d, want %d", args[1], got, want)
	}
}

// plainSteps reads --progress=plain: which steps there were, and whether each
// was cached.
func plainSteps(log string) map[string]bool {
	line := regexp.MustCompile(`(?m)^#(\d+) (\[.*|CACHED)$`)
	names, steps := map[string]string{}, map[string]bool{}
	for _, m := range line.FindAllStringSubmatch(log, -1) {
		switch {
		case m[2] == "CACHED":
			if n, ok := names[m[1]]; ok {
				steps[n] = true
			}
		case isStep(m[2]):
			names[m[1]] = m[2]
			if _, ok := steps[m[2]]; !ok {
				steps[m[2]] = false
			}
		}
	}
	return steps
}

func matching(ts *testscript.TestScript, expr string) map[string]bool {
	re, err := regexp.Compile(expr)
	ts.Check(err)
	out := map[string]bool{}
	for n, c := range plainSteps(ts.ReadFile("stderr")) {
		if re.MatchString(n) {
			out[n] = c
		}
	}
	if len(out) == 0 {
		ts.Fatalf("no step matches %q", expr)
	}
	return out
}

func cmdCached(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 1, "cached REGEXP")
	for n, cached := range matching(ts, args[0]) {
		if !cached {
			ts.Fatalf("step ran: %s", n)
		}
	}
}

func cmdRan(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 1, "ran REGEXP")
	for n, cached := range matching(ts, args[0]) {
		if cached {
			ts.Fatalf("step was cached: %s", n)
		}
	}
}

func cmdReglog(ts *testscript.TestScript, neg bool, args []string) {
	s := shared(ts)
	all, err := s.registry.Requests()
	ts.Check(err)
	if len(args) == 1 && args[0] == "mark" {
		s.mark = len(all)
		return
	}
	if len(args) == 3 && args[0] == "wait" && !neg {
		s.wait(ts, args[1], args[2])
		return
	}
	method, expr, num := http.MethodGet, `/blobs/sha256:`, ""
	switch {
	case !neg && len(args) == 2 && args[0] == "blobs":
		num = args[1]
	case !neg && len(args) == 4 && args[0] == "count":
		method, expr, num = args[1], args[2], args[3]
	default:
		ts.Fatalf("usage: reglog mark | reglog blobs N | reglog count METHOD REGEXP N")
	}
	re, err := regexp.Compile(expr)
	ts.Check(err)
	want, err := strconv.Atoi(num)
	ts.Check(err)
	var got []string
	for _, q := range all[s.mark:] {
		if q.Method == method && re.MatchString(q.Path) {
			got = append(got, q.String())
		}
	}
	if len(got) != want {
		ts.Fatalf("%d requests %s %s, want %d:\n%s", len(got), method, expr, want, strings.Join(got, "\n"))
	}
}

// wait returns when a request since the mark matches.
func (s *script) wait(ts *testscript.TestScript, method, expr string) {
	re, err := regexp.Compile(expr)
	ts.Check(err)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		all, err := s.registry.Requests()
		ts.Check(err)
		for _, q := range all[s.mark:] {
			if q.Method == method && re.MatchString(q.Path) {
				return
			}
		}
	}
	ts.Fatalf("no request %s %s in 20s", method, expr)
}

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

func cmdDamage(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "damage REF N")
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	layers, err := imageOf(ts, args[0]).Layers()
	ts.Check(err)
	if n >= len(layers) {
		ts.Fatalf("%s has %d layers", args[0], len(layers))
	}
	d, err := layers[n].Digest()
	ts.Check(err)
	path := shared(ts).registry.BlobPath(d.String())
	b, err := os.ReadFile(path)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(path, b, 0o644))
}

func reference(ts *testscript.TestScript, s string) name.Reference {
	ref, err := name.ParseReference(s)
	ts.Check(err)
	return ref
}

func get(ts *testscript.TestScript, s string) *remote.Descriptor {
	d, err := remote.Get(reference(ts, s))
	ts.Check(err)
	return d
}

func imageOf(ts *testscript.TestScript, s string) v1.Image {
	img, err := get(ts, s).Image()
	ts.Check(err)
	return img
}

func writeFile(ts *testscript.TestScript, file string, b []byte) {
	ts.Check(os.WriteFile(ts.MkAbs(file), b, 0o644))
}

func cmdDigest(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "digest REF FILE")
	writeFile(ts, args[1], []byte(get(ts, args[0]).Digest.String()+"\n"))
}

func cmdManifest(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "manifest REF FILE")
	writeFile(ts, args[1], get(ts, args[0]).Manifest)
}

func cmdConfig(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "config REF FILE")
	b, err := imageOf(ts, args[0]).RawConfigFile()
	ts.Check(err)
	writeFile(ts, args[1], b)
}

// cmdTree lists an image's files as "MODE UID:GID PATH SIZE" or, for links,
// "MODE UID:GID PATH -> TARGET", sorted by path.
func cmdTree(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "tree REF FILE")
	rc := mutate.Extract(imageOf(ts, args[0]))
	defer rc.Close()
	var lines []string
	for r := tar.NewReader(rc); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		ts.Check(err)
		tail := strconv.FormatInt(h.Size, 10)
		if h.Linkname != "" {
			tail = "-> " + h.Linkname
		}
		lines = append(lines, fmt.Sprintf("/%s %s %d:%d %s\n", path.Clean(h.Name), h.FileInfo().Mode(), h.Uid, h.Gid, tail))
	}
	sort.Strings(lines)
	writeFile(ts, args[1], []byte(strings.Join(lines, "")))
}

func cmdPutManifest(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "putmanifest REF FILE")
	ref := reference(ts, args[0])
	url := fmt.Sprintf("http://%s/v2/%s/manifests/%s", ref.Context().RegistryStr(), ref.Context().RepositoryStr(), ref.Identifier())
	req, err := http.NewRequest(http.MethodPut, url, strings.NewReader(ts.ReadFile(args[1])))
	ts.Check(err)
	req.Header.Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		b, _ := io.ReadAll(resp.Body) // only for the message
		ts.Fatalf("put %s: %s: %s", url, resp.Status, b)
	}
}

func cmdCopy(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "copy SRC DST")
	ts.Check(services.Push(context.Background(), args[1], imageOf(ts, args[0])))
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

func cmdNoMounts(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 1, "nomounts DIR")
	if m := mountsBelow(ts.MkAbs(args[0])); len(m) > 0 {
		ts.Fatalf("still mounted: %s", strings.Join(m, " "))
	}
}

// mountsBelow returns the mount points below dir.
func mountsBelow(dir string) []string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			out = append(out, f[4])
		}
	}
	return out
}

// cmdSigterm is there because testscript's kill knows SIGINT and SIGKILL only.
func cmdSigterm(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 0, "sigterm")
	running := ts.BackgroundCmds()
	if len(running) == 0 {
		ts.Fatalf("nothing runs in the background")
	}
	for _, b := range running {
		ts.Check(b.Process.Signal(syscall.SIGTERM))
	}
}

func cmdProcess(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] process REGEXP")
	}
	re, err := regexp.Compile(args[0])
	ts.Check(err)
	found := processes(re)
	if neg && len(found) > 0 {
		ts.Fatalf("still running: %s", strings.Join(found, "; "))
	}
	if !neg && len(found) == 0 {
		ts.Fatalf("no process matches %q", args[0])
	}
}

// processes returns the command lines that match.
func processes(re *regexp.Regexp) []string {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well formed
	var out []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		if line := strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " ")); re.MatchString(line) {
			out = append(out, line)
		}
	}
	return out
}

func cmdCorrupt(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 1, "corrupt DIR")
	n := 0
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil || len(b) == 0 {
			return err
		}
		b[len(b)/2] ^= 0xff
		n++
		return os.WriteFile(p, b, 0o644)
	}))
	if n == 0 {
		ts.Fatalf("%s holds no file", args[0])
	}
}

func cmdSame(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "same DIR DIR")
	out, err := exec.Command("diff", "-r", "--no-dereference", ts.MkAbs(args[0]), ts.MkAbs(args[1])).CombinedOutput()
	if err != nil {
		ts.Fatalf("trees differ: %s", out)
	}
}
