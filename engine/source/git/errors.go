package git

import (
	"fmt"
	"net/url"

	"github.com/mayfly-build/mayfly/internal/hint"
)

// explain adds to err what to do about its cause.
func explain(err, cause error, id Identifier) error {
	if hint.Of(err) != "" {
		return err
	}
	host := ""
	if u, uerr := url.Parse(id.Remote); uerr == nil {
		host = u.Host
	}
	switch {
	case complains(cause, "could not read Username", "could not read Password", "Authentication failed", "returned error: 403", "returned error: 401"):
		return hint.With(err, fmt.Sprintf("give the build a token for %s as the secret %s", host, cmpOr(id.TokenSecret, "GIT_AUTH_TOKEN")))
	case complains(cause, "Permission denied (publickey", "Could not read from remote repository"):
		return hint.With(err, "give the build an SSH agent or key that may read the repository: --ssh default")
	case complains(cause, "Host key verification failed"):
		return hint.With(err, "the server's key is not among the known hosts: check ~/.ssh/known_hosts")
	case complains(cause, "Could not resolve host", "Could not resolve hostname"):
		return hint.With(err, "check the name of the host")
	case complains(cause, "not found", "does not appear to be a git repository"):
		return hint.With(err, "check the URL; a private repository needs credentials to be seen")
	}
	return err
}
