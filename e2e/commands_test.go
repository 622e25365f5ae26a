package e2e

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
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

// foldedStep is the line of a step in a log that folds.
var foldedStep = regexp.MustCompile(`(?m)^(::group::|CACHED |DONE [0-9.]+s |ERROR )(\[.*)$`)

// plainSteps reads --progress=plain, or a log that folds as GitHub's do: which
// steps there were, and whether each was cached.
func plainSteps(log string) map[string]bool {
	line := regexp.MustCompile(`(?m)^#(\d+) (\[.*|CACHED)$`)
	names, steps := map[string]string{}, map[string]bool{}
	for _, m := range foldedStep.FindAllStringSubmatch(log, -1) {
		if isStep(m[2]) {
			steps[m[2]] = m[1] == "CACHED "
		}
	}
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

func writeFile(ts *testscript.TestScript, file string, b []byte) {
	ts.Check(os.WriteFile(ts.MkAbs(file), b, 0o644))
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
