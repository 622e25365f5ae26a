package git_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/mayfly-build/mayfly/engine/source/git"
)

// A second build asks for nothing it has.
func TestStoreIsUsedAgain(t *testing.T) {
	srv := newServer(t)
	r := srv.repo("app")
	one := r.commit(map[string]string{"a": "1"})
	dir := t.TempDir()
	for i := range 2 {
		s := git.New(git.Config{Dir: dir, Env: git.Environ(os.LookupEnv)})
		srv.taken()
		_, out := checkout(t, s, identify(t, r.url, one, nil))
		sameTree(t, out, map[string]string{"a": "1"})
		if asked := srv.taken(); i == 1 && len(asked) != 0 {
			t.Errorf("the second checkout of a commit asked %q", asked)
		}
	}
	// The branch moves on, and away.
	s := git.New(git.Config{Dir: dir, Env: git.Environ(os.LookupEnv)})
	id := identify(t, r.url, "main", nil)
	pinned, err := s.Resolve(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	two := r.commit(map[string]string{"a": "2"})
	_, out := checkout(t, s, id)
	sameTree(t, out, map[string]string{"a": "2"})
	r.git("reset", "-q", "--hard", one)
	r.git("branch", "-m", "main", "main/sub") // a directory where a file was
	_, out = checkout(t, s, identify(t, r.url, "main/sub", nil))
	sameTree(t, out, map[string]string{"a": "1"})
	// A pin is good although its ref is gone.
	out = t.TempDir()
	if err := s.Checkout(t.Context(), id, pinned, out); err != nil {
		t.Fatal(err)
	}
	sameTree(t, out, map[string]string{"a": "1"})
	_ = two
}

// The ref moves between Resolve and Checkout: what was resolved is what counts.
func TestRefMovesAfterResolve(t *testing.T) {
	srv := newServer(t)
	r := srv.repo("app")
	r.commit(map[string]string{"a": "1"})
	s := newSource(t)
	id := identify(t, r.url, "main", nil)
	p, err := s.Resolve(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	r.commit(map[string]string{"a": "2"})
	out := t.TempDir()
	if err := s.Checkout(t.Context(), id, p, out); err != nil {
		t.Fatal(err)
	}
	sameTree(t, out, map[string]string{"a": "1"})
}

// A server that gives only what its refs point to.
func TestServerWithoutWantedCommits(t *testing.T) {
	srv := newServer(t)
	r := srv.repo("app")
	r.git("config", "uploadpack.allowAnySHA1InWant", "false")
	r.git("config", "protocol.version", "0")
	one := r.commit(map[string]string{"a": "1"})
	r.commit(map[string]string{"a": "2"})
	s := git.New(git.Config{Dir: t.TempDir(), Env: []string{"PATH=" + os.Getenv("PATH")}})
	_, out := checkout(t, s, identify(t, r.url, one, nil))
	sameTree(t, out, map[string]string{"a": "1"})
}

func TestManyAtOnce(t *testing.T) {
	srv := newServer(t)
	r := srv.repo("app")
	var commits []string
	for _, text := range []string{"1", "2", "3"} {
		commits = append(commits, r.commit(map[string]string{"a": text}))
	}
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 6 {
		s := git.New(git.Config{Dir: dir, Env: git.Environ(os.LookupEnv)}) // as from another process
		wg.Go(func() {
			_, out := checkout(t, s, identify(t, r.url, commits[i%3], nil))
			sameTree(t, out, map[string]string{"a": []string{"1", "2", "3"}[i%3]})
		})
	}
	wg.Wait()
}

// Whatever a crash left of the store, the next build is right.
func TestBrokenStore(t *testing.T) {
	srv := newServer(t)
	r := srv.repo("app")
	one := r.commit(map[string]string{"a": "1"})
	for name, damage := range map[string]func(store string) error{
		"lock files": func(store string) error {
			return errors.Join(os.WriteFile(filepath.Join(store, "shallow.lock"), nil, 0o600),
				os.WriteFile(filepath.Join(store, "refs/mayfly", one+".lock"), nil, 0o600))
		},
		"truncated objects": func(store string) error {
			return filepath.WalkDir(filepath.Join(store, "objects"), func(p string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					os.Chmod(p, 0o600)
					err = os.Truncate(p, 0)
				}
				return err
			})
		},
		"no HEAD": func(store string) error { return os.Remove(filepath.Join(store, "HEAD")) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			checkout(t, git.New(git.Config{Dir: dir, Env: git.Environ(os.LookupEnv)}), identify(t, r.url, one, nil))
			stores, err := filepath.Glob(filepath.Join(dir, "*", "objects"))
			if err != nil || len(stores) != 1 {
				t.Fatalf("stores %q, %v", stores, err)
			}
			if err := damage(filepath.Dir(stores[0])); err != nil {
				t.Fatal(err)
			}
			_, out := checkout(t, git.New(git.Config{Dir: dir, Env: git.Environ(os.LookupEnv)}), identify(t, r.url, one, nil))
			sameTree(t, out, map[string]string{"a": "1"})
		})
	}
}
