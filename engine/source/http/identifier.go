// Package http fetches single files over HTTP.
//
//	op/source ──Identifier──▶ http ──Pinned──▶ op (cache key)
//	                           └──File──▶ a file on disk, made a layer by op
//
// In: an HTTP source as LLB has it. Out: first its key, which takes a
// download unless a checksum pins the file; then the file. Keys and names are
// BuildKit v0.33's.
package http

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// An Identifier says what is wanted.
type Identifier struct {
	URL      string
	Checksum digest.Digest // the file must have it; "" means any
	Filename string        // "" means the name the server or the URL gives
	Perm     int           // permission bits; 0 means 0600
	UID, GID int

	AuthHeaderSecret string // id of the secret with the Authorization header; "" means those of the host, if any

	header []headerField // sent, and part of the key
}

type headerField struct {
	Name  string
	Value string
}

// ParseIdentifier reads an HTTP source: identifier is a URL, attrs are those
// of LLB. What this package cannot honour is an error.
func ParseIdentifier(identifier string, attrs map[string]string) (Identifier, error) {
	id, err := parseIdentifier(identifier, attrs)
	if err != nil {
		return id, fmt.Errorf("http source %s: %w", redactURL(identifier), err)
	}
	return id, nil
}

func parseIdentifier(identifier string, attrs map[string]string) (Identifier, error) {
	id := Identifier{URL: identifier, Filename: attrs[pb.AttrHTTPFilename], AuthHeaderSecret: attrs[pb.AttrHTTPAuthHeaderSecret]}
	u, err := url.Parse(identifier)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return id, errors.New("this is no HTTP URL")
	}
	if v := attrs[pb.AttrHTTPChecksum]; v != "" {
		if id.Checksum, err = digest.Parse(v); err != nil {
			return id, fmt.Errorf("checksum %q: %w", v, err)
		}
	}
	for attr, n := range map[string]*int{pb.AttrHTTPPerm: &id.Perm, pb.AttrHTTPUID: &id.UID, pb.AttrHTTPGID: &id.GID} {
		v, ok := attrs[attr]
		if !ok {
			continue
		}
		i, err := strconv.ParseInt(v, 0, 64)
		if err != nil {
			return id, fmt.Errorf("attribute %s: %q is no number", attr, v)
		}
		*n = int(i)
	}
	for _, attr := range []string{pb.AttrHTTPSignatureVerifyPubKey, pb.AttrHTTPSignatureVerify} {
		if attrs[attr] != "" {
			return id, fmt.Errorf("attribute %s is not supported", attr)
		}
	}
	for attr, v := range attrs {
		name, ok := strings.CutPrefix(attr, pb.AttrHTTPHeaderPrefix)
		if !ok {
			continue
		}
		// BuildKit sends these two and drops any other.
		if name = http.CanonicalHeaderKey(name); name == "Accept" || name == "User-Agent" {
			id.header = append(id.header, headerField{Name: name, Value: v})
		}
	}
	slices.SortFunc(id.header, func(a, b headerField) int { return cmp.Compare(a.Name, b.Name) })
	return id, nil
}

// Name returns the URL without credentials.
func (id Identifier) Name() string { return redactURL(id.URL) }

// mode is what the file gets. BuildKit, too, leaves setuid and its like out.
func (id Identifier) mode() fs.FileMode {
	if id.Perm == 0 {
		return 0o600
	}
	return fs.FileMode(id.Perm) & fs.ModePerm
}

// key is the string BuildKit keys the file by.
func (id Identifier) key(name string, dgst digest.Digest, modified time.Time) (string, error) {
	k := struct {
		Filename         string
		Perm, UID, GID   int
		Checksum         digest.Digest
		LastModTime      string        `json:",omitempty"`
		AuthHeaderSecret string        `json:",omitempty"`
		Header           []headerField `json:",omitempty"`
	}{Filename: name, Perm: id.Perm, UID: id.UID, GID: id.GID, Checksum: dgst, AuthHeaderSecret: id.AuthHeaderSecret, Header: id.header}
	if !modified.IsZero() {
		k.LastModTime = modified.Format(http.TimeFormat)
	}
	dt, err := json.Marshal(k)
	if err != nil {
		return "", err
	}
	return digest.FromBytes(dt).String(), nil
}

// fileName is the wanted name, else the server's (disposition), else the
// URL's; always one that is safe in any directory.
func (id Identifier) fileName(disposition string) string {
	if id.Filename != "" {
		return safeName(id.Filename)
	}
	if name := dispositionName(disposition); name != "" {
		return safeName(name)
	}
	if u, err := url.Parse(id.URL); err == nil {
		return safeName(path.Base(u.Path))
	}
	return safeName("")
}

func safeName(s string) string {
	name := filepath.Base(strings.TrimSpace(s))
	if name == "." || name == ".." || name == "/" || strings.ContainsFunc(name, unicode.IsControl) {
		return "download"
	}
	return name
}

func redactURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(a URL that cannot be parsed)"
	}
	return u.Redacted()
}
