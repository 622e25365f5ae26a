package action

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// A secret that has no variable or file of its own is given to mayfly build in
// a variable that only the process itself sees.
const secretVariable = "MAYFLY_ACTION_SECRET_"

// hold adds a secret whose value is known.
func (p *planner) hold(id, value string) {
	name := fmt.Sprint(secretVariable, len(p.Variables)+1)
	p.Variables = append(p.Variables, Variable{name, value})
	p.add("secret", quoted("id="+id)+",env="+name)
}

// pair splits KEY=VALUE. The error has none of it.
func pair(s string) (key, value string, err error) {
	key, value, _ = strings.Cut(s, "=")
	if key == "" || value == "" {
		return "", "", errors.New("an item is not NAME=VALUE: ignored")
	}
	return key, value, nil
}

func (p *planner) secrets() {
	for _, s := range p.in.secrets {
		id, value, err := pair(s)
		if err != nil {
			p.warn("input secrets: %v", err)
			continue
		}
		p.Masks = append(p.Masks, value)
		p.hold(id, value)
	}
}

// secretEnvs adds secrets that are in variables. One that is not set is empty,
// as docker has it.
func (p *planner) secretEnvs() {
	for _, s := range p.in.secretEnvs {
		id, name, err := pair(s)
		if err != nil {
			p.warn("input secret-envs: %v", err)
			continue
		}
		if _, ok := p.job.Getenv(name); !ok {
			p.warn("input secret-envs: the environment variable %s is not set: the secret %s is empty", name, id)
			p.hold(id, "")
			continue
		}
		p.add("secret", quoted("id="+id)+","+quoted("env="+name))
	}
}

func (p *planner) secretFiles() {
	for _, s := range p.in.secretFiles {
		id, file, err := pair(s)
		if err != nil {
			p.warn("input secret-files: %v", err)
			continue
		}
		if p.job.Exists != nil && !p.job.Exists(file) {
			p.warn("input secret-files: there is no file %s: the secret %s is not given", file, id)
			continue
		}
		p.add("secret", quoted("id="+id)+","+quoted("src="+file))
	}
}

// gitToken gives the job's token to git for the default context, unless the
// user gave one.
func (p *planner) gitToken(context string, git gitContext) {
	own := slices.ContainsFunc(p.in.secrets, func(s string) bool { return strings.HasPrefix(s, "GIT_AUTH_TOKEN=") })
	if p.in.githubToken == "" || own || git.url == "" || !strings.HasPrefix(context, git.url) {
		return
	}
	server, err := url.Parse(p.job.server)
	if err != nil {
		return
	}
	p.Masks = append(p.Masks, p.in.githubToken)
	p.hold("GIT_AUTH_TOKEN."+server.Host, p.in.githubToken)
}
