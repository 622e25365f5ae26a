package signed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/retry"
)

// An Identity asks the CI service for a document (a JWT of OpenID Connect)
// that says who this job is, for an audience. As a Signer it asks for one
// whose audience is what is signed: the issuer's signature over the document
// is then one over the Index.
//
// The document is stored with the cache, where all who can read the cache can
// read it. No service takes a document with this audience for a login, and it
// expires within minutes.
type Identity func(ctx context.Context, audience string) (jwt string, err error)

// identityKeyID is the KeyID of every Identity: who it is stands in the
// document.
const identityKeyID = "oidc"

// KeyID implements Signer.
func (Identity) KeyID() string { return identityKeyID }

// Sign implements Signer.
func (ask Identity) Sign(ctx context.Context, message []byte) (Signature, error) {
	want := Audience(message)
	doc, err := ask(ctx, want)
	if err != nil {
		return Signature{}, fmt.Errorf("ask for the identity of this job: %w", err)
	}
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(doc, &claims); err != nil {
		return Signature{}, errors.New("the identity of this job is no JWT") // err might show some of it
	}
	if len(claims.Audience) != 1 || claims.Audience[0] != want {
		err := fmt.Errorf("the identity of this job is for the audience %q, not %q", claims.Audience, want)
		return Signature{}, hint.With(err, "sign with a key where the CI service does not let a job choose the audience")
	}
	return Signature{JWT: doc}, nil
}

// GitHubIdentity returns the Identity of a job of GitHub Actions: requestURL
// and requestToken are ACTIONS_ID_TOKEN_REQUEST_URL and _TOKEN, which a job
// has whose permissions say id-token: write. A nil client means
// http.DefaultClient. Faults that pass are tried again.
func GitHubIdentity(client *http.Client, requestURL, requestToken string) (Identity, error) {
	if requestURL == "" || requestToken == "" {
		return nil, hint.With(errors.New("this job may not ask GitHub for its identity"), "give the job `permissions: id-token: write`")
	}
	u, err := url.Parse(requestURL)
	if err != nil || u.Host == "" {
		return nil, errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is no URL")
	}
	if client == nil {
		client = http.DefaultClient
	}
	return func(ctx context.Context, audience string) (doc string, err error) {
		u := *u
		q := u.Query()
		q.Set("audience", audience)
		u.RawQuery = q.Encode()
		err = retry.Policy{}.Do(ctx, func() error {
			doc, err = requestIdentity(ctx, client, &u, requestToken)
			return err
		})
		return doc, err
	}, nil
}

const maxDocument = 256 << 10 // bytes of an answer; documents have some 2,000

func requestIdentity(ctx context.Context, client *http.Client, u *url.URL, token string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Accept", "application/json; api-version=2.0")
	resp, err := client.Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // the URL says nothing to anybody
		}
		return "", fmt.Errorf("%s: %w", u.Host, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", &statusError{u.Host, resp.StatusCode, retry.After(resp.Header.Get("Retry-After"), time.Now())}
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument))
	if err != nil {
		return "", fmt.Errorf("%s: %w", u.Host, err)
	}
	var answer struct {
		Value string `json:"value"`
	}
	// The error of json might show some of the document.
	if json.Unmarshal(data, &answer) != nil || answer.Value == "" {
		return "", fmt.Errorf("%s: there is no document in the answer", u.Host)
	}
	return answer.Value, nil
}

// A statusError is an answer that is none. Its body may name the token.
type statusError struct {
	host  string
	code  int
	after time.Duration
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s: %d %s", e.host, e.code, http.StatusText(e.code))
}

// Retry implements retry.Advisor.
func (e *statusError) Retry() (bool, time.Duration) { return retry.Status(e.code), e.after }
