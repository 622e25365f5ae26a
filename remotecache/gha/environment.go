package gha

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/mayfly-build/mayfly/internal/hint"
)

// githubResults is part of the host of GitHub's own service, protocol v2.
const githubResults = "results-receiver.actions.githubusercontent.com"

// FromEnvironment returns c with what it does not have from the variables that
// the runner gives to a step, as getenv returns them: Token, the URLs with the
// Version, Mode, APIURL, Repository. Version and URLs are chosen as GitHub's
// own client does, and besides where a step, such as a Docker container
// action, has not got ACTIONS_CACHE_SERVICE_V2. The last word has
// ACTIONS_CACHE_API_FORCE_VERSION (v1, v2). The error says what is missing,
// also for a step outside of Actions.
func (c Config) FromEnvironment(getenv func(string) string) (Config, error) {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&c.Token, getenv("ACTIONS_RUNTIME_TOKEN"))
	set(&c.APIURL, getenv("GITHUB_API_URL"))
	set(&c.Repository, getenv("GITHUB_REPOSITORY"))
	if c.Mode == "" {
		c.Mode = Mode(strings.ToLower(strings.TrimSpace(getenv("ACTIONS_CACHE_MODE"))))
	}
	if c.URL == "" && c.URLv2 == "" {
		two, err := speaksV2(c.Version, getenv)
		if err != nil {
			return c, err
		}
		cache, results := getenv("ACTIONS_CACHE_URL"), getenv("ACTIONS_RESULTS_URL")
		if two {
			c.Version, c.URLv2 = 2, results
		} else {
			c.Version, c.URL = 1, cache
			set(&c.URL, results)
		}
	}
	if c.Token == "" || c.URL == "" && c.URLv2 == "" {
		return c, hint.With(fmt.Errorf("the gha cache finds no service: ACTIONS_RUNTIME_TOKEN, ACTIONS_RESULTS_URL or ACTIONS_CACHE_URL is not set"),
			"in a `run:` step of GitHub Actions use crazy-max/ghaction-github-runtime before; elsewhere use another type of cache")
	}
	return c, nil
}

// speaksV2 chooses the protocol. version is the user's wish, 0 for none.
func speaksV2(version int, getenv func(string) string) (bool, error) {
	switch force := getenv("ACTIONS_CACHE_API_FORCE_VERSION"); force {
	case "":
	case "v1", "v2":
		return force == "v2", nil
	default:
		return false, fmt.Errorf("ACTIONS_CACHE_API_FORCE_VERSION is %q, not v1 or v2", force)
	}
	if version != 0 {
		return version == 2, nil
	}
	if isEnterpriseServer(getenv("GITHUB_SERVER_URL")) {
		return false, nil // it has v1 only
	}
	if v := getenv("ACTIONS_CACHE_SERVICE_V2"); v != "" {
		two, err := strconv.ParseBool(v)
		return two || err != nil, nil // GitHub's client takes any text for yes
	}
	cache, results := getenv("ACTIONS_CACHE_URL"), getenv("ACTIONS_RESULTS_URL")
	if results == "" {
		return false, nil
	}
	// GitHub has no v1 any more. Elsewhere ACTIONS_RESULTS_URL alone says
	// little: act sets it for artifacts, beside the URL of its cache.
	return cache == "" || isGitHubs(cache) || isGitHubs(results), nil
}

// isEnterpriseServer reports whether a server is neither github.com nor one of
// GitHub's clouds for enterprises.
func isEnterpriseServer(server string) bool {
	if server == "" {
		return false
	}
	host := hostOf(server)
	return host != "github.com" && !strings.HasSuffix(host, ".ghe.com") && !strings.HasSuffix(host, ".localhost")
}

// isGitHubs reports whether a URL is that of a service of GitHub's.
func isGitHubs(u string) bool {
	host := hostOf(u)
	return strings.HasSuffix(host, ".githubusercontent.com") || strings.HasSuffix(host, ".ghe.com")
}

func hostOf(u string) string {
	p, err := url.Parse(u)
	if err != nil {
		return ""
	}
	return strings.ToLower(strings.TrimSpace(p.Hostname()))
}
