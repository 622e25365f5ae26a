package git_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/source/git"
)

// Our keys are among the records of a cache that BuildKit exported.
func TestKeys(t *testing.T) {
	srv := newServer(t)
	r := srv.repo("k")
	r.commit(map[string]string{"a": "1", "d/b": "b"})
	r.git("tag", "light")
	r.git("tag", "-a", "-m", "annotated", "ann")
	r.commit(map[string]string{"a": "2"})
	vectors, err := os.ReadFile("testdata/keys.txt")
	if err != nil {
		t.Fatal(err)
	}
	s := newSource(t)
	for line := range strings.Lines(string(vectors)) {
		f := strings.Fields(line)
		if f[0] == "#" {
			continue
		}
		a := attrs{}
		i := slices.IndexFunc(f, func(s string) bool { return strings.HasPrefix(s, "sha256:") })
		for _, option := range f[1:i] {
			switch option {
			case "keep":
				a[pb.AttrKeepGitDir] = "true"
			case "nosub":
				a[pb.AttrGitSkipSubmodules] = "true"
			case "mtime":
				a[pb.AttrGitMTime] = "commit"
			}
		}
		p, err := s.Resolve(t.Context(), identify(t, r.url, strings.TrimPrefix(f[0], "-"), a))
		if err != nil {
			t.Fatal(err)
		}
		// A record's digest is that of the vertex's digest and its output.
		vertex := digest.FromString("buildkit.source.v0:" + p.CacheKey)
		if got := digest.FromString(vertex.String() + "@0"); !slices.Contains(f[i:], got.String()) {
			t.Errorf("%s: the record of key %q, %s, is not among %q", strings.TrimSpace(line), p.CacheKey, got, f[i:])
		}
	}
}

func TestParseIdentifier(t *testing.T) {
	for _, tt := range []struct {
		id, full string
		remote   string // "" is an error
		ref, dir string
	}{
		{"git://github.com/acme/app.git", "https://github.com/acme/app.git", "https://github.com/acme/app.git", "", ""},
		{"git://github.com/acme/app.git#main:sub/dir", "", "https://github.com/acme/app.git", "main", "sub/dir"},
		{"git://github.com/acme/app#:sub/", "https://github.com/acme/app", "https://github.com/acme/app", "", "sub"},
		{"git://github.com/acme/app.git#v1", "git@github.com:acme/app.git", "git@github.com:acme/app.git", "v1", ""},
		{"git://example.com/srv/app", "git@example.com:/srv/app", "git@example.com:/srv/app", "", ""},
		{"git://example.com:2222/srv/app", "ssh://me@example.com:2222/srv/app", "ssh://me@example.com:2222/srv/app", "", ""},
		{"git://github.com/acme/app", "https://ann:pw@github.com/acme/app", "https://ann:pw@github.com/acme/app", "", ""},
		{"git://github.com/acme/app#:../..", "", "https://github.com/acme/app", "", ""},
		{"git://github.com/acme/app#--upload-pack=x", "", "", "", ""},
		{"git://github.com/acme/app", "https://github.com/evil/app", "", "", ""},
		{"git://github.com/acme/app", "https://evil.com/acme/app", "", "", ""},
		{"git://github.com/acme/app", "file:///etc", "", "", ""},
	} {
		id, err := git.ParseIdentifier(tt.id, attrs{pb.AttrFullRemoteURL: tt.full})
		if tt.remote == "" {
			if err == nil {
				t.Errorf("ParseIdentifier(%q, %q) = %+v", tt.id, tt.full, id)
			} else if strings.Contains(err.Error(), "pw") {
				t.Errorf("error with a password: %v", err)
			}
			continue
		}
		if err != nil || id.Remote != tt.remote || id.Ref != tt.ref || id.Subdir != tt.dir {
			t.Errorf("ParseIdentifier(%q, %q) = %+v, %v", tt.id, tt.full, id, err)
		}
		if strings.Contains(id.Name(), "pw") {
			t.Errorf("Name() = %q", id.Name())
		}
	}
	for _, attr := range []string{pb.AttrGitBundle, pb.AttrGitCheckoutBundle, pb.AttrGitSignatureVerifyPubKey} {
		if _, err := git.ParseIdentifier("git://example.com/app", attrs{attr: "x"}); err == nil || !strings.Contains(err.Error(), attr) {
			t.Errorf("%s: %v", attr, err)
		}
	}
}

func FuzzParseIdentifier(f *testing.F) {
	f.Add("git://github.com/acme/app.git#main:sub", "https://github.com/acme/app.git")
	f.Add("git://example.com/app", "git@example.com:app?x=y#z")
	f.Fuzz(func(t *testing.T, id, full string) {
		got, err := git.ParseIdentifier(id, attrs{pb.AttrFullRemoteURL: full})
		if err == nil && (strings.HasPrefix(got.Remote, "-") || strings.HasPrefix(got.Ref, "-")) {
			t.Errorf("%q, %q: an option for git: %+v", id, full, got)
		}
	})
}
