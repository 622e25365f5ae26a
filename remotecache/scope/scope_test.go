package scope_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/ci"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/scope"
)

var app = scope.Build{Name: "app", Platforms: []string{"linux/amd64"}}

// scopes returns the refs of a job without the part about the build.
func scopes(t *testing.T, info ci.Info) (write string, read []string) {
	t.Helper()
	refs := scope.Of(info, app, scope.Options{})
	const build = ".app-linux-amd64-cnkywkrpaimaywpc"
	for _, ref := range append([]string{refs.Write}, refs.Read...) {
		if err := remotecache.CheckRef(ref); err != nil {
			t.Error(err)
		}
		s, ok := strings.CutSuffix(ref, build)
		if !ok {
			t.Errorf("%s does not end with %s: all users' caches move", ref, build)
		}
		read = append(read, s)
	}
	return read[0], read[1:]
}

func TestScopes(t *testing.T) {
	for _, tt := range []struct {
		name string
		info ci.Info
		want string // the refs read, the first of which is written to
	}{
		{"outside of CI", ci.Info{Trusted: true}, "local"},
		{"default branch", ci.Info{Ref: "refs/heads/main", DefaultBranch: "main", Trusted: true}, "branch-main"},
		{"branch", ci.Info{Ref: "refs/heads/fast_2.x", DefaultBranch: "main", Trusted: true}, "branch-fast_2.x branch-main"},
		{"branch of an unknown repository", ci.Info{Ref: "refs/heads/fast", Trusted: true}, "branch-fast"},
		{"slash", ci.Info{Ref: "refs/heads/feature/Fast", DefaultBranch: "main", Trusted: true}, "branch.feature-fast-c7jeamay6fesuqkv branch-main"},
		{"tag", ci.Info{Ref: "refs/tags/v1.2.3", DefaultBranch: "main", Trusted: true}, "tag-v1.2.3 branch-main"},
		{"pull request", ci.Info{Ref: "refs/pull/7/merge", PullRequest: 7, HeadRef: "fast", BaseRef: "release", DefaultBranch: "main", Trusted: true},
			"pr-7 branch-fast branch-release branch-main"},
		{"pull request to main", ci.Info{Ref: "refs/pull/7/merge", PullRequest: 7, HeadRef: "fast", BaseRef: "main", DefaultBranch: "main", Trusted: true},
			"pr-7 branch-fast branch-main"},
		{"branch that has a pull request", ci.Info{Ref: "refs/heads/fast", PullRequest: 7, HeadRef: "fast", BaseRef: "main", Trusted: true}, "branch-fast branch-main"},
		{"merge request", ci.Info{Ref: "refs/merge-requests/7/head", PullRequest: 7, BaseRef: "main", Trusted: true}, "pr-7 branch-main"},
		{"fork", ci.Info{Ref: "refs/pull/7/merge", PullRequest: 7, HeadRef: "release", BaseRef: "main", DefaultBranch: "main"}, "pr-7-untrusted branch-main"},
		{"pull_request_target", ci.Info{Ref: "refs/heads/main", PullRequest: 7, HeadRef: "x", BaseRef: "main", DefaultBranch: "main"}, "pr-7-untrusted branch-main"},
		{"a stranger's comment", ci.Info{Ref: "refs/heads/main", DefaultBranch: "main"}, "untrusted.refs-heads-main-7eq32bpgrmbxidcf branch-main"},
		{"change of Gerrit", ci.Info{Ref: "refs/changes/21/4321/1", BaseRef: "main", Trusted: true}, "ref.refs-changes-21-4321-1-xa52x2mqkebmspkl branch-main"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			write, read := scopes(t, tt.info)
			if got := strings.Join(read, " "); got != tt.want {
				t.Errorf("read %s, want %s", got, tt.want)
			}
			if write != read[0] {
				t.Errorf("written to is %s", write)
			}
		})
	}
}

// names are such that a careless scheme takes one for another, or for the
// scope of a pull request.
func names() []string {
	out := []string{
		"main", "Main", "MAIN", "ma/in", "ma-in", "ma--in", "ma.in", "ma_in", "-main", "main-", ".main", "main.", "x", "/", "ä", "ö", "日本", "",
		"pr-7", "pr-7-untrusted", "PR-7", "pr/7", "pr.7", "untrusted", "untrusted.x", "local", "tag-v1", "branch-main", "branch.main", "../../main",
		"refs/heads/main", "main.app-linux-amd64", "pr-7-untrusted.app-linux-amd64-cnkywkrpaimaywpc",
		strings.Repeat("a", 40), strings.Repeat("a", 41), strings.Repeat("a", 42), strings.Repeat("ä", 300), "a b", "a\x00b", "a\xffb", "a\xfeb",
	}
	// The scope of another name, as a name.
	for _, n := range slices.Clone(out) {
		refs := scope.Of(ci.Info{Ref: "refs/heads/" + n, Trusted: true}, app, scope.Options{})
		at := strings.LastIndex(refs.Write, ".")
		out = append(out, refs.Write, refs.Write[:at], strings.TrimPrefix(refs.Write[:at], "branch."), strings.TrimPrefix(refs.Write[:at], "branch-"))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestNamesAreApart: no two branches, tags or pull requests have the same
// scope, however they are called.
func TestNamesAreApart(t *testing.T) {
	jobs := map[string]ci.Info{}
	for _, n := range names() {
		if n != "" {
			jobs["branch "+n] = ci.Info{Ref: "refs/heads/" + n, Trusted: true}
			jobs["tag "+n] = ci.Info{Ref: "refs/tags/" + n, Trusted: true}
		}
		jobs["other "+n] = ci.Info{Ref: "refs/other/" + n, Trusted: true}
		jobs["untrusted "+n] = ci.Info{Ref: "refs/heads/" + n}
	}
	for _, n := range []int{1, 7, 71, 1<<31 - 1} {
		jobs[fmt.Sprint("pr ", n)] = ci.Info{Ref: fmt.Sprintf("refs/pull/%d/merge", n), PullRequest: n, Trusted: true}
		jobs[fmt.Sprint("fork ", n)] = ci.Info{Ref: fmt.Sprintf("refs/pull/%d/merge", n), PullRequest: n}
	}
	seen := map[string]string{}
	for what, info := range jobs {
		refs := scope.Of(info, app, scope.Options{})
		if err := remotecache.CheckRef(refs.Write); err != nil {
			t.Errorf("%q: %v", what, err)
		}
		low := strings.ToLower(refs.Write) // some stores take capitals for small letters
		if other, ok := seen[low]; ok {
			t.Errorf("%q and %q both write to %s", what, other, refs.Write)
		}
		seen[low] = what
	}
}

// FuzzUntrusted: whatever a stranger calls branches, his jobs write where no
// trusted job reads or writes.
func FuzzUntrusted(f *testing.F) {
	for _, n := range names() {
		f.Add("refs/heads/"+n, n, "main", 7, "refs/heads/main", "main", 0)
		f.Add("refs/pull/7/merge", n, n, 0, "refs/heads/"+n, n, 7)
		f.Add(n, n, n, -7, n, n, 7)
	}
	f.Fuzz(func(t *testing.T, ref, head, base string, pr int, trustedRef, trustedBranch string, trustedPR int) {
		stranger := scope.Of(ci.Info{Ref: ref, HeadRef: head, BaseRef: base, DefaultBranch: base, PullRequest: pr}, app, scope.Options{})
		trusted := scope.Of(ci.Info{
			Ref: trustedRef, HeadRef: trustedBranch, BaseRef: head, DefaultBranch: base, PullRequest: trustedPR, Trusted: true,
		}, app, scope.Options{})
		if slices.Contains(trusted.Read, stranger.Write) || trusted.Write == stranger.Write {
			t.Errorf("both use %s", stranger.Write)
		}
		for _, refs := range []scope.Refs{stranger, trusted} {
			if len(refs.Read) == 0 || refs.Read[0] != refs.Write {
				t.Errorf("%+v", refs)
			}
			for i, r := range refs.Read {
				if err := remotecache.CheckRef(r); err != nil {
					t.Error(err)
				}
				if slices.Contains(refs.Read[:i], r) {
					t.Errorf("%s is read twice", r)
				}
			}
		}
	})
}

func TestBuilds(t *testing.T) {
	main := ci.Info{ServerURL: "https://github.com", Repository: "acme/shop", Ref: "refs/heads/main", Trusted: true}
	seen := map[string]string{}
	for _, tt := range []struct {
		build scope.Build
		opts  scope.Options
		want  string // without the hash
	}{
		{scope.Build{}, scope.Options{}, "dockerfile"},
		{scope.Build{Platforms: []string{"linux/arm64"}}, scope.Options{}, "dockerfile-linux-arm64"},
		{scope.Build{Platforms: []string{"linux/arm64", "linux/amd64"}}, scope.Options{}, "dockerfile-linux-amd64-linux-arm64"},
		{scope.Build{Target: "test", Platforms: []string{"linux/amd64"}}, scope.Options{}, "dockerfile-test-linux-amd64"},
		{scope.Build{Dockerfile: "services/api/Dockerfile"}, scope.Options{}, "api"},
		{scope.Build{Context: "services/api"}, scope.Options{}, "api"},
		{scope.Build{Dockerfile: "Dockerfile.web"}, scope.Options{}, "web"},
		{scope.Build{Dockerfile: "docker/web.Dockerfile"}, scope.Options{}, "web"},
		{scope.Build{Dockerfile: "services/Api/Containerfile"}, scope.Options{}, "api"},
		{scope.Build{Name: "web"}, scope.Options{}, "web"},
		{scope.Build{Name: "web", Target: "a"}, scope.Options{}, "web-a"},
		{scope.Build{Name: "web-a"}, scope.Options{}, "web-a"},
		{scope.Build{Name: "web"}, scope.Options{Repository: true}, "shop-web"},
		{scope.Build{Name: strings.Repeat("long.", 30), Target: "x"}, scope.Options{}, "long-long-long-long-long-long-long-long"},
	} {
		refs := scope.Of(main, tt.build, tt.opts)
		_, got, _ := strings.Cut(refs.Write, ".")
		if len(got) < 17 || got[:len(got)-17] != tt.want {
			t.Errorf("%+v: %s, want %s-<hash>", tt.build, got, tt.want)
		}
		if other, ok := seen[refs.Write]; ok {
			t.Errorf("%+v has the ref of %s", tt.build, other)
		}
		seen[refs.Write] = fmt.Sprintf("%+v", tt.build)
		if err := remotecache.CheckRef(refs.Write); err != nil {
			t.Error(err)
		}
	}
	same := func(a, b scope.Build) {
		t.Helper()
		if x, y := scope.Of(main, a, scope.Options{}), scope.Of(main, b, scope.Options{}); x.Write != y.Write {
			t.Errorf("%+v: %s, %+v: %s", a, x.Write, b, y.Write)
		}
	}
	same(scope.Build{}, scope.Build{Dockerfile: "./Dockerfile", Context: "."})
	same(scope.Build{Platforms: []string{"linux/amd64", "linux/arm64"}}, scope.Build{Platforms: []string{"linux/arm64", "linux/amd64", "linux/arm64"}})

	other := main
	other.Repository = "eve/shop"
	if a, b := scope.Of(main, app, scope.Options{Repository: true}), scope.Of(other, app, scope.Options{Repository: true}); a.Write == b.Write {
		t.Errorf("two repositories share %s", a.Write)
	}
}

func ExampleOf() {
	refs := scope.Of(
		ci.Info{Ref: "refs/pull/7/merge", PullRequest: 7, BaseRef: "release/1.x", DefaultBranch: "main"},
		scope.Build{Dockerfile: "app/Dockerfile", Platforms: []string{"linux/amd64"}},
		scope.Options{})
	for _, r := range refs.Read {
		fmt.Println(r)
	}
	// Output:
	// pr-7-untrusted.app-linux-amd64-vsbqxsqynavk2xde
	// branch.release-1-x-qhfkn2mhnnkyqzj4.app-linux-amd64-vsbqxsqynavk2xde
	// branch-main.app-linux-amd64-vsbqxsqynavk2xde
}
