package http

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/engine/secret"
	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/internal/retry"
)

// uploadHost is the host of URLs that BuildKit's frontend makes for a context
// that the client sends.
const uploadHost = "buildkit-session"

// Config says what a Source works with.
type Config struct {
	// Tmp makes a directory for downloads, whose end is the caller's business;
	// required.
	Tmp func() (string, error)

	// Secret returns a secret's bytes; secret.ErrNotFound when there is none.
	// nil means there are no secrets.
	Secret func(ctx context.Context, id string) ([]byte, error)

	// Upload opens what the client sends as u, a URL of the host
	// "buildkit-session". nil means the client sends nothing.
	Upload func(ctx context.Context, u *url.URL) (io.ReadCloser, error)

	Transport http.RoundTripper // nil means one like http.DefaultTransport
	UserAgent string            // "" means "mayfly"
	Retry     retry.Policy      // of a download
	Stall     time.Duration     // a download without a byte for this long is broken off and tried again; 0 means 60s
}

// A Source resolves and fetches HTTP sources. Its methods may be called from
// several goroutines at once.
type Source struct{ cfg Config }

// New returns a source; nothing is sent before it is used.
func New(cfg Config) *Source {
	if cfg.Transport == nil {
		cfg.Transport = http.DefaultTransport
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "mayfly"
	}
	if cfg.Stall <= 0 {
		cfg.Stall = time.Minute
	}
	return &Source{cfg: cfg}
}

// A File is a fetched file.
type File struct {
	Path     string // where it lies, readable by this process alone
	Name     string // what it is called in the tree; safe as a path element
	Mode     fs.FileMode
	UID, GID int
	Size     int64     // bytes
	ModTime  time.Time // the server's; the epoch when it gave none
}

// Pinned is what an Identifier named when it was resolved.
type Pinned struct {
	CacheKey     string // equal to the key of BuildKit's http source
	Digest       digest.Digest
	Name         string    // of the file
	LastModified time.Time // zero when the server did not say, or was not asked

	file *File // nil when a checksum made the download unnecessary
}

// Resolve finds out what the key of id is. With a checksum nothing is sent;
// without, the file is downloaded, and Fetch returns it.
func (s *Source) Resolve(ctx context.Context, id Identifier) (Pinned, error) {
	p := Pinned{Digest: id.Checksum, Name: id.fileName("")}
	if id.Checksum == "" {
		var err error
		if p, err = s.get(ctx, id); err != nil {
			return p, fmt.Errorf("get %s: %w", id.Name(), err)
		}
	}
	var err error
	p.CacheKey, err = id.key(p.Name, p.Digest, p.LastModified)
	return p, err
}

// Fetch returns the file p pins. The file has p's digest, or there is an
// error which names both.
func (s *Source) Fetch(ctx context.Context, id Identifier, p Pinned) (File, error) {
	if p.file != nil {
		return *p.file, nil
	}
	got, err := s.get(ctx, id)
	if err != nil {
		return File{}, fmt.Errorf("get %s: %w", id.Name(), err)
	}
	if got.Digest != p.Digest {
		os.Remove(got.file.Path)
		return File{}, hint.With(fmt.Errorf("get %s: the file's digest is %s, not %s", id.Name(), got.Digest, p.Digest),
			"if the file was meant to change, correct the checksum; if not, somebody may have changed it")
	}
	return *got.file, nil
}

// get downloads the file.
func (s *Source) get(ctx context.Context, id Identifier) (Pinned, error) {
	auth, err := s.authorization(ctx, id)
	if err != nil {
		return Pinned{}, err
	}
	dir, err := s.cfg.Tmp()
	if err != nil {
		return Pinned{}, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "download"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return Pinned{}, err
	}
	algorithm := digest.SHA256
	if id.Checksum != "" {
		algorithm = id.Checksum.Algorithm()
	}
	d := &download{s: s, id: id, auth: auth, f: f, hash: algorithm.Hash()}
	err = s.cfg.Retry.Do(ctx, func() error { return d.try(ctx) })
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.RemoveAll(dir)
		return Pinned{}, err
	}
	p := Pinned{Digest: digest.NewDigest(algorithm, d.hash), Name: id.fileName(d.header.Get("Content-Disposition"))}
	modified := time.Unix(0, 0)
	if t, err := http.ParseTime(d.header.Get("Last-Modified")); err == nil {
		p.LastModified, modified = t, t
	}
	p.file = &File{Path: f.Name(), Name: p.Name, Mode: id.mode(), UID: id.UID, GID: id.GID, Size: d.size, ModTime: modified}
	return p, nil
}

// authorization returns the Authorization header, "" for none.
func (s *Source) authorization(ctx context.Context, id Identifier) (string, error) {
	if id.AuthHeaderSecret != "" {
		if s.cfg.Secret == nil {
			return "", fmt.Errorf("secret %s: %w", id.AuthHeaderSecret, secret.ErrNotFound)
		}
		v, err := s.cfg.Secret(ctx, id.AuthHeaderSecret)
		return string(v), err
	}
	u, err := url.Parse(id.URL)
	if err != nil || s.cfg.Secret == nil {
		return "", nil
	}
	// A token is preferred to a header, as in BuildKit.
	for _, c := range []struct{ name, prefix string }{
		{"HTTP_AUTH_TOKEN_" + u.Hostname(), "Bearer "},
		{"HTTP_AUTH_HEADER_" + u.Hostname(), ""},
	} {
		v, err := s.cfg.Secret(ctx, c.name)
		if err == nil {
			return c.prefix + string(v), nil
		}
		if !errors.Is(err, secret.ErrNotFound) {
			return "", err
		}
	}
	return "", nil
}

// dispositionName returns the name in a Content-Disposition header, "" when
// there is none.
func dispositionName(header string) string {
	_, params, err := mime.ParseMediaType(header)
	if err != nil || strings.HasSuffix(params["filename"], "/") {
		return ""
	}
	return params["filename"]
}
