package git_test

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"github.com/mayfly-build/mayfly/engine/source/git"
	"github.com/mayfly-build/mayfly/internal/hint"
)

type attrs map[string]string

func newSource(t *testing.T) *git.Source {
	return git.New(git.Config{Dir: t.TempDir(), Env: git.Environ(os.LookupEnv)})
}

// identify makes the identifier LLB has for a repository on the server.
func identify(t *testing.T, url, fragment string, extra attrs) git.Identifier {
	t.Helper()
	a := attrs{pb.AttrFullRemoteURL: url, pb.AttrAuthTokenSecret: "GIT_AUTH_TOKEN", pb.AttrAuthHeaderSecret: "GIT_AUTH_HEADER"}
	maps.Copy(a, extra)
	_, rest, _ := strings.Cut(url, "://")
	if _, host, ok := strings.Cut(rest, "@"); ok {
		rest = host
	}
	if fragment != "" {
		rest += "#" + fragment
	}
	id, err := git.ParseIdentifier("git://"+rest, a)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func checkout(t *testing.T, s *git.Source, id git.Identifier) (git.Pinned, string) {
	t.Helper()
	p, err := s.Resolve(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := s.Checkout(t.Context(), id, p, dir); err != nil {
		t.Fatal(err)
	}
	return p, dir
}

// tree lists a directory: files with their bytes, without .git.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		switch {
		case rel == ".git":
			return fs.SkipDir
		case d.Type()&fs.ModeSymlink != 0:
			out[rel], err = os.Readlink(p)
			return err
		case d.Type().IsRegular():
			b, err := os.ReadFile(p)
			out[rel] = string(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sameTree(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	if got := tree(t, dir); !maps.Equal(got, want) {
		t.Errorf("tree %v, want %v", got, want)
	}
}

func TestRefs(t *testing.T) {
	srv := newServer(t)
	r := srv.repo("acme/app.git")
	one := r.commit(map[string]string{"a": "1", "d/b": "b"})
	r.git("tag", "light")
	r.git("tag", "-a", "-m", "annotated", "ann")
	annTag := r.git("rev-parse", "ann")
	two := r.commit(map[string]string{"a": "2"})
	r.git("branch", "feature/x")
	r.git("tag", "main", one) // a tag with the name of a branch
	v1, v2 := map[string]string{"a": "1", "d/b": "b"}, map[string]string{"a": "2", "d/b": "b"}

	for _, tt := range []struct {
		fragment string
		attrs    attrs
		commit   string
		ref      string
		key      string
		tree     map[string]string
	}{
		{"", nil, two, "refs/heads/main", two, v2},
		{"main", nil, two, "refs/heads/main", two, v2},
		{"refs/heads/main", nil, two, "refs/heads/main", two, v2},
		{"refs/tags/main", nil, one, "refs/tags/main", one, v1},
		{"tags/main", nil, one, "refs/tags/main", one, v1},
		{"heads/main", nil, two, "refs/heads/main", two, v2},
		{"feature/x", nil, two, "refs/heads/feature/x", two, v2},
		{"light", nil, one, "refs/tags/light", one, v1},
		{"ann", nil, annTag, "refs/tags/ann", one, v1},
		{"refs/tags/ann", nil, annTag, "refs/tags/ann", one, v1},
		{one, nil, one, one, one, v1},
		{"light:d", nil, one, "refs/tags/light", one + ":d", map[string]string{"b": "b"}},
		{":/d/", nil, two, "refs/heads/main", two + ":d", map[string]string{"b": "b"}},
		{"light", attrs{pb.AttrGitChecksum: one[:7]}, one, "refs/tags/light", one, v1},
		{"ann", attrs{pb.AttrGitChecksum: one}, annTag, "refs/tags/ann", one, v1},
		{"ann", attrs{pb.AttrGitChecksum: annTag}, annTag, "refs/tags/ann", one, v1},
		{one, attrs{pb.AttrGitChecksum: one}, one, one, one, v1},
		{"light", attrs{pb.AttrGitSkipSubmodules: "true"}, one, "refs/tags/light", one + "(skip-submodules)", v1},
		{"light", attrs{pb.AttrGitMTime: "commit"}, one, "refs/tags/light", one + "(mtime=commit)", v1},
		{"light", attrs{pb.AttrGitMTime: "checkout"}, one, "refs/tags/light", one, v1},
		{"main", attrs{pb.AttrKeepGitDir: "true"}, two, "refs/heads/main", two + ".git#refs/heads/main", v2},
		{"ann", attrs{pb.AttrKeepGitDir: "true"}, annTag, "refs/tags/ann", annTag + ".git#refs/tags/ann", v1},
		{one, attrs{pb.AttrKeepGitDir: "true"}, one, one, one + ".git#" + one, v1},
		{"main", attrs{pb.AttrGitFetchByCommit: "true", pb.AttrGitChecksum: one}, one, "refs/heads/main", one, v1},
		{"", attrs{pb.AttrGitFetchByCommit: "true", pb.AttrGitChecksum: one}, one, one, one, v1},
	} {
		t.Run(strings.ReplaceAll(tt.fragment, "/", "_"), func(t *testing.T) {
			p, dir := checkout(t, newSource(t), identify(t, r.url, tt.fragment, tt.attrs))
			if p.Commit != tt.commit || p.Ref != tt.ref || p.CacheKey != tt.key {
				t.Errorf("Resolve = %+v\nwant commit %s, ref %s, key %s", p, tt.commit, tt.ref, tt.key)
			}
			sameTree(t, dir, tt.tree)
		})
	}
}

func TestRefusals(t *testing.T) {
	srv := newServer(t)
	r := srv.repo("app")
	one := r.commit(map[string]string{"a": "1"})
	r.git("tag", "-a", "-m", "annotated", "ann")
	if err := os.Symlink("d", filepath.Join(r.dir, "link")); err != nil {
		t.Fatal(err)
	}
	r.commit(map[string]string{"d/b": "b"})
	for _, tt := range []struct {
		name, url, fragment string
		attrs               attrs
		want, hint          string
	}{
		{"absent ref", r.url, "nope", nil, "no branch or tag nope", "git ls-remote"},
		{"short commit", r.url, one[:8], nil, "no branch or tag " + one[:8], "all 40 digits"},
		{"absent commit", r.url, strings.Repeat("ab", 20), nil, strings.Repeat("ab", 20), ""},
		{"wrong checksum", r.url, "main", attrs{pb.AttrGitChecksum: "abcdef"}, "not abcdef", ""},
		{"absent repository", srv.URL + "/other", "main", nil, "not found", "check the URL"},
		{"absent subdirectory", r.url, "main:nope", nil, "no directory nope", ""},
		{"subdirectory that is a file", r.url, "main:a", nil, "not a directory", ""},
		{"subdirectory through a link", r.url, "main:link", nil, "not a directory", ""},
		{"unreachable host", "http://no-such-host.invalid/app", "main", nil, "no-such-host.invalid", "name of the host"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSource(t)
			id := identify(t, tt.url, tt.fragment, tt.attrs)
			p, err := s.Resolve(t.Context(), id)
			if err == nil {
				err = s.Checkout(t.Context(), id, p, t.TempDir())
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(hint.Of(err), tt.hint) {
				t.Errorf("error %v, hint %q", err, hint.Of(err))
			}
		})
	}
}

func TestModesAndTimes(t *testing.T) {
	srv := newServer(t)
	r := srv.repo("app")
	if err := os.WriteFile(filepath.Join(r.dir, "run"), nil, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("run", filepath.Join(r.dir, "link")); err != nil {
		t.Fatal(err)
	}
	r.commit(map[string]string{"d/file": "x"})
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	_, dir := checkout(t, newSource(t), identify(t, r.url, "", attrs{pb.AttrGitMTime: "commit"}))
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, mode := range map[string]fs.FileMode{"run": 0o755, "d/file": 0o644, "d": fs.ModeDir | 0o755, "link": fs.ModeSymlink | 0o777} {
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || fi.Mode() != mode || !fi.ModTime().Equal(at) {
			t.Errorf("%s: %v %v, %v", name, fi.Mode(), fi.ModTime(), err)
		}
	}
}

func TestKeepGitDir(t *testing.T) {
	srv := newServer(t)
	r := srv.repo("app")
	one := r.commit(map[string]string{"a": "1"})
	r.git("tag", "light")
	r.git("tag", "-a", "-m", "annotated", "ann")
	two := r.commit(map[string]string{"a": "2"})
	// What buildkitd v0.33.1 leaves, by `git for-each-ref`.
	for _, tt := range []struct {
		fragment, head string
		refs           []string
	}{
		{"", two, []string{"refs/heads/main", "refs/tags/main"}},
		{"main", two, []string{"refs/heads/main", "refs/tags/main"}},
		{"refs/heads/main", two, []string{"refs/heads/main"}},
		{"light", one, []string{"refs/heads/light", "refs/tags/light"}},
		{"ann", one, []string{"refs/tags/ann"}},
		{two, two, nil},
	} {
		t.Run(strings.ReplaceAll(tt.fragment, "/", "_"), func(t *testing.T) {
			_, dir := checkout(t, newSource(t), identify(t, r.url, tt.fragment, attrs{pb.AttrKeepGitDir: "true"}))
			if got := strings.Fields(gitIn(t, dir, "for-each-ref", "--format=%(refname)")); !slices.Equal(got, tt.refs) {
				t.Errorf("refs %q, want %q", got, tt.refs)
			}
			if got := gitIn(t, dir, "rev-parse", "HEAD"); got != tt.head {
				t.Errorf("HEAD %s, want %s", got, tt.head)
			}
			if got := gitIn(t, dir, "status", "--porcelain"); got != "" {
				t.Errorf("status %q", got)
			}
			if got := gitIn(t, dir, "config", "remote.origin.url"); got != r.url {
				t.Errorf("origin %q", got)
			}
			if got := gitIn(t, dir, "log", "--format=%H"); got != tt.head {
				t.Errorf("history %q, want one commit", got)
			}
		})
	}
}

func TestSubmodules(t *testing.T) {
	srv := newServer(t)
	inner := srv.repo("inner")
	inner.commit(map[string]string{"i": "inner"})
	sub := srv.repo("sub")
	sub.commit(map[string]string{"s": "sub"})
	sub.git("submodule", "--quiet", "add", inner.url, "in")
	sub.git("commit", "-q", "-m", "submodule")
	r := srv.repo("app")
	r.commit(map[string]string{"a": "1"})
	r.git("submodule", "--quiet", "add", sub.url, "lib/sub")
	r.git("submodule", "--quiet", "add", sub.url, "abs")
	r.git("config", "-f", ".gitmodules", "submodule.lib/sub.url", "../sub") // relative to where the repository comes from
	r.git("commit", "-q", "-am", "submodules")
	modules := tree(t, r.dir)[".gitmodules"]
	subModules := tree(t, sub.dir)[".gitmodules"]

	_, dir := checkout(t, newSource(t), identify(t, r.url, "", nil))
	want := map[string]string{".gitmodules": modules, "a": "1"}
	for _, p := range []string{"lib/sub/", "abs/"} {
		want[p+"s"], want[p+"in/i"], want[p+".gitmodules"] = "sub", "inner", subModules
	}
	sameTree(t, dir, want)

	_, dir = checkout(t, newSource(t), identify(t, r.url, "", attrs{pb.AttrGitSkipSubmodules: "true"}))
	sameTree(t, dir, map[string]string{".gitmodules": modules, "a": "1"})

	_, dir = checkout(t, newSource(t), identify(t, r.url, ":abs", nil))
	sameTree(t, dir, map[string]string{".gitmodules": subModules, "s": "sub", "in/i": "inner"})

	_, dir = checkout(t, newSource(t), identify(t, r.url, "", attrs{pb.AttrKeepGitDir: "true"}))
	if got := gitIn(t, dir, "submodule", "status", "--recursive"); strings.Contains(got, "-") && strings.HasPrefix(got, "-") {
		t.Errorf("submodules are not initialised: %s", got)
	}
}

// A repository must not bring files of this machine into the tree.
func TestSubmoduleOfThisMachine(t *testing.T) {
	srv := newServer(t)
	other := srv.repo("secret")
	other.commit(map[string]string{"passwd": "x"})
	r := srv.repo("app")
	r.commit(map[string]string{"a": "1"})
	r.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "file://"+other.dir, "sub")
	r.git("commit", "-q", "-m", "submodule")
	s := newSource(t)
	id := identify(t, r.url, "", nil)
	p, err := s.Resolve(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Checkout(t.Context(), id, p, t.TempDir()); err == nil || !strings.Contains(err.Error(), "transport 'file' not allowed") {
		t.Errorf("Checkout = %v", err)
	}
}

func TestSHA256Repository(t *testing.T) {
	srv := newServer(t)
	r := srv.repo("app", "--object-format=sha256")
	one := r.commit(map[string]string{"a": "1"})
	if len(one) != 64 {
		t.Fatalf("commit %s", one)
	}
	s := newSource(t)
	for _, keep := range []string{"", "true"} {
		_, out := checkout(t, s, identify(t, r.url, "main", attrs{pb.AttrKeepGitDir: keep}))
		sameTree(t, out, map[string]string{"a": "1"})
	}
}

func TestCancel(t *testing.T) {
	srv := newServer(t)
	r := srv.repo("app")
	r.commit(map[string]string{"a": "1"})
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("stop")
	cancel(cause)
	start := time.Now()
	if _, err := newSource(t).Resolve(ctx, identify(t, r.url, "", nil)); !errors.Is(err, cause) || time.Since(start) > 4*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func TestGitIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	id := identify(t, "http://127.0.0.1:1/app", "", nil)
	_, err := git.New(git.Config{Dir: t.TempDir(), Env: git.Environ(os.LookupEnv)}).Resolve(t.Context(), id)
	if err == nil || !strings.Contains(hint.Of(err), "install git") {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
}

func TestObjects(t *testing.T) {
	srv := newServer(t)
	r := srv.repo("app")
	one := r.commit(map[string]string{"a": "1"})
	r.git("tag", "-a", "-m", "annotated", "ann")
	s := newSource(t)
	for ref, isTag := range map[string]bool{"main": false, "ann": true, one: false} {
		id := identify(t, r.url, ref, nil)
		p, err := s.Resolve(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		o, err := s.Objects(t.Context(), id, p)
		if err != nil || o.CommitName != one || !strings.Contains(string(o.Commit), "committer a <a@example.com> 1577934245 +0000") {
			t.Errorf("%s: %+v, %v", ref, o, err)
		}
		if (o.Tag != nil) != isTag || isTag && !strings.Contains(string(o.Tag), "object "+one) {
			t.Errorf("%s: tag %q", ref, o.Tag)
		}
	}
}
