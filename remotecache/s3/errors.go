package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache"
)

// access is what a request wants of the bucket.
type access int

const (
	reading access = iota
	writing
	removing
)

// fail gives an error of the SDK the meaning it has for a cache, and says what
// was being done. The SDK has tried as often as makes sense.
func (b *Backend) fail(ctx context.Context, want access, err error, doing string, args ...any) error {
	if err == nil {
		return nil
	}
	doing = fmt.Sprintf(doing, args...)
	if src, ok := errors.AsType[*sourceError](err); ok {
		return fmt.Errorf("%s: %w", doing, src.err)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", doing, b.faults.Interrupted(ctx))
	}
	a := answerOf(err)
	advice, meaning := b.meaning(want, a)
	wrapped := fmt.Errorf("%s: %w", doing, a)
	if meaning != nil {
		wrapped = fmt.Errorf("%s: %w: %w", doing, meaning, a)
	}
	return remotecache.Tried(hint.With(wrapped, advice))
}

// meaning returns what the user should do about an answer, and what it is for
// a cache, nil when it is just a failure.
func (b *Backend) meaning(want access, a *answer) (advice string, meaning error) {
	where := fmt.Sprintf("arn:aws:s3:::%s/%s*", b.cfg.Bucket, b.cfg.Prefix)
	if _, ok := errors.AsType[*credentialsError](a); ok {
		if b.cfg.RoleARN != "" {
			return fmt.Sprintf("let the role %s trust the identity of this job; in GitHub Actions the job needs `permissions: id-token: write`", b.cfg.RoleARN), nil
		}
		return "give access_key_id and secret_access_key, or let the job find credentials of AWS", nil
	}
	switch a.code {
	case "NoSuchBucket":
		if want == reading {
			meaning = remotecache.ErrNotFound
		}
		return fmt.Sprintf("create the bucket %s, or correct bucket= and endpoint_url=", b.cfg.Bucket), meaning
	case "XAmzContentSHA256Mismatch", "BadDigest":
		return "", remotecache.ErrCorrupt // what was sent is not the blob
	case "InvalidObjectState": // only reading meets it
		return fmt.Sprintf("keep %s out of archive storage classes", where), remotecache.ErrNotFound
	case "RequestTimeTooSkewed":
		return "set this machine's clock: it is more than 15 minutes off", nil
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken":
		return "give credentials that outlive the build, or let mayfly assume a role, whose credentials it renews", nil
	case "InvalidAccessKeyId", "InvalidClientTokenId", "XAdminUserNotFound": // the last one is versitygw's
		return "correct access_key_id: the service does not know it", nil
	case "SignatureDoesNotMatch":
		return "correct secret_access_key; behind Google's front end, set disable_accept_encoding=true", nil
	}
	if region := a.region(b.cfg.Region); region != "" {
		return fmt.Sprintf("set region=%s: the bucket %s is not in %s", region, b.cfg.Bucket, b.cfg.Region), nil
	}
	switch {
	case a.status == http.StatusNotFound && want == reading && a.nothing():
		return "", remotecache.ErrNotFound
	case a.status == http.StatusForbidden && want == writing:
		return fmt.Sprintf("allow s3:PutObject and s3:AbortMultipartUpload on %s to write to the cache", where), remotecache.ErrReadOnly
	case a.status == http.StatusForbidden && want == removing:
		return "allow s3:DeleteObject on " + where, remotecache.ErrReadOnly
	case a.status == http.StatusForbidden:
		return fmt.Sprintf("allow s3:GetObject on %s and s3:ListBucket on arn:aws:s3:::%s, without which what is not there is forbidden too", where, b.cfg.Bucket), nil
	}
	return "", nil
}

// An answer is an error of the SDK in a few words: what the service said, or
// why it said nothing.
type answer struct {
	status          int // 0 without an answer
	code, said      string
	request, bucket string // headers: the request's ID, the bucket's region
	err             error
}

func (a *answer) Unwrap() error { return a.err }

func (a *answer) Error() string {
	if a.status == 0 {
		return transportText(a.err)
	}
	text := fmt.Sprint(a.status)
	if a.code != "" {
		text += " " + a.code
	}
	if a.said != "" && a.said != a.code {
		text += ": " + a.said
	}
	if a.request != "" {
		text += " (request " + a.request + ")"
	}
	return text
}

// transportText returns what net/http said, without the operations around it.
func transportText(err error) string {
	if _, ok := errors.AsType[*credentialsError](err); ok {
		return err.Error()
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Error()
	}
	return err.Error()
}

func answerOf(err error) *answer {
	if cred, ok := errors.AsType[*credentialsError](err); ok {
		return &answer{err: cred} // whoever gives them may have answered, the bucket has not
	}
	if a, ok := errors.AsType[*answer](err); ok {
		return a
	}
	a := &answer{err: err}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		a.code, a.said = api.ErrorCode(), strings.TrimSpace(api.ErrorMessage())
	}
	if resp, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && resp.Response != nil && resp.Response.StatusCode >= 300 {
		a.status = resp.Response.StatusCode
		a.request = resp.Response.Header.Get("X-Amz-Request-Id")
		a.bucket = resp.Response.Header.Get("X-Amz-Bucket-Region")
		if a.code == "" {
			a.code = http.StatusText(a.status)
		}
	}
	return a
}

// nothing reports whether a 404 is about the object, and not about the user or
// the URL.
func (a *answer) nothing() bool {
	switch a.code {
	case "NoSuchKey", "NotFound", http.StatusText(http.StatusNotFound):
		return true
	}
	return false
}

// region returns the bucket's region when the answer tells that it is another
// than ours, "<its region>" when it does not say which.
func (a *answer) region(ours string) string {
	switch {
	case a.code == "PermanentRedirect", a.code == "TemporaryRedirect", a.code == "AuthorizationHeaderMalformed",
		a.code == "IllegalLocationConstraintException", a.status == http.StatusMovedPermanently, a.status == http.StatusTemporaryRedirect:
	case a.status == http.StatusBadRequest && a.bucket != "" && a.bucket != ours: // a HEAD, whose answer has no code
	default:
		return ""
	}
	if a.bucket == "" { // AWS and others say it in words
		_, after, _ := strings.Cut(strings.ReplaceAll(a.said, `"`, "'"), "expecting '")
		a.bucket, _, _ = strings.Cut(after, "'")
	}
	if a.bucket == ours {
		return ""
	}
	return cmp.Or(a.bucket, "<its region>")
}

// is reports whether an error of the SDK is an answer with one of the codes.
func is(err error, codes ...string) bool {
	a := answerOf(err)
	for _, c := range codes {
		if a.code == c {
			return true
		}
	}
	return false
}

func status(err error) int { return answerOf(err).status }

// sourceError marks what went wrong with a blob that was to be stored, and not
// with the bucket.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// source is a blob that is to be stored.
type source struct {
	r    io.ReaderAt
	size int64
}

func (s source) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.r.ReadAt(p, off)
	switch {
	case n == len(p), err == io.EOF && off+int64(n) >= s.size:
		return n, err
	case err == io.EOF:
		err = fmt.Errorf("the source ends at byte %d of %d: %w", off+int64(n), s.size, remotecache.ErrCorrupt)
	}
	return n, &sourceError{err}
}
