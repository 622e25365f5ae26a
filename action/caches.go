package action

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/mayfly-build/mayfly/internal/hint"
)

// Values of the input cache. Any other one is a cache as --cache-from has it.
const (
	cacheAuto = "auto" // GitHub's, where there is one, unless the user names caches
	cacheGha  = "gha"  // GitHub's
	cacheOff  = "off"
)

// caches adds the caches to read and write.
func (p *planner) caches() error {
	own := len(p.in.cacheFrom)+len(p.in.cacheTo) > 0
	p.add("cache-from", p.in.cacheFrom...)
	p.add("cache-to", p.in.cacheTo...)
	for _, c := range p.in.cacheTo {
		p.leaves(c, "local")
	}
	mounts, err := mountsAttribute(p.in.cacheMounts)
	if err != nil {
		return err
	}
	spec := ""
	switch p.in.cache {
	case "", cacheAuto, "true":
		if !own && p.hasGitHubsCache() {
			spec = "type=gha"
		}
	case cacheOff, "false", "none":
	case cacheGha:
		spec = "type=gha"
	default:
		spec = p.in.cache
	}
	if spec == "" {
		if mounts != "" && own {
			p.warn("input cache-mounts: it is for the input cache; in cache-to say mounts=true")
		}
		return nil
	}
	if !strings.Contains(spec, "=") {
		spec = "type=registry,ref=" + spec
	}
	if !strings.Contains(spec, "scope=") {
		spec += ",scope=auto"
	}
	p.ownCache = !own
	p.add("cache-from", spec)
	p.add("cache-to", spec+",mode=max"+mounts)
	return nil
}

// hasGitHubsCache reports whether the job can use the cache of GitHub Actions.
func (p *planner) hasGitHubsCache() bool {
	if isEnterpriseServer(p.job.server) {
		p.note(Notice, "building without a remote cache: %s is not github.com; say cache: gha if its cache service is turned on, or name caches in cache-from and cache-to", p.job.server)
		return false
	}
	if p.job.Gha == nil {
		return true
	}
	if err := p.job.Gha(); err != nil {
		p.note(Notice, "building without a remote cache: %v", err)
		return false
	}
	return true
}

// isEnterpriseServer reports whether a server is neither github.com nor one of
// GitHub's clouds for enterprises, as docker's and GitHub's actions tell them
// apart.
func isEnterpriseServer(server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return true
	}
	host := strings.ToLower(u.Hostname())
	return host != "github.com" && !strings.HasSuffix(host, ".ghe.com") && !strings.HasSuffix(host, ".localhost")
}

// mountsAttribute returns what --cache-to says of cache mounts: nothing, all,
// or some.
func mountsAttribute(text string) (string, error) {
	if on, err := parseBool(text); err == nil {
		if on {
			return ",mounts=true", nil
		}
		return "", nil
	}
	ids, err := (list{commas: true}).items(text)
	if err != nil {
		return "", hint.With(fmt.Errorf("input cache-mounts: %w", err), "it is true, false, or ids of cache mounts")
	}
	return "," + quoted("mounts="+strings.Join(ids, ";")), nil
}
