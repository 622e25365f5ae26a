package registry

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/retry"
)

var (
	// ErrNotFound says that the registry has no such manifest or blob.
	ErrNotFound = errors.New("not found")

	// ErrShort says that the registry has fewer bytes of a blob than its
	// descriptor says.
	ErrShort = errors.New("the registry has only a part of it")

	// ErrDenied says that the registry wants other credentials, or none will do.
	ErrDenied = errors.New("access denied")

	// ErrBlobUnknown says that a manifest names a blob that the registry does
	// not hold, though it was believed to: put the blobs again.
	ErrBlobUnknown = errors.New("blob unknown")
)

// An Error is a registry's answer that was not the wanted one. It matches
// ErrNotFound, ErrDenied and ErrBlobUnknown with errors.Is.
type Error struct {
	Status  int    // HTTP status
	Code    string // the registry's code: "MANIFEST_UNKNOWN"; may be ""
	Message string // the registry's own words; may be ""

	retryAfter time.Duration
}

func (e *Error) Error() string {
	s := fmt.Sprint(e.Status)
	switch {
	case e.Code != "":
		s += " " + e.Code
	case http.StatusText(e.Status) != "":
		s += " " + http.StatusText(e.Status)
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// Is reports whether the answer means the sentinel target.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrNotFound:
		return e.Status == http.StatusNotFound
	case ErrDenied:
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
	case ErrBlobUnknown:
		return e.Code == "MANIFEST_BLOB_UNKNOWN" || e.Code == "BLOB_UNKNOWN" && e.Status != http.StatusNotFound
	}
	return false
}

// answerError makes an Error of a response and reads (some of) its body.
func answerError(resp *http.Response, now time.Time) *Error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	e := parseError(resp.StatusCode, body)
	e.retryAfter = retry.After(resp.Header.Get("Retry-After"), now)
	return e
}

// Retry reports whether the registry may answer otherwise later (see
// retry.Advisor).
func (e *Error) Retry() (again bool, after time.Duration) {
	return retry.Status(e.Status), e.retryAfter
}

func parseError(status int, body []byte) *Error {
	e := &Error{Status: status}
	var doc struct {
		Errors []struct{ Code, Message string }
		// The forms of token servers.
		Details     string
		Description string `json:"error_description"`
	}
	if json.Unmarshal(body, &doc) == nil {
		switch {
		case len(doc.Errors) > 0:
			e.Code, e.Message = doc.Errors[0].Code, doc.Errors[0].Message
		case doc.Details != "":
			e.Message = doc.Details
		default:
			e.Message = doc.Description
		}
	} else if text := strings.TrimSpace(string(body)); !strings.HasPrefix(text, "<") {
		e.Message = text
	}
	e.Code, e.Message = oneLine(e.Code, 80), oneLine(e.Message, 300)
	if strings.EqualFold(e.Message, http.StatusText(status)) && e.Code == "" {
		e.Message = ""
	}
	return e
}

// oneLine makes foreign text safe for an error: no control characters, not
// more than limit bytes.
func oneLine(s string, limit int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r == ' ' }), " ")
	s = strings.ToValidUTF8(s, "")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// plain takes the URL out of an error of net/http: it may carry a signature
// or a token of a blob's CDN.
func plain(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// explain adds what was wanted and, where the cause is known, what to do.
func explain(err error, verb string, ref Ref, push bool) error {
	if err == nil {
		return nil
	}
	wrapped := fmt.Errorf("%s %s: %w", verb, ref, err)
	return hint.With(wrapped, adviceFor(err, ref, push))
}

func adviceFor(err error, ref Ref, push bool) string {
	if hint.Of(err) != "" {
		return ""
	}
	host := ref.Host
	if e, ok := errors.AsType[*Error](err); ok {
		switch {
		case errors.Is(e, ErrDenied) && push && host == "ghcr.io":
			return "give the job `permissions: packages: write` and log in with `docker login ghcr.io`"
		case errors.Is(e, ErrDenied) && push:
			return fmt.Sprintf("log in with `%s`, as a user who may push to %s", login(host), ref.Repo)
		case errors.Is(e, ErrDenied):
			return fmt.Sprintf("check that %s exists; if it is private, log in with `%s`", ref.Name(), login(host))
		case e.Code == "NAME_UNKNOWN", e.Code == "MANIFEST_UNKNOWN", e.Status == http.StatusNotFound:
			return fmt.Sprintf("check the name and tag of %s", ref.Familiar())
		case e.Status == http.StatusTooManyRequests:
			return fmt.Sprintf("%s limits its clients: log in with `%s` or use a mirror", host, login(host))
		}
		return ""
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return fmt.Sprintf("check the name of the registry %s", host)
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("check that a registry listens on %s", host)
	case speaksPlainHTTP(err):
		return fmt.Sprintf("%s speaks plain HTTP, not TLS; allow it with registry.insecure=true", host)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return certAdvice(host)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return certAdvice(host)
	}
	return ""
}

func certAdvice(host string) string {
	return fmt.Sprintf("install the certificate authority of %s, or accept any certificate with registry.insecure=true", host)
}

func login(host string) string {
	if host == "docker.io" {
		return "docker login"
	}
	return "docker login " + host
}

// speaksPlainHTTP reports whether a TLS handshake met a server without TLS.
func speaksPlainHTTP(err error) bool {
	if errors.Is(err, http.ErrSchemeMismatch) {
		return true
	}
	_, ok := errors.AsType[tls.RecordHeaderError](err)
	return ok
}
