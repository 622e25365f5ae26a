package git

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mayfly-build/mayfly/engine/secret"
	"github.com/mayfly-build/mayfly/internal/hint"
)

// Config says what a Source works with.
type Config struct {
	// Dir is where bare repositories are kept between builds; required. Any
	// number of processes may share it.
	Dir string

	// Secret returns a secret's bytes; secret.ErrNotFound when there is none.
	// nil means there are no secrets.
	Secret func(ctx context.Context, id string) ([]byte, error)

	// SSHAgent listens at the socket path and forwards to the agent id until
	// stop is called. nil means there are no agents.
	SSHAgent func(ctx context.Context, id, path string) (stop func(), err error)

	// Env is the environment git starts from, as Environ gives it. Without
	// PATH git finds itself, but no ssh.
	Env []string
}

// A Source resolves and checks out git sources. Its methods may be called
// from several goroutines at once.
type Source struct{ cfg Config }

// New returns a source; nothing runs before it is used.
func New(cfg Config) *Source { return &Source{cfg: cfg} }

// Environ returns what git needs of an environment: PATH and the variables
// for proxies and certificates. lookup is like os.LookupEnv.
func Environ(lookup func(name string) (string, bool)) []string {
	env := []string{}
	for _, name := range []string{
		"PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
		"http_proxy", "https_proxy", "no_proxy", "all_proxy",
		"SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH",
	} {
		if v, ok := lookup(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// Pinned is what an Identifier named when it was resolved.
type Pinned struct {
	CacheKey string // equal to the key of BuildKit's git source
	Ref      string // in full ("refs/heads/main"), or the commit when that was asked for

	// Commit is the object Ref points to: a commit, or an annotated tag.
	Commit string

	// Tagged is the commit an annotated tag points to; "" when Commit is one
	// itself, or the tag object is wanted because of KeepGitDir.
	Tagged string
}

// Resolve finds out what id names now. Commits are not asked for: an id with
// a full commit costs nothing.
func (s *Source) Resolve(ctx context.Context, id Identifier) (Pinned, error) {
	p, err := s.resolve(ctx, id)
	if err != nil {
		return p, explain(fmt.Errorf("resolve %s: %w", id.Name(), err), err, id)
	}
	p.CacheKey = id.key(cmpOr(p.Tagged, p.Commit), p.Ref)
	return p, nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// Name returns the repository and what is wanted of it, without credentials.
func (id Identifier) Name() string {
	s := redactURL(id.Remote)
	if id.Ref != "" || id.Subdir != "" {
		s += "#" + id.Ref
	}
	if id.Subdir != "" {
		s += ":" + id.Subdir
	}
	return s
}

func (s *Source) resolve(ctx context.Context, id Identifier) (Pinned, error) {
	switch {
	case isCommit(id.Ref):
		return Pinned{Ref: id.Ref, Commit: id.Ref}, nil
	case id.FetchByCommit:
		ref := id.Ref
		if ref == "" {
			ref = id.Checksum
		} else if !strings.HasPrefix(ref, "refs/") {
			ref = "refs/heads/" + ref
		}
		return Pinned{Ref: ref, Commit: id.Checksum}, nil
	}
	r, done, err := s.runner(ctx, id)
	if err != nil {
		return Pinned{}, err
	}
	defer done()
	args := []string{"ls-remote", "--", cleanRemote(id.Remote), id.Ref, id.Ref + "^{}"}
	if id.Ref == "" {
		args = []string{"ls-remote", "--symref", "--", cleanRemote(id.Remote), "HEAD"}
	}
	var out string
	err = again(ctx, func() error {
		var err error
		out, err = r.run(ctx, args...)
		return err
	})
	if err != nil {
		return Pinned{}, err
	}
	return pick(id, parseRefs(out))
}

// refs are lines of ls-remote: object by ref, and where HEAD points.
type refs struct {
	objects map[string]string
	head    string // "refs/heads/main"
}

func parseRefs(out string) refs {
	r := refs{objects: map[string]string{}}
	for line := range strings.Lines(out) {
		left, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok {
			continue
		}
		if target, isSymref := strings.CutPrefix(left, "ref: "); isSymref {
			if name == "HEAD" && strings.HasPrefix(target, "refs/heads/") {
				r.head = target
			}
			continue
		}
		r.objects[name] = left
	}
	return r
}

// pick chooses among what a ref may mean as git checkout does: first a full
// ref, then a branch, then a tag.
func pick(id Identifier, r refs) (Pinned, error) {
	if id.Ref == "" {
		sha := r.objects["HEAD"]
		if r.head == "" || !isCommit(sha) {
			return Pinned{}, errors.New("the repository has no default branch")
		}
		return checked(id, Pinned{Ref: r.head, Commit: sha}, "")
	}
	tag := "refs/tags/" + strings.TrimPrefix(id.Ref, "refs/tags/")
	for _, name := range []string{
		"refs/" + strings.TrimPrefix(id.Ref, "refs/"),
		"refs/heads/" + strings.TrimPrefix(id.Ref, "refs/heads/"),
		tag,
	} {
		sha, ok := r.objects[name]
		if !ok {
			continue
		}
		if !isCommit(sha) {
			return Pinned{}, fmt.Errorf("%s points to %q, which is no commit", name, sha)
		}
		tagged := ""
		if name == tag {
			tagged = r.objects[tag+"^{}"]
		}
		return checked(id, Pinned{Ref: name, Commit: sha}, tagged)
	}
	err := fmt.Errorf("the repository has no branch or tag %s", id.Ref)
	if isHex(id.Ref) && len(id.Ref) >= 4 {
		return Pinned{}, hint.With(err, "give a commit in full, all 40 digits: a server cannot be asked for the beginning of one")
	}
	return Pinned{}, hint.With(err, "check the spelling; `git ls-remote` shows what there is")
}

func checked(id Identifier, p Pinned, tagged string) (Pinned, error) {
	if !strings.HasPrefix(p.Commit, id.Checksum) && (tagged == "" || !strings.HasPrefix(tagged, id.Checksum)) {
		return p, fmt.Errorf("%s is commit %s, not %s as its checksum says", p.Ref, cmpOr(tagged, p.Commit), id.Checksum)
	}
	if !id.KeepGitDir {
		p.Tagged = tagged
	}
	return p, nil
}

// runner returns what runs git for id, with its credentials. done ends what
// was set up for it.
func (s *Source) runner(ctx context.Context, id Identifier) (r runner, done func(), err error) {
	r.env = slices.Clone(s.cfg.Env)
	if err := s.authorize(ctx, id, &r); err != nil {
		return r, nil, err
	}
	// No configuration of the user's, so no key of the user's but the agent's.
	ssh := "ssh -F " + os.DevNull
	if id.SSHAgent == "" && id.KnownHosts == "" {
		r.env = append(r.env, "GIT_SSH_COMMAND="+ssh+" -o StrictHostKeyChecking=no")
		return r, func() {}, nil
	}
	dir, err := os.MkdirTemp("", "mayfly-ssh")
	if err != nil {
		return r, nil, err
	}
	stop := func() {}
	done = func() {
		stop()
		os.RemoveAll(dir)
	}
	if id.KnownHosts == "" {
		ssh += " -o StrictHostKeyChecking=no"
	} else {
		file := filepath.Join(dir, "known_hosts")
		if err := os.WriteFile(file, []byte(id.KnownHosts), 0o600); err != nil {
			done()
			return r, nil, err
		}
		ssh += " -o UserKnownHostsFile=" + file
	}
	r.env = append(r.env, "GIT_SSH_COMMAND="+ssh)
	if id.SSHAgent != "" && s.cfg.SSHAgent != nil {
		sock := filepath.Join(dir, "agent")
		stopAgent, err := s.cfg.SSHAgent(ctx, id.SSHAgent, sock)
		if err != nil {
			done()
			return r, nil, hint.With(fmt.Errorf("forward the SSH agent %s: %w", id.SSHAgent, err),
				"give the build an agent with --ssh "+id.SSHAgent)
		}
		stop = stopAgent
		r.env = append(r.env, "SSH_AUTH_SOCK="+sock)
	}
	return r, done, nil
}

// authorize adds the credentials for HTTP: a secret, else what the URL holds.
func (s *Source) authorize(ctx context.Context, id Identifier, r *runner) error {
	u, err := url.Parse(id.Remote)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return nil
	}
	header, err := s.header(ctx, id, u.Host, r)
	if err != nil {
		return err
	}
	if header == "" && u.User != nil {
		password, _ := u.User.Password()
		if password != "" {
			r.secrets = append(r.secrets, u.User.String(), password)
		} else if name := u.User.Username(); len(name) >= 16 { // a token in the place of a user
			r.secrets = append(r.secrets, name)
		}
		header = basic(u.User.Username()+":"+password, r)
	}
	if header != "" {
		r.settings = append(r.settings, setting{"http." + tokenScope(cleanRemote(id.Remote)) + ".extraHeader", "Authorization: " + header})
	}
	return nil
}

func basic(userPassword string, r *runner) string {
	enc := base64.StdEncoding.EncodeToString([]byte(userPassword))
	r.secrets = append(r.secrets, enc)
	return "basic " + enc
}

// header returns the Authorization header the secrets give, "" for none. One
// for the host is preferred to one for all, a header to a token.
func (s *Source) header(ctx context.Context, id Identifier, host string, r *runner) (string, error) {
	if s.cfg.Secret == nil {
		return "", nil
	}
	for _, suffix := range []string{"." + host, ""} {
		for _, name := range []string{id.HeaderSecret, id.TokenSecret} {
			if name == "" {
				continue
			}
			value, err := s.cfg.Secret(ctx, name+suffix)
			if errors.Is(err, secret.ErrNotFound) {
				continue
			}
			if err != nil {
				return "", err
			}
			r.secrets = append(r.secrets, string(value))
			if name == id.HeaderSecret {
				return string(value), nil
			}
			return basic("x-access-token:"+string(value), r), nil
		}
	}
	return "", nil
}

// tokenScope is the URL below which a credential is sent. One for a
// repository at GitHub is good for its submodules at GitHub.
func tokenScope(remote string) string {
	for _, p := range []string{"https://github.com/", "https://www.github.com/"} {
		if strings.HasPrefix(remote, p) {
			return p
		}
	}
	return remote
}

// cleanRemote is a remote without the credentials of an HTTP URL, fit for
// arguments and for files.
func cleanRemote(remote string) string {
	u, err := url.Parse(remote)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User == nil {
		return remote
	}
	u.User = nil
	return u.String()
}
