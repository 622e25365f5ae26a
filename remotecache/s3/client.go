package s3

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	sdkretry "github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/mayfly-build/mayfly/internal/retry"
	"github.com/mayfly-build/mayfly/internal/stall"
	"github.com/mayfly-build/mayfly/remotecache"
)

func newClient(cfg Config, client *http.Client, again func(error)) *sdk.Client {
	base := aws.Config{}
	if cfg.AWS != nil {
		base = *cfg.AWS
	}
	return sdk.NewFromConfig(base, func(o *sdk.Options) {
		o.Region = cfg.Region
		o.Credentials = credentialsOf(cfg, client)
		o.HTTPClient = client
		o.Retryer = newRetryer(cfg, again)
		o.RetryMaxAttempts = 0 // the Retryer knows
		o.UsePathStyle = cfg.UsePathStyle
		if cfg.EndpointURL != "" {
			o.BaseEndpoint = aws.String(cfg.EndpointURL)
		}
		// Trailing checksums are what services other than AWS stumble over,
		// and blobs have a digest of their own.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.DisableLogOutputChecksumValidationSkipped = true
		o.Logger = logging.Nop{}
		if cfg.DisableAcceptEncoding {
			o.APIOptions = append(o.APIOptions, func(s *middleware.Stack) error {
				// The name of what puts "Accept-Encoding: identity" in before
				// the request is signed. The transport adds none of its own.
				_, err := s.Finalize.Remove("DisableAcceptEncodingGzip")
				return err
			})
		}
	})
}

// agreed is for bodies of requests that need not be agreed to one by one.
func agreed(o *sdk.Options) { o.ContinueHeaderThresholdBytes = -1 }

// unsignedPayload leaves the digest of a request's body out of its signature,
// which saves reading it twice.
func unsignedPayload(o *sdk.Options) {
	o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
}

// signedPayload signs a digest (SHA-256, hex) that is known, which saves
// reading the body twice.
func signedPayload(o *sdk.Options, sha256 string) {
	o.APIOptions = append(o.APIOptions, func(s *middleware.Stack) error {
		return s.Initialize.Add(middleware.InitializeMiddlewareFunc("PayloadDigest",
			func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
				return next.HandleInitialize(v4.SetPayloadHash(ctx, sha256), in)
			}), middleware.Before)
	})
}

// newHTTP returns a client for many requests at once to one host.
func newHTTP(cfg Config) *http.Client {
	tr := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		MaxIdleConnsPerHost:   128,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: 500 * time.Millisecond,
		DisableCompression:    true, // blobs are, and Accept-Encoding is signed
		ReadBufferSize:        64 << 10,
		WriteBufferSize:       64 << 10,
		// HTTP/2 would put all transfers on one TCP connection.
		Protocols: new(http.Protocols),
	}
	tr.Protocols.SetHTTP1(true)
	if cfg.AWS != nil {
		// The certificate authorities of AWS_CA_BUNDLE are here.
		if c, ok := cfg.AWS.HTTPClient.(*awshttp.BuildableClient); ok {
			tr.TLSClientConfig = c.GetTransport().TLSClientConfig
		}
	}
	if tr.TLSClientConfig == nil {
		tr.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return &http.Client{
		Transport: stall.Transport(expecting{tr}, cfg.Stall),
		// A redirect tells of another region. The signature is not for there.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// expecting makes net/http wait, as the header Expect says, for the service to
// agree to a request before its body is sent. It does so for HTTP/1.1 only,
// which the SDK's requests do not claim to be. Without it, a refusal may get
// lost because the connection breaks under the body.
type expecting struct{ *http.Transport }

func (e expecting) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	return e.Transport.RoundTrip(r)
}

// newRetryer has the SDK try again as internal/retry would: what is a passing
// fault, and how long to wait, is decided there. again is told what is tried
// again.
func newRetryer(cfg Config, again func(error)) aws.Retryer {
	standard := func(o *sdkretry.StandardOptions) {
		o.MaxAttempts = cfg.RetryMaxAttempts
		o.Retryables = []sdkretry.IsErrorRetryable{sdkretry.IsErrorRetryableFunc(func(err error) aws.Ternary {
			return aws.BoolTernary(passing(err))
		})}
		o.Backoff = sdkretry.BackoffDelayerFunc(func(attempt int, err error) (time.Duration, error) {
			wish := after(err)
			if more, _ := cfg.policy().Again(attempt, asking{err, wish}); !more {
				return 0, err
			}
			again(err)
			return max(cfg.backoff(attempt), wish), nil
		})
		// The SDK's budget of retries is for services that are down. Here a
		// few hundred requests at once may each meet one fault.
		o.RateLimiter = ratelimit.None
	}
	if cfg.RetryMode == aws.RetryModeAdaptive {
		return sdkretry.NewAdaptiveMode(func(o *sdkretry.AdaptiveModeOptions) {
			o.StandardOptions = append(o.StandardOptions, standard)
		})
	}
	return sdkretry.NewStandard(standard)
}

// policy is how often a request is tried.
func (cfg *Config) policy() retry.Policy {
	p := remotecache.DefaultPolicy()
	p.Attempts, p.Backoff = cfg.RetryMaxAttempts, cfg.RetryBackoff
	return p
}

// asking is a passing fault with the pause that the service asks for.
type asking struct {
	error
	after time.Duration
}

func (a asking) Unwrap() error                { return a.error }
func (a asking) Retry() (bool, time.Duration) { return true, a.after }

// backoff is the pause of retry.Policy: doubled for each further try, half of
// it chance; at most 20s.
func (cfg *Config) backoff(attempt int) time.Duration {
	pause := min(cfg.RetryBackoff<<min(max(attempt-1, 0), 10), 20*time.Second)
	return pause/2 + rand.N(pause/2+1)
}

// passing reports whether the same request may have another answer later.
func passing(err error) bool {
	if _, ok := errors.AsType[*sourceError](err); ok {
		return false
	}
	if _, ok := errors.AsType[*credentialsError](err); ok {
		return false // those who give them have been asked often enough
	}
	if canceled, ok := errors.AsType[interface {
		error
		CanceledError() bool
	}](err); ok && canceled.CanceledError() {
		return false
	}
	if skew, ok := errors.AsType[interface {
		error
		RetryableError() bool
	}](err); ok {
		return skew.RetryableError() // the SDK has seen how far the clock is off
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		switch api.ErrorCode() {
		case "RequestTimeout", "RequestTimeoutException", "SlowDown", "Throttling", "ThrottlingException",
			"TooManyRequests", "RequestLimitExceeded", "BandwidthLimitExceeded", "InternalError", "ServiceUnavailable":
			return true // whatever the status: RequestTimeout comes as 400
		}
	}
	if resp, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && resp.HTTPStatusCode() >= 300 {
		return retry.Status(resp.HTTPStatusCode())
	}
	again, _ := retry.Passing(err)
	return again
}

// after is how long the service asked to wait.
func after(err error) time.Duration {
	resp, ok := errors.AsType[*smithyhttp.ResponseError](err)
	if !ok || resp.Response == nil {
		return 0
	}
	ms, _ := strconv.Atoi(resp.Response.Header.Get("X-Amz-Retry-After"))
	return max(retry.After(resp.Response.Header.Get("Retry-After"), time.Now()),
		min(time.Duration(ms)*time.Millisecond, time.Minute))
}
