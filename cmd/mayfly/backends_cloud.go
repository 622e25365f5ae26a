package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"

	"github.com/mayfly-build/mayfly/remotecache/azblob"
	"github.com/mayfly-build/mayfly/remotecache/gha"
	"github.com/mayfly-build/mayfly/remotecache/s3"
	"github.com/mayfly-build/mayfly/remotecache/scope"
)

// ghaUploadsPerMinute is GitHub's limit for a repository (changelog of
// 2026-01-16); other jobs of the repository share it.
const ghaUploadsPerMinute = 200

func (c *cacheOpener) gha(a *attrs) (*store, error) {
	cfg := gha.Config{
		Token: a.str("token", ""), URL: a.str("url", ""), URLv2: a.str("url_v2", ""),
		Repository: a.str("repository", ""), GHToken: a.str("ghtoken", ""),
		Uploads: c.ghaUploads, UserAgent: "mayfly/" + version,
	}
	switch v := a.str("version", ""); v {
	case "":
	case "1", "2":
		cfg.Version = int(v[0] - '0')
	default:
		return nil, fmt.Errorf("version=%s is not 1 or 2", v)
	}
	name := a.str("scope", "")
	if name == "auto" {
		// GitHub keeps branches apart by itself: the name is that of the build.
		name = scope.Name(c.job, c.build, scope.Options{})
	}
	cfg, err := cfg.FromEnvironment(c.w.env)
	if err != nil {
		return nil, err
	}
	b, err := gha.New(cfg)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = "buildkit"
	}
	s := newStore("gha "+name, b, gha.Ref(name))
	s.indexes = b.LoadIndexes
	return s, nil
}

func (c *cacheOpener) s3(a *attrs) (*store, error) {
	cfg := s3.Config{
		Bucket: a.str("bucket", c.w.env("AWS_BUCKET")), Region: a.str("region", c.w.env("AWS_REGION")),
		Prefix: a.str("prefix", ""), EndpointURL: a.str("endpoint_url", ""),
		BlobsPrefix: a.optional("blobs_prefix"), ManifestsPrefix: a.optional("manifests_prefix"),
		AccessKeyID: a.str("access_key_id", ""), SecretAccessKey: a.str("secret_access_key", ""), SessionToken: a.str("session_token", ""),
		UsePathStyle: a.boolean("use_path_style", false), DisableAcceptEncoding: a.boolean("disable_accept_encoding", false),
		TouchRefresh: touchRefresh(a),
		RetryMode:    aws.RetryMode(a.str("retry_mode", "")),
	}
	cfg.UploadParallelism, _ = a.integer("upload_parallelism")
	cfg.RetryMaxAttempts, _ = a.integer("retry_max_attempts")
	names := strings.Split(a.str("name", "buildkit"), ";")
	if cfg.Bucket == "" {
		return nil, fmt.Errorf("bucket is missing, and $AWS_BUCKET is not set")
	}
	if role := a.str("role_arn", ""); role != "" {
		// A role that is named here is assumed with this job's identity; the
		// SDK does the same by itself with $AWS_WEB_IDENTITY_TOKEN_FILE.
		if cfg.RoleARN, cfg.Token = role, c.tokenFor("sts.amazonaws.com"); cfg.Token == nil {
			return nil, fmt.Errorf("role_arn=%s needs the identity of this job: give it `permissions: id-token: write`", role)
		}
	}
	if cfg.AccessKeyID == "" && cfg.RoleARN == "" {
		ctx, cancel := context.WithTimeout(context.Background(), awsConfigTimeout)
		defer cancel()
		def, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithCredentialsCacheOptions(func(o *aws.CredentialsCacheOptions) {
			o.ExpiryWindow = awsExpiryWindow // a long upload must not begin with credentials that end
		}))
		if err != nil {
			return nil, fmt.Errorf("read the configuration of AWS: %w", err)
		}
		cfg.AWS = &def
	}
	// A name with slashes is a folder and a name.
	var refs []string
	folder := ""
	for i, name := range names {
		dir, ref, err := s3.SplitName(name)
		if err != nil {
			return nil, fmt.Errorf("name=%s: %w", name, err)
		}
		if i > 0 && dir != folder {
			return nil, fmt.Errorf("name=%s: names of one cache are in one folder", strings.Join(names, ";"))
		}
		folder, refs = dir, append(refs, ref)
	}
	if folder != "" {
		prefix := "manifests/"
		if cfg.ManifestsPrefix != nil {
			prefix = *cfg.ManifestsPrefix
		}
		prefix += folder
		cfg.ManifestsPrefix = &prefix
	}
	b, err := s3.New(cfg)
	if err != nil {
		return nil, err
	}
	s := newStore("s3 "+cfg.Bucket+" "+names[0], b, refs[0])
	if err := named(s, refs); err != nil {
		return nil, err
	}
	return s, c.scoped(a, s, prefixOf(refs[0]))
}

// awsExpiryWindow is how long before their end credentials are renewed.
const awsExpiryWindow = 5 * time.Minute

// touchRefresh reads touch_refresh, where 0 means every blob.
func touchRefresh(a *attrs) time.Duration {
	v := a.optional("touch_refresh")
	if v == nil {
		return 0
	}
	d, err := time.ParseDuration(*v)
	if err != nil || d < 0 {
		a.fail("touch_refresh=%s is not a duration, such as 24h", *v)
	}
	return max(d, 1)
}

// awsConfigTimeout bounds the look for AWS's configuration: files, and at most
// the metadata of the machine for its region.
const awsConfigTimeout = 10 * time.Second

// prefixOf returns what stands before the refs of scope=auto: a name that the
// user gave, nothing for BuildKit's default.
func prefixOf(name string) string {
	if name == "buildkit" {
		return ""
	}
	return name + "-"
}

func (c *cacheOpener) azblob(a *attrs) (*store, error) {
	cfg := azblob.Config{
		AccountURL:  a.str("account_url", c.w.env("BUILDKIT_AZURE_STORAGE_ACCOUNT_URL")),
		AccountName: a.str("account_name", c.w.env("BUILDKIT_AZURE_STORAGE_ACCOUNT_NAME")),
		Container:   a.str("container", c.w.env("BUILDKIT_AZURE_STORAGE_CONTAINER")),
		Prefix:      a.str("prefix", c.w.env("BUILDKIT_AZURE_STORAGE_PREFIX")),
		BlobsPrefix: orDot(a.optional("blobs_prefix")), ManifestsPrefix: orDot(a.optional("manifests_prefix")),
		SecretAccessKey: a.str("secret_access_key", ""),
		TenantID:        a.str("tenant_id", c.w.env("AZURE_TENANT_ID")),
		ClientID:        a.str("client_id", c.w.env("AZURE_CLIENT_ID")),
		AuthorityHost:   c.w.env("AZURE_AUTHORITY_HOST"),
	}
	names := strings.Split(a.str("name", "buildkit"), ";")
	if cfg.AccountURL == "" {
		return nil, fmt.Errorf("account_url is missing, and $BUILDKIT_AZURE_STORAGE_ACCOUNT_URL is not set")
	}
	if cfg.SecretAccessKey == "" && cfg.ClientID != "" && cfg.TenantID != "" {
		// This job's identity, as a federated credential of the application.
		cfg.Assertion = c.tokenFor("api://AzureADTokenExchange")
	}
	b, err := azblob.New(cfg)
	if err != nil {
		return nil, err
	}
	where := cfg.Container
	if where == "" {
		where = "buildkit-cache"
	}
	s := newStore("azblob "+where+" "+names[0], b, names[0])
	if err := named(s, names); err != nil {
		return nil, err
	}
	return s, c.scoped(a, s, prefixOf(names[0]))
}

// orDot spells a prefix that is empty on purpose as package azblob does.
func orDot(prefix *string) string {
	switch {
	case prefix == nil:
		return ""
	case *prefix == "":
		return "."
	}
	return *prefix
}

// optional returns a field that means something other than its default when
// it is empty; nil when it was not given.
func (a *attrs) optional(key string) *string {
	if _, ok := a.fields[key]; !ok {
		a.known = append(a.known, key)
		return nil
	}
	v := a.str(key, "")
	return &v
}
