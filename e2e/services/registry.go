package services

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// RegistryConfig says what registry to start.
type RegistryConfig struct {
	Dir      string // where it keeps its files; "" means a temporary directory that Close removes
	User     string // when set, every request needs this user and Password
	Password string
	TLS      bool // serve HTTPS with a certificate of CAFile
	Version  int  // 3 is distribution's own, of hack/setup.sh; 0 and 2 are Debian's docker-registry
}

// A Registry is a running docker-registry with an access log.
type Registry struct {
	Addr   string // host:port
	CAFile string // PEM file of the certificate to trust; "" without TLS

	p       *process
	dir     string
	remove  bool
	logFile *os.File
	client  *http.Client
}

// StartRegistry starts a registry on a free loopback port.
func StartRegistry(cfg RegistryConfig) (*Registry, error) {
	name := "docker-registry"
	if cfg.Version == 3 {
		name = "registry"
	}
	bin, err := Tool(name)
	if err != nil {
		return nil, err
	}
	r := &Registry{dir: cfg.Dir, client: &http.Client{Timeout: 5 * time.Second}}
	if r.dir == "" {
		if r.dir, err = os.MkdirTemp("", "mayfly-registry-"); err != nil {
			return nil, fmt.Errorf("make the registry's directory: %w", err)
		}
		r.remove = true
	} else if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, err
	}
	if err := r.start(bin, cfg); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Registry) start(bin string, cfg RegistryConfig) error {
	var err error
	if r.Addr, err = freeAddr(); err != nil {
		return fmt.Errorf("find a port for the registry: %w", err)
	}
	conf := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: false}}\n"+
		"storage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}\n", filepath.Join(r.dir, "data"))
	httpConf := fmt.Sprintf("http:\n  addr: %s\n", r.Addr)
	if cfg.User != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(cfg.Password), bcrypt.MinCost)
		if err != nil {
			return fmt.Errorf("hash the registry's password: %w", err)
		}
		f := filepath.Join(r.dir, "htpasswd")
		if err := os.WriteFile(f, fmt.Appendf(nil, "%s:%s\n", cfg.User, hash), 0o600); err != nil {
			return err
		}
		conf += fmt.Sprintf("auth: {htpasswd: {realm: mayfly, path: %q}}\n", f)
	}
	scheme := "http"
	if cfg.TLS {
		scheme = "https"
		cert, err := writeCertificate(r.dir)
		if err != nil {
			return err
		}
		r.CAFile = cert.file
		httpConf += fmt.Sprintf("  tls: {certificate: %q, key: %q}\n", cert.file, cert.key)
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(cert.pem)
		r.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	}
	confFile := filepath.Join(r.dir, "config.yml")
	if err := os.WriteFile(confFile, []byte(conf+httpConf), 0o600); err != nil {
		return err
	}
	if r.logFile, err = os.OpenFile(filepath.Join(r.dir, "access.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return err
	}
	cmd := exec.Command(bin, "serve", confFile)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none") // version 3 sends traces otherwise
	cmd.Stdout = r.logFile
	r.p, err = start(cmd, func() bool {
		resp, err := r.client.Get(scheme + "://" + r.Addr + "/v2/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusUnauthorized
	})
	return err
}

// Close stops the registry and removes its temporary directory.
func (r *Registry) Close() error {
	var errs []error
	if r.p != nil {
		errs = append(errs, r.p.stop())
	}
	if r.logFile != nil {
		errs = append(errs, r.logFile.Close())
	}
	if r.remove {
		errs = append(errs, os.RemoveAll(r.dir))
	}
	return errors.Join(errs...)
}

// BlobPath returns the file in which the registry keeps the blob with a
// digest such as "sha256:…", for tests that damage it.
func (r *Registry) BlobPath(digest string) string {
	alg, hex, _ := strings.Cut(digest, ":")
	if len(hex) < 2 {
		return ""
	}
	return filepath.Join(r.dir, "data/docker/registry/v2/blobs", alg, hex[:2], hex, "data")
}

// A Request is one line of a registry's access log.
type Request struct {
	Method string
	Path   string // with query
	Status int
	Bytes  int64 // of the response
}

// Blob reports whether the request is about a blob, not an upload or manifest.
func (q Request) Blob() bool {
	return strings.Contains(q.Path, "/blobs/sha256:")
}

// String gives the request as the log has it.
func (q Request) String() string {
	return fmt.Sprintf("%s %s %d %d", q.Method, q.Path, q.Status, q.Bytes)
}

// logLine matches the Apache combined log format, which docker-registry writes.
var logLine = regexp.MustCompile(`^\S+ \S+ \S+ \[[^]]*\] "(\S+) (\S+) [^"]*" (\d+) (\d+) `)

// Requests returns every request since the start. The registry writes a line
// when it has answered, so the last answer may be missing for some
// milliseconds: Requests waits until the log is quiet.
func (r *Registry) Requests() ([]Request, error) {
	name := r.logFile.Name()
	size := int64(-1)
	for {
		st, err := os.Stat(name)
		if err != nil {
			return nil, fmt.Errorf("read the registry's log: %w", err)
		}
		if st.Size() == size {
			break
		}
		size = st.Size()
		time.Sleep(20 * time.Millisecond)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the registry's log: %w", err)
	}
	var out []Request
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		m := logLine.FindStringSubmatch(s.Text())
		if m == nil {
			continue
		}
		status, _ := strconv.Atoi(m[3])        // three digits, by the expression
		n, _ := strconv.ParseInt(m[4], 10, 64) // digits, by the expression
		out = append(out, Request{m[1], m[2], status, n})
	}
	return out, nil
}
