// Package azblob keeps a cache in a container of Azure Blob Storage.
//
//	remotecache ──blobs, Index──▶ Backend ──▶ <prefix>/blobs/<digest>
//	                                 │        <prefix>/manifests/<ref>
//	                                 └──▶ Microsoft Entra ID, for a token
//
// The layout is BuildKit's type=azblob, so that either reads what the other
// wrote: a layer is a block blob under its digest, an index one under its ref.
//
// A large layer is uploaded as blocks and downloaded as ranges, several at a
// time. An index is written on the condition that its ETag is still the one
// loaded. The container is made when a write finds none, and not looked at
// before: a token with rights on blobs alone suffices.
package azblob

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/internal/parts"
	"github.com/mayfly-build/mayfly/internal/retry"
	"github.com/mayfly-build/mayfly/remotecache"
)

// Config says where the cache is and who asks. The first of these that is
// given is the credential: SecretAccessKey, the SAS of AccountURL, Assertion;
// otherwise it is what azidentity's DefaultAzureCredential finds.
type Config struct {
	// AccountURL is "https://<account>.blob.core.windows.net", where needed
	// with a SAS for its query; required.
	AccountURL string

	AccountName string // the account that SecretAccessKey is of; "" means the first label of AccountURL's host
	Container   string // "" means buildkit-cache
	Prefix      string // of all names in the container; "" means none

	// ManifestsPrefix and BlobsPrefix follow Prefix in the names of indexes
	// and blobs. "" means "manifests" and "blobs", "." means nothing.
	ManifestsPrefix string
	BlobsPrefix     string

	SecretAccessKey string // key of the account, base64

	// Assertion returns a token of a CI service or cluster, such as GitHub's
	// OIDC token for the audience api://AzureADTokenExchange, that the
	// application ClientID of tenant TenantID trusts as a federated
	// credential. It is called each time that a token for the storage is
	// needed, from several goroutines at once. Its results are never shown.
	Assertion func(ctx context.Context) (string, error)
	TenantID  string // required with Assertion; for the default credential the tenant to ask
	ClientID  string // required with Assertion, unused without

	// AuthorityHost is the URL of Microsoft Entra ID: with an Assertion "" means
	// "https://login.microsoftonline.com/". Another one is taken to be right
	// without asking the public one about it.
	AuthorityHost string

	// Transport sends the requests, those for tokens included; nil means one of
	// the Backend's own.
	Transport http.RoundTripper

	Requests int           // requests in flight for one blob; 0 means 8
	Attempts int           // tries of one request in all; 0 means 5
	Backoff  time.Duration // pause before the second try, more than doubled for each further one; 0 means 200ms
	Stall    time.Duration // a request that moves no byte for this long is broken off and tried again; 0 means remotecache.StallAfter
}

// A Backend is the cache in one container, under one prefix.
//
// A request that fails in passing is tried again after the time that the
// service names in Retry-After, but for no longer than
// remotecache.DefaultPolicy says.
//
// Only the default credential reads the environment, and azidentity documents
// it: AZURE_TOKEN_CREDENTIALS chooses of the chain, AZURE_TENANT_ID,
// AZURE_CLIENT_ID with AZURE_CLIENT_SECRET, AZURE_CLIENT_CERTIFICATE_PATH or
// AZURE_FEDERATED_TOKEN_FILE name an application, IDENTITY_ENDPOINT and its like a
// managed identity; without them the machine's managed identity is asked for,
// and then the Azure CLI. AZURE_AUTHORITY_HOST counts unless AuthorityHost is
// set. With an Assertion it reads AZURE_REGIONAL_AUTHORITY_NAME alone.
type Backend struct {
	cfg     Config
	auth    auth
	client  *container.Client
	http    *http.Client
	buffers *parts.Pool
	policy  retry.Policy
	faults  retry.Recent
	noList  atomic.Bool // listing is not among our rights
}

var (
	_ remotecache.Keeper = (*Backend)(nil)
	_ remotecache.Guard  = (*Backend)(nil)
)

// Of the sizes: a part is what one request moves. Blobs of a part or less
// are one request. Blocks of larger blobs grow beyond 64 MiB only where there
// would be more than mostBlocks of them; the service takes 50,000.
const (
	partSize   = 8 << 20
	mostBlocks = 1000
	rangeSize  = 4 << 20 // of parts that are read
	buffers    = 8       // of them read ahead, for all blobs of a Backend together
)

// New returns the cache that cfg names. Nothing is sent.
func New(cfg Config) (*Backend, error) {
	if cfg.AccountURL == "" {
		return nil, errors.New("the azblob cache needs account_url=https://<account>.blob.core.windows.net")
	}
	cfg.Container = or(cfg.Container, "buildkit-cache")
	cfg.ManifestsPrefix = or(cfg.ManifestsPrefix, "manifests")
	cfg.BlobsPrefix = or(cfg.BlobsPrefix, "blobs")
	cfg.Requests = or(max(cfg.Requests, 0), 8)
	cfg.Attempts = or(max(cfg.Attempts, 0), 5)
	cfg.Backoff = or(max(cfg.Backoff, 0), 200*time.Millisecond)
	cfg.Stall = or(max(cfg.Stall, 0), remotecache.StallAfter)
	b := &Backend{cfg: cfg, http: clientOf(cfg), buffers: parts.NewPool(rangeSize, buffers)}
	b.policy = remotecache.DefaultPolicy()
	b.policy.Attempts, b.policy.Backoff = cfg.Attempts, cfg.Backoff
	var err error
	if b.auth, err = authOf(cfg); err != nil {
		return nil, err
	}
	if b.client, err = b.connect(); err != nil {
		return nil, err
	}
	return b, nil
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// CloseIdle closes the connections that no request uses.
func (b *Backend) CloseIdle() { b.http.CloseIdleConnections() }

// blobName returns the name that a layer has in the container.
func (b *Backend) blobName(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("%w: blob %q: %w", remotecache.ErrCorrupt, d, err)
	}
	return b.name(b.cfg.BlobsPrefix, d.String()), nil
}

// indexName returns the name that an index has in the container.
func (b *Backend) indexName(ref string) (string, error) {
	if err := remotecache.CheckRef(ref); err != nil {
		return "", err
	}
	return b.name(b.cfg.ManifestsPrefix, ref), nil
}

func (b *Backend) name(kind, base string) string { return path.Join(b.cfg.Prefix, kind, base) }

// dir returns what the names of a kind begin with.
func (b *Backend) dir(kind string) string { return strings.TrimSuffix(b.name(kind, "x"), "x") }

func (b *Backend) at(name string) *blockblob.Client { return b.client.NewBlockBlobClient(name) }
