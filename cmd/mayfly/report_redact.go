package main

import "net/url"

// credentialVariables hold what gives access to services. A step does not see
// them unless it is given one; they are known so that nothing shows them.
var credentialVariables = []string{
	"ACTIONS_RUNTIME_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "GITHUB_TOKEN", "GH_TOKEN",
	"CI_JOB_TOKEN", "CI_REGISTRY_PASSWORD", "CI_DEPLOY_PASSWORD",
	"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY", "AZURE_CLIENT_SECRET",
	"BUILDKIT_AZURE_STORAGE_SECRET_ACCESS_KEY", "SYSTEM_ACCESSTOKEN",
}

// learnVariables remembers the credentials of the environment.
func (r *redactor) learnVariables(w world) {
	for _, name := range credentialVariables {
		if v, ok := w.getenv(name); ok {
			r.learn([]byte(v))
		}
	}
}

// learnFlags remembers the credentials in the attributes of flags:
// "type=s3,secret_access_key=…".
func (r *redactor) learnFlags(o buildOptions) {
	for _, flags := range [][]string{o.cacheFrom, o.cacheTo, o.outputs} {
		for _, text := range flags {
			a, _, err := parseAttrs("cache-to", text)
			if err != nil || a == nil {
				continue
			}
			for name, value := range a.fields {
				if isCredential(name) {
					r.learn([]byte(value))
				}
			}
		}
	}
	r.learnUserOf(o.context)
}

// minToken is how long the user of a URL is at least that may be a token,
// in bytes: others are names, which a report has to show.
const minToken = 16

// learnUserOf remembers the password of a URL, or the token in its place.
func (r *redactor) learnUserOf(text string) {
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return
	}
	if password, ok := u.User.Password(); ok && password != "" {
		r.learn([]byte(password))
	} else if name := u.User.Username(); len(name) >= minToken {
		r.learn([]byte(name))
	}
}
