// Package scope names the cache of a build after what is built and for which
// branch, so that jobs share what they may share and overwrite nothing else.
//
//	ci.Info ──┐
//	          Of ──Refs──▶ Backend.LoadIndex for each of Read, Backend.SaveIndex for Write
//	Build ────┘
//
// In: facts about the job and the build. Out: refs. The names depend on
// nothing else, so that the next job finds what this one wrote.
package scope

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-build/mayfly/ci"
)

// A Build is what is built. Builds that differ in a field have caches apart.
type Build struct {
	Name       string   // what the user calls it; "" means a name made of Dockerfile
	Context    string   // directory within the repository; "" means its root
	Dockerfile string   // path within the repository; "" means Dockerfile
	Target     string   // stage; "" means the last one
	Platforms  []string // "linux/arm64"; their order does not matter
}

// Options say how Of names caches. The zero value is for a store that one
// repository has for itself.
type Options struct {
	Repository bool // several repositories share the store
}

// Refs are the refs of a build's caches, all of which every
// remotecache.Backend takes.
type Refs struct {
	Write string   // of this job alone, and of others for the same branch or pull request
	Read  []string // Write, then the branches it was made from, nearest first; each once
}

// Of returns the refs for a build. A ref is "<scope>.<build>": in
//
//	branch-main.app-linux-amd64-cnkywkrpaimaywpc
//
// the scope is branch-main. Scopes are
//
//	branch-<name>, tag-<name>      names that can stand in a ref as they are
//	branch.<slug>-<hash>, tag.…    others, told apart by 80 bits of SHA-256
//	pr-<number>                    pull requests
//	ref.<slug>-<hash>              refs of other kinds
//	local                          no ref is known: outside of CI
//	pr-<number>-untrusted          jobs that are not ci.Info.Trusted,
//	untrusted.<slug>-<hash>        with and without a number
//
// so that no branch, tag or trusted pull request, whatever its name, has the
// scope of a job that is not trusted. Such a job writes to its own scope and
// nowhere else; no other job reads there.
//
// A pull request reads, after its own cache, that of its head's branch (unless
// it is not trusted), of the branch it is to be merged into, and of the
// default branch.
func Of(info ci.Info, b Build, opts Options) Refs {
	name := Name(info, b, opts)
	own := ownScope(info)
	scopes := []string{own}
	if info.Trusted {
		scopes = append(scopes, branchScope(info.HeadRef))
	}
	scopes = append(scopes, branchScope(info.BaseRef), branchScope(info.DefaultBranch))
	refs := Refs{Write: own + "." + name}
	for _, s := range scopes {
		if ref := s + "." + name; s != "" && !slices.Contains(refs.Read, ref) {
			refs.Read = append(refs.Read, ref)
		}
	}
	return refs
}

// The longest ref is "untrusted." + slug + "-" + hash + "." + name + "-" +
// hash: 10 + 30 + 17 + 1 + 40 + 17 = 115 of 128 characters.
const (
	maxPlain = 40 // characters of a branch's name that is no slug
	maxSlug  = 30 // of one that is
	maxName  = 40 // of a build's name
)

func ownScope(info ci.Info) string {
	pr := ""
	if info.PullRequest > 0 {
		pr = "pr-" + strconv.Itoa(info.PullRequest)
	}
	switch {
	case !info.Trusted && pr != "":
		return pr + "-untrusted"
	case !info.Trusted:
		return "untrusted." + slug(info.Ref, maxSlug) + "-" + hash(info.Ref)
	case info.Branch() != "":
		return branchScope(info.Branch())
	case info.Tag() != "":
		return named("tag", info.Tag())
	case pr != "":
		return pr
	case info.Ref != "":
		return "ref." + slug(info.Ref, maxSlug) + "-" + hash(info.Ref)
	}
	return "local"
}

func branchScope(branch string) string {
	if branch == "" {
		return ""
	}
	return named("branch", branch)
}

// named returns the scope of a branch or tag. What follows kind tells whether
// the name stands there as it is: no name equals the slug and hash of another.
func named(kind, name string) string {
	if isPlain(name) {
		return kind + "-" + name
	}
	return kind + "." + slug(name, maxSlug) + "-" + hash(name)
}

// isPlain reports whether a name can be part of a ref. Capitals cannot: some
// stores take them for small letters.
func isPlain(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return len(name) > 0 && len(name) <= maxPlain
}

// slug returns what can be read of s: small letters, digits and single
// hyphens, at most limit of them; "x" when nothing is left.
func slug(s string, limit int) string {
	var out strings.Builder
	for _, c := range strings.ToLower(s) {
		isWord := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		switch {
		case isWord:
			out.WriteRune(c)
		case out.Len() > 0 && !strings.HasSuffix(out.String(), "-"):
			out.WriteByte('-')
		}
	}
	text := out.String()
	text = strings.Trim(text[:min(len(text), limit)], "-")
	if text == "" {
		return "x"
	}
	return text
}

// hash returns 80 bits that nobody finds a second name for, as 16 small
// letters and digits.
func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10]))
}

// Name returns the part of a ref that is about the build, for stores that keep
// branches apart by themselves. It has no '.'.
func Name(info ci.Info, b Build, opts Options) string {
	dockerfile := path.Clean("/" + b.Dockerfile)[1:]
	if dockerfile == "" {
		dockerfile = "Dockerfile"
	}
	platforms := slices.Clone(b.Platforms)
	slices.Sort(platforms)
	platforms = slices.Compact(platforms)
	key := struct {
		Server, Repository, Name, Context, Dockerfile, Target string
		Platforms                                             []string
	}{
		Name: b.Name, Context: path.Clean("/" + b.Context)[1:], Dockerfile: dockerfile, Target: b.Target, Platforms: platforms,
	}
	words := append([]string{b.word(dockerfile), b.Target}, platforms...)
	if opts.Repository {
		key.Server, key.Repository = strings.ToLower(info.ServerURL), strings.ToLower(info.Repository)
		words = append([]string{path.Base(info.Repository)}, words...)
	}
	// Only strings: it cannot fail. Bytes that are no UTF-8 all become one
	// character, which no name that matters has.
	data, _ := json.Marshal(key)
	return slug(strings.Join(words, "-"), maxName) + "-" + hash(string(data))
}

// word returns a word for what is built: of app/Dockerfile app, of
// Dockerfile.web web, of Dockerfile itself dockerfile.
func (b Build) word(dockerfile string) string {
	if b.Name != "" {
		return b.Name
	}
	dir, file := path.Split(dockerfile)
	lower := strings.ToLower(file)
	for _, cut := range []string{strings.TrimPrefix(lower, "dockerfile."), strings.TrimSuffix(lower, ".dockerfile")} {
		if cut != lower {
			return cut
		}
	}
	switch {
	case dir != "":
		return path.Base(dir)
	case path.Clean("/"+b.Context) != "/":
		return path.Base(path.Clean("/" + b.Context))
	}
	return file
}
