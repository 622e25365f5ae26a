// Package s3 keeps a cache in a bucket of S3 or of a service that speaks its
// protocol (MinIO, Ceph, R2, Google's interoperable API, versitygw).
//
//	remotecache ──blobs──▶ Put ──one PUT, or parts in parallel──▶ <prefix>blobs/<digest>
//	remotecache ◀─bytes── Open ◀──────ranges in parallel───────── <prefix>blobs/<digest>
//	remotecache ◀─Index─▶ LoadIndex, SaveIndex (by ETag) ───────▶ <prefix>manifests/<ref>
//	               touches beside the export ──copy onto itself──▶ blobs a lifecycle rule would take
//
// The layout is that of BuildKit's type=s3 cache, so that either reads the
// other's. What is a blob and when it expires is known from a listing of the
// bucket or from questions after single blobs, whichever is less.
//
// Permissions on AWS: s3:GetObject, s3:PutObject and s3:AbortMultipartUpload on
// the objects; s3:ListBucket on the bucket; s3:DeleteObject to remove.
package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/internal/parts"
	"github.com/mayfly-build/mayfly/internal/retry"
	"github.com/mayfly-build/mayfly/remotecache"
)

// Config says where the cache is, and as whom it is reached. Credentials are
// the first of these that is given: AccessKeyID and SecretAccessKey; RoleARN
// and Token; AWS. Without any, requests are not signed.
type Config struct {
	Bucket string // required
	Region string // "" means that of AWS, or us-east-1 where EndpointURL is set; otherwise required

	// EndpointURL is that of a service other than AWS, such as
	// "https://minio.example.com:9000". It must not contain credentials.
	EndpointURL  string
	UsePathStyle bool // name the bucket in the path of URLs, not in the host

	Prefix          string  // of all keys, as it is: "ci/" for a folder
	BlobsPrefix     *string // of blobs, after Prefix; nil means "blobs/"
	ManifestsPrefix *string // of indexes, after Prefix; nil means "manifests/"

	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string // of temporary credentials

	// RoleARN names a role that is assumed with web identity: Token returns a
	// signed identity document, such as GitHub's OIDC token for the audience
	// sts.amazonaws.com. It is asked again when the role's credentials have
	// less than five minutes to live, whatever the length of a build.
	RoleARN        string
	Token          func(ctx context.Context) (string, error)
	STSEndpointURL string // of the service that gives credentials; "" means AWS's of Region

	// AWS is a configuration of the SDK, from which credentials, region and
	// whatever else is not given here is taken. This package reads no
	// environment: a program that wants the SDK's own chain (AWS_* variables,
	// shared files, AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN, roles of
	// containers and instances) sets it to what LoadDefaultConfig of the SDK's
	// package config returns. Its credentials are refreshed as they expire; with
	// WithCredentialsCacheOptions and an ExpiryWindow, some time before.
	AWS *aws.Config

	// TouchRefresh is the age from which on a blob that an export needs is
	// made new again, so that lifecycle rules keep it; 0 means 24h, a negative
	// one that nothing is touched.
	TouchRefresh time.Duration

	// UploadParallelism is how many blobs are uploaded at once; 0 means as
	// many as the caller puts. Sends bounds the requests: of all blobs and
	// their parts; 0 means 32.
	UploadParallelism int
	Sends             int

	PartSize  int64 // least bytes of a part of an upload, at least 5 MiB; 0 means 8 MiB
	ReadAhead int64 // bytes of memory for what is fetched ahead, for all blobs; 0 means 32 MiB

	// DisableAcceptEncoding leaves Accept-Encoding out of what is signed.
	// Google's front end changes that header, and then takes the signature for
	// a wrong one.
	DisableAcceptEncoding bool

	RetryMode        aws.RetryMode // "" means AWS's, or standard
	RetryMaxAttempts int           // tries in all of one request; 0 means AWS's, or 5
	RetryBackoff     time.Duration // pause before the second try, doubled for each further one; 0 means 200ms

	// HTTP sends the requests; nil means a client for many of them at once,
	// which gives up those on which nothing moves for Stall; 0 means
	// remotecache.StallAfter.
	HTTP  *http.Client
	Stall time.Duration
}

// A Backend is the cache in one bucket below one prefix.
type Backend struct {
	cfg     Config
	client  *sdk.Client
	http    *http.Client
	blobs   string // prefix of the keys of blobs
	indexes string // prefix of the keys of indexes
	pool    *parts.Pool
	puts    chan struct{} // nil for no limit
	sends   chan struct{}
	policy  retry.Policy
	copyMax int64 // bytes of an object that one request copies
	tls     bool
	faults  retry.Recent

	mu       sync.Mutex // guards the fields below
	held     map[digest.Digest]object
	absent   map[digest.Digest]bool // found missing by the last question
	touching []<-chan struct{}      // closed when touches have ended
}

var (
	_ remotecache.Keeper = (*Backend)(nil)
	_ remotecache.Guard  = (*Backend)(nil)
)

const (
	mib = 1 << 20

	leastPart = 5 * mib  // S3's lower limit, but for the last part
	mostParts = 10_000   // S3's limit
	partSize  = 8 * mib  // what AWS advises for transfers: 8 to 16 MiB
	mostPart  = 64 * mib // beyond, fewer parts gain nothing and a retry costs much
	rangeSize = 4 * mib
	copyMax   = 5 << 30 // S3's limit of CopyObject
)

// New returns the cache that cfg names. Nothing is sent.
func New(cfg Config) (*Backend, error) {
	if cfg.Bucket == "" {
		return nil, errors.New("the s3 cache needs bucket=<name>")
	}
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("s3 cache in bucket %q: %w", cfg.Bucket, err)
	}
	b := &Backend{
		cfg:     cfg,
		http:    cfg.HTTP,
		blobs:   cfg.Prefix + orDefault(cfg.BlobsPrefix, "blobs/"),
		indexes: cfg.Prefix + orDefault(cfg.ManifestsPrefix, "manifests/"),
		pool:    parts.NewPool(rangeSize, int(max(1, cfg.ReadAhead/rangeSize))),
		sends:   make(chan struct{}, cfg.Sends),
		policy:  cfg.policy(),
		copyMax: copyMax,
		held:    map[digest.Digest]object{},
		absent:  map[digest.Digest]bool{},
	}
	if cfg.UploadParallelism > 0 {
		b.puts = make(chan struct{}, cfg.UploadParallelism)
	}
	if b.http == nil {
		b.http = newHTTP(cfg)
	}
	b.client = newClient(cfg, b.http, func(err error) { b.faults.Note(answerOf(err)) })
	endpoint := b.client.Options().BaseEndpoint
	b.tls = endpoint == nil || strings.HasPrefix(*endpoint, "https:")
	return b, nil
}

// complete checks cfg and puts the defaults in.
func (cfg *Config) complete() error {
	if (cfg.AccessKeyID == "") != (cfg.SecretAccessKey == "") {
		return errors.New("access_key_id and secret_access_key are given together or not at all")
	}
	if (cfg.RoleARN == "") != (cfg.Token == nil) {
		return errors.New("a role is assumed with a token: give both or none")
	}
	if cfg.EndpointURL != "" {
		u, err := url.Parse(cfg.EndpointURL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			return errors.New("endpoint_url is not a URL such as https://minio.example.com, without credentials in it")
		}
		cfg.Region = cmp.Or(cfg.Region, cfg.regionOfAWS(), "us-east-1")
	}
	cfg.Region = cmp.Or(cfg.Region, cfg.regionOfAWS())
	if cfg.Region == "" {
		return errors.New("it needs region=<name>")
	}
	if cfg.RetryMode == "" && cfg.AWS != nil {
		cfg.RetryMode = cfg.AWS.RetryMode
	}
	switch cfg.RetryMode {
	case "", aws.RetryModeStandard, aws.RetryModeAdaptive:
	default:
		return fmt.Errorf("retry_mode %q is neither standard nor adaptive", cfg.RetryMode)
	}
	if cfg.RetryMaxAttempts == 0 && cfg.AWS != nil {
		cfg.RetryMaxAttempts = cfg.AWS.RetryMaxAttempts
	}
	cfg.RetryMaxAttempts = cmp.Or(max(cfg.RetryMaxAttempts, 0), 5)
	cfg.RetryBackoff = cmp.Or(cfg.RetryBackoff, 200*time.Millisecond)
	cfg.TouchRefresh = cmp.Or(cfg.TouchRefresh, 24*time.Hour)
	cfg.Sends = cmp.Or(max(cfg.Sends, 0), 32)
	cfg.PartSize = max(leastPart, cmp.Or(cfg.PartSize, partSize))
	cfg.ReadAhead = cmp.Or(cfg.ReadAhead, 32*mib)
	cfg.Stall = cmp.Or(cfg.Stall, remotecache.StallAfter)
	return nil
}

func (cfg *Config) regionOfAWS() string {
	if cfg.AWS == nil {
		return ""
	}
	return cfg.AWS.Region
}

func orDefault(s *string, def string) string {
	if s == nil {
		return def
	}
	return *s
}

// SplitName splits a name of BuildKit's name=, one of a list, into what has to
// follow ManifestsPrefix and the ref: BuildKit takes a name with slashes, such
// as that of a branch, for a key as it is. The error tells of a character that
// a ref cannot have.
func SplitName(name string) (folder, ref string, err error) {
	i := strings.LastIndexByte(name, '/') + 1
	folder, ref = name[:i], name[i:]
	return folder, ref, remotecache.CheckRef(ref)
}

// String names the place: "s3://bucket/prefix".
func (b *Backend) String() string { return "s3://" + b.cfg.Bucket + "/" + b.cfg.Prefix }

// Writable implements remotecache.Guard: whether credentials may write is not
// known before a request.
func (b *Backend) Writable() error { return nil }

// Close waits for touches that are under way, which end with the context they
// were begun with, and gives connections back.
func (b *Backend) Close() error {
	b.settle(context.Background())
	if b.cfg.HTTP == nil {
		b.http.CloseIdleConnections()
	}
	return nil
}

func (b *Backend) blobKey(d digest.Digest) string { return b.blobs + d.String() }

// digestOf returns the digest of the blob with a key.
func (b *Backend) digestOf(key string) (digest.Digest, bool) {
	name, ok := strings.CutPrefix(key, b.blobs)
	d := digest.Digest(name)
	return d, ok && d.Validate() == nil
}

// enter takes a slot of a limit, where there is one.
func enter(ctx context.Context, slots chan struct{}) (leave func(), err error) {
	if slots == nil {
		return func() {}, ctx.Err()
	}
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
