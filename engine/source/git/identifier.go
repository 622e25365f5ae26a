// Package git fetches trees out of git repositories.
//
//	op/source ──Identifier──▶ git ──Pinned──▶ op (cache key)
//	                           └──Checkout──▶ a directory, made a layer by op
//
// In: a git source as LLB has it. Out: first the commit it names now, then the
// commit's tree. The work is git's own, the program found on PATH; what it
// fetched is kept in one bare repository for each remote, shared by all
// processes under a lock. Keys and trees are BuildKit v0.33's.
package git

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// An Identifier says what is wanted of which repository.
type Identifier struct {
	Remote   string // URL for git, with the credentials it was given with
	Ref      string // branch, tag, full ref or commit; "" is the default branch
	Checksum string // hex prefix the commit must have; "" means any
	Subdir   string // directory of the tree that is wanted; "" is all

	KeepGitDir     bool
	SkipSubmodules bool
	FetchByCommit  bool // ask the remote for Checksum alone, never for Ref
	CommitMTime    bool // files have the commit's time, not the checkout's

	TokenSecret  string // id of a secret with a token for HTTP; "" means none
	HeaderSecret string // id of a secret with the value of the Authorization header
	SSHAgent     string // id of the agent to use; "" means none
	KnownHosts   string // contents of a known_hosts file; "" trusts any host

	mtime string // as given; part of the key
}

// ParseIdentifier reads a git source: identifier is "git://host/path#ref:dir",
// attrs are those of LLB. What this package cannot honour is an error, never
// left out in silence.
func ParseIdentifier(identifier string, attrs map[string]string) (Identifier, error) {
	id, err := parseIdentifier(strings.TrimPrefix(identifier, "git://"), attrs)
	if err != nil {
		return id, fmt.Errorf("git source %s: %w", redactURL(identifier), err)
	}
	return id, nil
}

func parseIdentifier(raw string, attrs map[string]string) (Identifier, error) {
	u, err := parseRemote(withTransport(raw))
	if err != nil {
		return Identifier{}, err
	}
	id := Identifier{Remote: u.String(), Ref: u.ref, Subdir: u.subdir}
	if full := attrs[pb.AttrFullRemoteURL]; full != "" {
		if id.Remote, err = fullRemote(u, full); err != nil {
			return id, err
		}
	}
	id.Checksum = attrs[pb.AttrGitChecksum]
	id.KeepGitDir = attrs[pb.AttrKeepGitDir] == "true"
	id.SkipSubmodules = attrs[pb.AttrGitSkipSubmodules] == "true"
	id.FetchByCommit = attrs[pb.AttrGitFetchByCommit] == "true"
	id.TokenSecret = attrs[pb.AttrAuthTokenSecret]
	id.HeaderSecret = attrs[pb.AttrAuthHeaderSecret]
	id.SSHAgent = attrs[pb.AttrMountSSHSock]
	id.KnownHosts = attrs[pb.AttrKnownSSHHosts]
	id.mtime = attrs[pb.AttrGitMTime]
	id.CommitMTime = id.mtime == "commit"
	return id, id.check(attrs)
}

func (id Identifier) check(attrs map[string]string) error {
	for _, attr := range []string{
		pb.AttrGitSignatureVerifyPubKey, pb.AttrGitSignatureVerifyRejectExpired,
		pb.AttrGitSignatureVerifyRequireSignedTag, pb.AttrGitSignatureVerifyIgnoreSignedTag,
		pb.AttrGitBundle, pb.AttrGitCheckoutBundle,
	} {
		if attrs[attr] != "" {
			return fmt.Errorf("attribute %s is not supported", attr)
		}
	}
	switch {
	case strings.HasPrefix(id.Ref, "-"):
		return fmt.Errorf("%q is no ref", id.Ref)
	case strings.HasPrefix(id.Remote, "-"):
		return fmt.Errorf("%q is no remote", id.Remote)
	case id.Checksum != "" && !isHex(id.Checksum):
		return fmt.Errorf("checksum %q is not the hexadecimal digits of a commit", id.Checksum)
	case id.Checksum != "" && isCommit(id.Ref) && !strings.HasPrefix(id.Ref, id.Checksum):
		return fmt.Errorf("commit %s does not have the checksum %s", id.Ref, id.Checksum)
	case id.FetchByCommit && !isCommit(id.Ref) && !isCommit(id.Checksum):
		return errors.New("a fetch by commit needs the full commit, as ref or as checksum")
	}
	return nil
}

// isCommit reports whether s is a full object name: SHA-1 or SHA-256.
func isCommit(s string) bool {
	if len(s) != 40 && len(s) != 64 || s != strings.ToLower(s) {
		return false
	}
	return isHex(s)
}

func isHex(s string) bool {
	if len(s)%2 != 0 {
		s += "0"
	}
	_, err := hex.DecodeString(s)
	return err == nil
}

// key is the string BuildKit keys the tree of commit by.
func (id Identifier) key(commit, ref string) string {
	k := commit
	if id.KeepGitDir {
		k += ".git"
		if ref != "" {
			k += "#" + ref
		}
	}
	if id.Subdir != "" {
		k += ":" + id.Subdir
	}
	if id.SkipSubmodules {
		k += "(skip-submodules)"
	}
	if id.mtime != "" && id.mtime != "checkout" {
		k += "(mtime=" + id.mtime + ")"
	}
	return k
}

// A remote is a repository's URL in one of git's two spellings, and what a
// BuildKit-style fragment says.
type remote struct {
	url *url.URL // scheme "" for user@host:path
	scp string   // path of the latter

	ref, subdir string
}

var (
	schemePattern = regexp.MustCompile(`^[a-zA-Z0-9]+://`)
	scpPattern    = regexp.MustCompile(`^([a-zA-Z0-9_-]+)@([a-zA-Z0-9.-]+):(.*?)(\?.*?)?(#.*)?$`)
)

// withTransport makes host/path an HTTPS URL.
func withTransport(raw string) string {
	if p := schemePattern.FindString(raw); p != "" && isTransport(strings.TrimSuffix(p, "://")) || p == "" && scpPattern.MatchString(raw) {
		return raw
	}
	return "https://" + raw
}

func isTransport(scheme string) bool {
	switch strings.ToLower(scheme) {
	case "http", "https", "ssh", "git":
		return true
	}
	return false
}

func parseRemote(raw string) (remote, error) {
	if p := schemePattern.FindString(raw); p != "" {
		if s := strings.TrimSuffix(p, "://"); !isTransport(s) {
			return remote{}, fmt.Errorf("git does not go over %s", s)
		}
		u, err := url.Parse(raw)
		if err != nil {
			// The error of net/url repeats the URL with its credentials.
			return remote{}, errors.New("the URL cannot be parsed")
		}
		r := remote{url: &url.URL{Scheme: u.Scheme, User: u.User, Host: u.Host, Path: u.Path, RawPath: u.RawPath}}
		r.fragment(u.Fragment)
		return r, nil
	}
	m := scpPattern.FindStringSubmatch(raw)
	if m == nil {
		return remote{}, errors.New("this is no URL of a repository")
	}
	r := remote{url: &url.URL{User: url.User(m[1]), Host: m[2]}, scp: m[3]}
	r.fragment(strings.TrimPrefix(m[5], "#"))
	return r, nil
}

func (r *remote) fragment(s string) {
	ref, dir, _ := strings.Cut(s, ":")
	r.ref, r.subdir = ref, strings.TrimPrefix(path.Join("/", dir), "/")
}

func (r remote) path() string {
	if r.url.Scheme == "" {
		return r.scp
	}
	return r.url.Path
}

// String returns what git is given.
func (r remote) String() string {
	if r.url.Scheme == "" {
		return r.url.User.String() + "@" + r.url.Host + ":" + r.scp
	}
	return r.url.String()
}

// fullRemote returns the remote an identifier stands for: identifiers leave
// out transport and user, so that equal repositories have equal ones.
func fullRemote(id remote, full string) (string, error) {
	r, err := parseRemote(withTransport(full))
	if err != nil {
		return "", fmt.Errorf("%s: %w", pb.AttrFullRemoteURL, err)
	}
	bare := func(p string) string { return strings.TrimSuffix(path.Join("/", p), ".git") }
	if !strings.EqualFold(r.url.Host, id.url.Host) || bare(r.path()) != bare(id.path()) {
		return "", fmt.Errorf("%s names another repository", pb.AttrFullRemoteURL)
	}
	p := path.Join("/", id.path())
	if r.url.Scheme != "" {
		return (&url.URL{Scheme: r.url.Scheme, User: r.url.User, Host: r.url.Host, Path: p}).String(), nil
	}
	if !strings.HasPrefix(r.scp, "/") {
		p = strings.TrimPrefix(p, "/")
	}
	return remote{url: r.url, scp: p}.String(), nil
}

const masked = "xxxxx"

// redactURL masks user and password of a URL.
func redactURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.User == nil {
		if err != nil && strings.Contains(raw, "://") && strings.Contains(raw, "@") {
			_, rest, _ := strings.Cut(raw, "@")
			return masked + "@" + rest
		}
		return raw
	}
	_, has := u.User.Password()
	switch {
	case has && u.User.Username() != "":
		u.User = url.UserPassword(masked, masked)
	case has:
		u.User = url.UserPassword("", masked)
	default:
		u.User = url.User(masked)
	}
	return u.String()
}
