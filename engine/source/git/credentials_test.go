package git_test

import (
	"cmp"
	"context"
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/solver/pb"

	"github.com/mayfly-build/mayfly/engine/secret"
	"github.com/mayfly-build/mayfly/engine/source/git"
	"github.com/mayfly-build/mayfly/internal/hint"
)

func TestCredentials(t *testing.T) {
	srv := newServer(t)
	r := srv.repo("app")
	sub := srv.repo("app/sub") // below the repository, so that the credential is good for it
	sub.commit(map[string]string{"s": "sub"})
	r.commit(map[string]string{"a": "1"})
	const token = "t0ken-of-ann"
	host := strings.TrimPrefix(srv.URL, "http://")
	basic := "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+token))
	for _, tt := range []struct {
		name    string
		url     string
		secrets map[string]string
		want    string // header; "" is a refusal
	}{
		{"token", r.url, map[string]string{"GIT_AUTH_TOKEN": token}, basic},
		{"token of the host", r.url, map[string]string{"GIT_AUTH_TOKEN." + host: token, "GIT_AUTH_TOKEN": "other-token-x"}, basic},
		{"header", r.url, map[string]string{"GIT_AUTH_HEADER": "Bearer " + token}, "Bearer " + token},
		{"header of the host", r.url, map[string]string{"GIT_AUTH_HEADER." + host: "Bearer " + token, "GIT_AUTH_TOKEN." + host: "other-token-x"}, "Bearer " + token},
		{"in the URL", strings.Replace(r.url, "http://", "http://x-access-token:"+token+"@", 1), nil, basic},
		{"none", r.url, nil, ""},
		{"wrong", r.url, map[string]string{"GIT_AUTH_TOKEN": "wr0ng-token-x"}, ""},
		{"wrong in the URL", strings.Replace(r.url, "http://", "http://ann:wr0ng-token-x@", 1), nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv.want(cmp.Or(tt.want, basic))
			dir := t.TempDir()
			s := git.New(git.Config{Dir: dir, Env: git.Environ(os.LookupEnv), Secret: func(_ context.Context, id string) ([]byte, error) {
				v, ok := tt.secrets[id]
				if !ok {
					return nil, secret.ErrNotFound
				}
				return []byte(v), nil
			}})
			watch := watchArguments(t, token)
			id := identify(t, tt.url, "", attrs{pb.AttrKeepGitDir: "true"})
			p, err := s.Resolve(t.Context(), id)
			if tt.want == "" {
				if err == nil || strings.Contains(err.Error(), "wr0ng") || !strings.Contains(hint.Of(err), "GIT_AUTH_TOKEN") {
					t.Errorf("Resolve = %v, hint %q", err, hint.Of(err))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			out := t.TempDir()
			if err := s.Checkout(t.Context(), id, p, out); err != nil {
				t.Fatal(err)
			}
			if found := watch(); found != "" {
				t.Errorf("the token is among the arguments of a process: %s", found)
			}
			for _, d := range []string{dir, out} {
				noFileWith(t, d, token)
				noFileWith(t, d, strings.TrimPrefix(basic, "basic "))
			}
			sameTree(t, out, map[string]string{"a": "1"})
		})
	}
}

// watchArguments looks at the arguments of all processes until the function it
// returns is called, which gives the first that contained s.
func watchArguments(t *testing.T, s string) func() string {
	done, found := make(chan struct{}), make(chan string, 1)
	go func() {
		defer close(found)
		for {
			select {
			case <-done:
				return
			default:
			}
			files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, f := range files {
				if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), s) {
					found <- strings.ReplaceAll(string(b), "\x00", " ")
					return
				}
			}
		}
	}()
	return sync.OnceValue(func() string {
		close(done)
		return <-found
	})
}

func noFileWith(t *testing.T, dir, s string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		if strings.Contains(string(b), s) {
			t.Errorf("%s holds the token", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
