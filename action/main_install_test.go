package action

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A site serves releases and counts what is asked for.
type site struct {
	url string

	mu    sync.Mutex
	asked []string
	broke int // answers with 503 to give
	files map[string][]byte
}

func newSite(t *testing.T, r *runner) *site {
	s := &site{files: map[string][]byte{}}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked = append(s.asked, q.URL.Path)
		data, ok := s.files[q.URL.Path]
		switch {
		case s.broke > 0:
			s.broke--
			http.Error(w, "later", http.StatusServiceUnavailable)
		case q.URL.Path == "/releases/latest":
			http.Redirect(w, q, "/releases/tag/v1.2.3", http.StatusFound)
		case strings.HasPrefix(q.URL.Path, "/releases/download/"):
			http.Redirect(w, q, strings.Replace(q.URL.Path, "/releases/download", "/objects", 1)+"?sig=s3cret", http.StatusFound)
		case !ok:
			http.NotFound(w, q)
		default:
			_, _ = w.Write(data)
		}
	}))
	t.Cleanup(h.Close)
	s.url = h.URL
	r.env["MAYFLY_DOWNLOAD_URL"] = h.URL + "/releases/"
	return s
}

// release puts a binary on the site.
func (s *site) release(version string, binary []byte) {
	sum := sha256.Sum256(binary)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, arch := range []string{"amd64", "arm64"} {
		s.files["/objects/"+version+"/mayfly-linux-"+arch] = binary
	}
	line := hex.EncodeToString(sum[:])
	s.files["/objects/"+version+"/SHA256SUMS"] = []byte("00  other\n" + line + "  mayfly-linux-amd64\n" + line + " *mayfly-linux-arm64\n")
}

// set changes the site between requests.
func (s *site) set(change func(*site)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *site) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

// TestInstall: a release is fetched once, checked, and kept for later jobs.
func TestInstall(t *testing.T) {
	r := newRunner(t, nobody, map[string]string{"sudo": sudoThatWorks})
	s := newSite(t, r)
	s.release("v1.2.3", r.fake(""))
	s.release("v2.0.0", r.fake("two"))
	for _, tt := range []struct {
		name, ref, version string
		requests           int // with redirects
	}{
		{"the action's own release", "v1.2.3", "", 4},
		{"from the tool cache", "v1.2.3", "", 0},
		{"latest, from there", "v1", "", 1},
		{"latest by name", "main", "latest", 1},
		{"another one", "v1.2.3", "2.0.0", 4},
		{"from there", "v1.2.3", "v2.0.0", 0},
	} {
		r.env["GITHUB_ACTION_REF"], r.env["INPUT_VERSION"] = tt.ref, tt.version
		status, out := r.run()
		asked := s.requests()
		if status != 7 || len(asked) != tt.requests {
			t.Errorf("%s: exit status %d after %q\n%s", tt.name, status, asked, out)
		}
	}
	kept, err := filepath.Glob(r.path("tools/mayfly/*/*/*"))
	if err != nil || len(kept) != 4 {
		t.Errorf("kept %q, %v", kept, err)
	}

	// What was damaged since is fetched again.
	for _, path := range kept {
		if strings.Contains(path, "v1.2.3") && !strings.HasSuffix(path, ".sha256") {
			r.write(strings.TrimPrefix(path, r.dir), []byte("#!/bin/sh\nexit 55\n"), 0o755)
		}
	}
	r.env["INPUT_VERSION"] = "v1.2.3"
	if status, out := r.run(); status != 7 || len(s.requests()) != 4 {
		t.Errorf("exit status %d after damage:\n%s", status, out)
	}
}

// TestInstallRefuses: no binary is run that is not what the release says.
func TestInstallRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(s *site)
		want   string
	}{
		"other bytes": {func(s *site) {
			for path := range s.files {
				if !strings.HasSuffix(path, "SHA256SUMS") {
					s.files[path] = append(s.files[path], "\necho more"...)
				}
			}
		}, "it is not run"},
		"no line": {func(s *site) { s.files["/objects/v1.2.3/SHA256SUMS"] = []byte("00  x\n") }, "has no line"},
		"no sums": {func(s *site) { delete(s.files, "/objects/v1.2.3/SHA256SUMS") }, "status 404"},
		"nothing": {func(s *site) { clear(s.files) }, "MAYFLY_BINARY"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			r := newRunner(t, nobody, map[string]string{"sudo": sudoThatWorks})
			s := newSite(t, r)
			s.release("v1.2.3", r.fake(""))
			s.set(tt.change)
			status, out := r.run()
			if status != 1 || !strings.Contains(out, "::error::mayfly v1.2.3 cannot be installed") || !strings.Contains(out, tt.want) || strings.Contains(out, "s3cret") {
				t.Errorf("exit status %d, and\n%s", status, out)
			}
			if kept, err := filepath.Glob(r.path("tools/mayfly/*/*/*")); err != nil || len(kept) > 0 || r.reported() != nil {
				t.Errorf("kept %q, %v; ran: %v", kept, err, r.reported())
			}
		})
	}
}

// TestInstallRetries: a server that is out for a moment.
func TestInstallRetries(t *testing.T) {
	r := newRunner(t, nobody, map[string]string{"sudo": sudoThatWorks})
	s := newSite(t, r)
	s.release("v1.2.3", r.fake(""))
	s.set(func(s *site) { s.broke = 1 })
	if err := os.Chmod(r.path("tools"), 0o555); err != nil { // a runner that keeps no tools
		t.Fatal(err)
	}
	if status, out := r.run(); status != 7 {
		t.Errorf("exit status %d, and\n%s", status, out)
	}
	s.set(func(s *site) { s.broke = 1 })
	r.env["INPUT_VERSION"] = "latest"
	if status, out := r.run(); status != 7 {
		t.Errorf("exit status %d, and\n%s", status, out)
	}
}

// TestGivenBinary: the input version may be a path.
func TestGivenBinary(t *testing.T) {
	r := newRunner(t, nobody, map[string]string{"sudo": sudoThatWorks})
	r.env["INPUT_VERSION"] = r.binary
	if status, out := r.run(); status != 7 {
		t.Errorf("exit status %d, and\n%s", status, out)
	}
	r.env["INPUT_VERSION"] = r.path("none")
	if status, out := r.run(); status != 1 || !strings.Contains(out, "cannot be run") {
		t.Errorf("exit status %d, and\n%s", status, out)
	}
}

// TestSetup: the binary is found by its name in the steps that follow.
func TestSetup(t *testing.T) {
	r := newRunner(t, nobody, nil)
	s := newSite(t, r)
	s.release("v1.2.3", []byte("#!/bin/sh\necho mayfly v1.2.3\n"))
	r.main = "setup/main.js"
	for _, file := range []string{"path", "output"} {
		r.write(file, nil, 0o666)
	}
	r.env["GITHUB_PATH"], r.env["GITHUB_OUTPUT"] = r.path("path"), r.path("output")
	if status, out := r.run(); status != 0 || !strings.HasPrefix(out, "mayfly v1.2.3 (") {
		t.Fatalf("exit status %d, and\n%s", status, out)
	}
	dir, err := os.ReadFile(r.path("path"))
	if err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command(filepath.Join(strings.TrimSpace(string(dir)), "mayfly")).CombinedOutput()
	if string(said) != "mayfly v1.2.3\n" || err != nil {
		t.Errorf("%s, %v", said, err)
	}
	if output, err := os.ReadFile(r.path("output")); string(output) != "version=v1.2.3\n" {
		t.Errorf("output %q, %v", output, err)
	}
	r.env["INPUT_VERSION"] = "/bin/false"
	if status, out := r.run(); status != 1 || !strings.Contains(out, "::error::/bin/false does not run: exit status 1") {
		t.Errorf("exit status %d, and\n%s", status, out)
	}
}

// TestInstallCommit: a step that pins the action by a commit gets the binary of
// the release that was made of it.
func TestInstallCommit(t *testing.T) {
	released, annotated, other := strings.Repeat("ab", 20), strings.Repeat("cd", 20), strings.Repeat("ef", 20)
	refs := ""
	for _, line := range []string{
		other + " HEAD\x00multi_ack side-band-64k", other + " refs/heads/v7.0.0", released + " refs/tags/v1", released + " refs/tags/v1.2.3",
		strings.Repeat("12", 20) + " refs/tags/v2.0.0-rc.1", annotated + " refs/tags/v2.0.0-rc.1^{}", other + " refs/tags/nightly",
	} {
		refs += fmt.Sprintf("%04x%s\n", len(line)+5, line)
	}
	for _, tt := range []struct {
		name, commit, refs, version, says string
	}{
		{"a release", released, refs, "v1.2.3", ""},
		{"an annotated tag", annotated, refs, "v2.0.0-rc.1", ""},
		{"between releases", other, refs, "v9.0.0", "::notice::no release of mayfly was made of the commit " + other},
		{"no answer", released, "", "", "::error::which release the commit " + released + " is cannot be looked up"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			r := newRunner(t, nobody, map[string]string{"sudo": sudoThatWorks})
			binary := r.fake("")
			sum := sha256.Sum256(binary)
			var asked string
			mux := http.NewServeMux()
			mux.HandleFunc("GET /acme/mayfly.git/info/refs", func(w http.ResponseWriter, q *http.Request) {
				if tt.refs == "" || q.FormValue("service") != "git-upload-pack" {
					http.NotFound(w, q)
					return
				}
				_, _ = io.WriteString(w, "001e# service=git-upload-pack\n0000"+tt.refs+"0000")
			})
			mux.Handle("GET /acme/mayfly/releases/latest", http.RedirectHandler("/acme/mayfly/releases/tag/v9.0.0", http.StatusFound))
			mux.HandleFunc("GET /acme/mayfly/releases/download/{version}/{file}", func(w http.ResponseWriter, q *http.Request) {
				if q.PathValue("file") == "SHA256SUMS" {
					fmt.Fprintf(w, "%x  mayfly-linux-amd64\n%x  mayfly-linux-arm64\n", sum, sum)
					return
				}
				asked = q.PathValue("version")
				_, _ = w.Write(binary)
			})
			h := httptest.NewServer(mux)
			defer h.Close()
			r.env["GITHUB_SERVER_URL"], r.env["GITHUB_ACTION_REPOSITORY"], r.env["GITHUB_ACTION_REF"] = h.URL, "acme/mayfly", tt.commit
			r.write("offline.js", []byte("require('node:https').get = () => { throw Object.assign(new Error('offline'), { final: true }); };\n"), 0o644)
			r.env["NODE_OPTIONS"] = "--require " + r.path("offline.js")
			status, out := r.run()
			if asked != tt.version || (status == 7) != (tt.version != "") || !strings.Contains(out, tt.says) {
				t.Errorf("exit status %d with %q, and\n%s", status, asked, out)
			}
		})
	}
}
