package azblob

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache"
)

// use is what was to be done when an error came.
type use int

const (
	reading use = iota
	writing
)

// creating is the error of making the container.
type creating struct{ error }

func (c *creating) Unwrap() error { return c.error }

// fail gives an error the meaning it has for a cache, and takes out of its
// text what nobody may see. The SDK has tried as often as makes sense.
func (b *Backend) fail(ctx context.Context, u use, what string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = b.faults.Interrupted(ctx)
	} else {
		err = b.explain(u, err)
	}
	return remotecache.Tried(fmt.Errorf("azblob cache %s/%s: %s: %w", b.auth.place, b.cfg.Container, what, err))
}

func (b *Backend) explain(u use, err error) error {
	if re, ok := errors.AsType[*azcore.ResponseError](err); ok {
		a := answerOf(re)
		_, making := errors.AsType[*creating](err)
		a.means = meaning(u, a)
		if a.status == http.StatusForbidden && b.expired(a) {
			a.means = nil // nothing may be done with it
		}
		return hint.With(a, b.advice(u, a, making))
	}
	if _, ok := errors.AsType[interface {
		error
		NonRetriable() // the mark of all errors on the way to a token
	}](err); ok && b.auth.kind == byToken {
		return b.noToken(err)
	}
	err = b.hide(err)
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		err = hint.With(err, "check the account's name in account_url")
	}
	return err
}

// hide takes out of an error what the SDK and net/http put into its text: the
// URL, of which a SAS is part.
func (b *Backend) hide(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	if text := err.Error(); b.auth.redact(text) != text {
		err = errors.New(b.auth.redact(text))
	}
	return err
}

// An answer is the service's refusal of a request. The SDK's own error is not
// kept: its text is a page long.
type answer struct {
	status  int
	code    string // "BlobNotFound"; may be ""
	message string // the service's words; may be ""
	request string // what support asks for; "" below 500

	ahead time.Duration // how far this machine's clock is ahead of the service's
	means error         // a sentinel of remotecache, or nil
}

func (a *answer) Error() string {
	s := fmt.Sprint(a.status)
	if a.means == remotecache.ErrReadOnly {
		s = a.means.Error() + ": " + s
	}
	if a.code != "" {
		s += " " + a.code
	} else {
		s += " " + http.StatusText(a.status)
	}
	if a.message != "" {
		s += ": " + a.message
	}
	if a.request != "" {
		s += " (request " + a.request + ")"
	}
	return s
}

func (a *answer) Unwrap() error { return a.means }

// statusOf returns the HTTP status of the answer that err is, 0 for others.
func statusOf(err error) int {
	if re, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return re.StatusCode
	}
	return 0
}

func answerOf(re *azcore.ResponseError) *answer {
	a := &answer{status: re.StatusCode, code: re.ErrorCode}
	if re.RawResponse == nil {
		return a
	}
	head := re.RawResponse.Header
	if at, err := http.ParseTime(head.Get("Date")); err == nil {
		a.ahead = time.Since(at).Round(time.Minute)
	}
	if a.status >= 500 {
		a.request = oneLine(head.Get("x-ms-request-id"), 80)
	}
	var doc struct{ Message string }             // AuthenticationErrorDetail may quote signatures
	body, err := runtime.Payload(re.RawResponse) // in memory since the SDK read it
	if err == nil && xml.Unmarshal(bytes.TrimPrefix(body, []byte("\ufeff")), &doc) == nil {
		text, _, _ := strings.Cut(doc.Message, "\n") // then RequestId and Time
		a.message = oneLine(text, 300)
	}
	return a
}

func meaning(u use, a *answer) error {
	switch {
	case u == writing && a.status == http.StatusForbidden && !a.stranger():
		return remotecache.ErrReadOnly
	case u == writing:
		return nil
	case a.status == http.StatusNotFound,
		a.status == http.StatusPreconditionFailed, // replaced since it was opened
		a.is(bloberror.BlobArchived, bloberror.BlobBeingRehydrated):
		return remotecache.ErrNotFound
	case a.status == http.StatusRequestedRangeNotSatisfiable: // shorter than it should be
		return remotecache.ErrCorrupt
	}
	return nil
}

func (a *answer) is(codes ...bloberror.Code) bool {
	for _, c := range codes {
		if a.code == string(c) {
			return true
		}
	}
	return false
}

// stranger reports whether the service does not believe us to be who we are,
// which is another thing than not letting us do something.
func (a *answer) stranger() bool {
	return a.status == http.StatusUnauthorized || a.status == http.StatusForbidden &&
		(a.is(bloberror.AuthenticationFailed) || strings.HasPrefix(a.message, "Server failed to authenticate the request"))
}

// skew is how wrong a clock may be; the service takes 15 minutes.
const skew = 5 * time.Minute

// advice says what to do about an answer.
func (b *Backend) advice(u use, a *answer, making bool) string {
	switch {
	case a.is(bloberror.ContainerNotFound):
		return fmt.Sprintf("check container=%s; the first export makes it", b.cfg.Container)
	case a.is(bloberror.BlobArchived, bloberror.BlobBeingRehydrated):
		return "keep the cache out of the archive tier: see the account's lifecycle management"
	case a.is(bloberror.ContainerBeingDeleted):
		return "wait until the container is deleted, or choose another one with container=…"
	case a.is("KeyBasedAuthenticationNotPermitted"):
		return "the account takes no keys: leave out secret_access_key, and " + role(u)
	case a.stranger(), a.status == http.StatusForbidden && b.expired(a):
		return b.credentialAdvice(a)
	case a.status == http.StatusForbidden && making:
		return fmt.Sprintf("create the container %s, or %s on the account", b.cfg.Container, role(u))
	case a.status == http.StatusForbidden:
		return b.permissions(u)
	}
	return ""
}

// credentialAdvice is about a credential that the service does not know.
func (b *Backend) credentialAdvice(a *answer) string {
	now, sas := a.now(), b.auth.sas
	switch {
	case a.ahead > skew:
		return fmt.Sprintf("set this machine's clock: it is %s ahead of the service's", a.ahead)
	case a.ahead < -skew:
		return fmt.Sprintf("set this machine's clock: it is %s behind the service's", -a.ahead)
	case b.expired(a):
		return fmt.Sprintf("make a new SAS: that of account_url ended at %s", oneLine(sas.Get("se"), 40))
	case b.auth.kind == bySAS && sasTime(sas.Get("st")).After(now):
		return fmt.Sprintf("wait, or make a new SAS: that of account_url begins at %s", oneLine(sas.Get("st"), 40))
	case b.auth.kind == bySAS:
		return "make a new SAS: the key that signed that of account_url may have been changed"
	case b.auth.kind == byKey:
		return fmt.Sprintf("check secret_access_key, and that it is a key of the account %s", b.auth.account)
	}
	return "check that the identity is of the tenant of the account " + b.auth.account
}

// now is the service's time.
func (a *answer) now() time.Time { return time.Now().Add(-a.ahead) }

// expired reports whether the SAS was at its end when the service refused it.
func (b *Backend) expired(a *answer) bool {
	return b.auth.kind == bySAS && sasTime(b.auth.sas.Get("se")).Before(a.now())
}

// sasTime reads a time of a SAS; far in the future when it is none.
func sasTime(s string) time.Time {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t
		}
	}
	return time.Unix(1<<40, 0)
}

// permissions says which of them are needed.
func (b *Backend) permissions(u use) string {
	if b.auth.kind != bySAS {
		return role(u) + ", and check the account's network rules"
	}
	may := "rl"
	if u == writing {
		may = "rcwl"
	}
	return fmt.Sprintf("make a SAS with sp=%s (d too for pruning), or %s and leave the SAS out", may, role(u))
}

func role(u use) string {
	name := "Storage Blob Data Reader"
	if u == writing {
		name = "Storage Blob Data Contributor"
	}
	return fmt.Sprintf("give the identity the role %q", name)
}

// noToken is the error of a credential that gave none.
func (b *Backend) noToken(err error) error {
	if strings.HasPrefix(b.cfg.AccountURL, "http:") {
		return hint.With(errors.New("tokens are not sent without TLS"), "begin account_url with https")
	}
	text, advice := err.Error(), ""
	if b.cfg.Assertion == nil {
		advice = "log in to Azure in this job (azure/login), give client_id and tenant_id with an OIDC token, or secret_access_key"
	}
	if failed, ok := errors.AsType[*azidentity.AuthenticationFailedError](err); ok && failed.RawResponse != nil {
		var doc struct {
			Error       string `json:"error"`
			Description string `json:"error_description"`
		}
		if b.cfg.Assertion != nil {
			advice = "add a federated credential for this job's subject to the application client_id"
		}
		body, rerr := runtime.Payload(failed.RawResponse)
		if rerr == nil && json.Unmarshal(body, &doc) == nil && doc.Description != "" {
			text, _, _ = strings.Cut(doc.Description, "Trace ID:")
			text = fmt.Sprintf("%d %s: %s", failed.RawResponse.StatusCode, doc.Error, text)
		}
	}
	return hint.With(fmt.Errorf("get a token: %s", oneLine(text, 600)), advice)
}

// oneLine makes foreign text safe for an error: no control characters, not
// more than limit bytes.
func oneLine(s string, limit int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
	s = strings.ToValidUTF8(s, "")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}
