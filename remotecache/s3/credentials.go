package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"
)

// early is how long before their end credentials are replaced: more than any
// single request takes.
const early = 5 * time.Minute

// credentialsOf returns what signs the requests, as Config says.
func credentialsOf(cfg Config, client *http.Client) aws.CredentialsProvider {
	switch {
	case cfg.AccessKeyID != "":
		return credentials.NewStaticCredentialsProvider(cfg.AccessKeyID, cfg.SecretAccessKey, cfg.SessionToken)
	case cfg.RoleARN != "":
		role := &webIdentity{cfg: cfg, sts: newSTS(cfg, client)}
		return marked{aws.NewCredentialsCache(role, func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = early })}
	case cfg.AWS != nil && cfg.AWS.Credentials != nil && !aws.IsCredentialsProvider(cfg.AWS.Credentials, aws.AnonymousCredentials{}):
		return marked{cfg.AWS.Credentials}
	}
	return aws.AnonymousCredentials{}
}

func newSTS(cfg Config, client *http.Client) *sts.Client {
	o := sts.Options{
		Region:     cfg.Region,
		HTTPClient: client,
		Retryer:    newRetryer(cfg, func(error) {}),
		Logger:     logging.Nop{},
	}
	if cfg.STSEndpointURL != "" {
		o.BaseEndpoint = aws.String(cfg.STSEndpointURL)
	}
	return sts.New(o)
}

// webIdentity assumes a role with a document of an identity provider. It is
// not the SDK's, whose source of documents has no context and caches none of
// its errors' causes.
type webIdentity struct {
	cfg Config
	sts *sts.Client
}

// Retrieve implements aws.CredentialsProvider.
func (w *webIdentity) Retrieve(ctx context.Context) (aws.Credentials, error) {
	token, err := w.cfg.Token(ctx)
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("get the identity token: %w", err)
	}
	out, err := w.sts.AssumeRoleWithWebIdentity(ctx, &sts.AssumeRoleWithWebIdentityInput{
		RoleArn:          &w.cfg.RoleARN,
		RoleSessionName:  aws.String("mayfly"),
		WebIdentityToken: &token,
	})
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("assume %s: %w", w.cfg.RoleARN, answerOf(err))
	}
	c := out.Credentials
	if c == nil || c.AccessKeyId == nil || c.SecretAccessKey == nil || c.Expiration == nil {
		return aws.Credentials{}, fmt.Errorf("assume %s: %w", w.cfg.RoleARN, errors.New("the answer has no credentials"))
	}
	return aws.Credentials{
		AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: aws.ToString(c.SessionToken),
		Source: "mayfly web identity", CanExpire: true, Expires: *c.Expiration,
	}, nil
}

// marked marks the errors of a provider of credentials.
type marked struct{ aws.CredentialsProvider }

func (m marked) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := m.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		err = &credentialsError{err}
	}
	return c, err
}

// credentialsError says that there are no credentials to sign a request with.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "get credentials: " + e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }
