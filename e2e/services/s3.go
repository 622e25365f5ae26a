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
	"strconv"
	"strings"
	"time"
)

// S3Config says how to start versitygw.
type S3Config struct {
	Dir      string   // of buckets and objects; "" means a temporary one that Close removes
	TLS      bool     // serve HTTPS with a certificate of CAFile
	ReadOnly bool     // refuse whatever writes
	Args     []string // more arguments before the storage, e.g. --copy-object-threshold
}

// An S3 is a running versitygw: the S3 protocol, on files, with one bucket.
type S3 struct {
	URL             string // without a final slash; buckets are named in the path
	Region          string
	Bucket          string
	AccessKeyID     string
	SecretAccessKey string
	CAFile          string // PEM file of the certificate to trust; "" without TLS
	Dir             string // of buckets

	p   *process
	dir string // holds certificate and log
}

// StartS3 starts the versitygw that hack/setup.sh built, on a free loopback
// port.
func StartS3(cfg S3Config) (*S3, error) {
	bin, err := Tool("versitygw")
	if err != nil {
		return nil, err
	}
	s := &S3{Region: "us-east-1", Bucket: "cache", AccessKeyID: "mayfly", SecretAccessKey: "secret-of-the-tests", Dir: cfg.Dir}
	if s.dir, err = os.MkdirTemp("", "mayfly-s3-"); err != nil {
		return nil, fmt.Errorf("make versitygw's directory: %w", err)
	}
	if s.Dir == "" {
		s.Dir = filepath.Join(s.dir, "data")
	}
	if err := s.start(bin, cfg); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *S3) start(bin string, cfg S3Config) error {
	if err := os.MkdirAll(filepath.Join(s.Dir, s.Bucket), 0o755); err != nil {
		return err
	}
	addr, err := freeAddr()
	if err != nil {
		return fmt.Errorf("find a port for versitygw: %w", err)
	}
	args := []string{"--port", addr, "--region", s.Region, "--keep-alive", "--quiet", "--health", "/health", "--access-log", s.log()}
	scheme, client := "http", &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	if cfg.TLS {
		cert, err := writeCertificate(s.dir)
		if err != nil {
			return err
		}
		scheme, s.CAFile = "https", cert.file
		args = append(args, "--cert", cert.file, "--key", cert.key)
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(cert.pem)
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	}
	if cfg.ReadOnly {
		args = append(args, "--readonly")
	}
	s.URL = scheme + "://" + addr
	cmd := exec.Command(bin, append(append(args, cfg.Args...), "posix", s.Dir)...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "VGW_") && !strings.HasPrefix(kv, "LOGFILE=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "ROOT_ACCESS_KEY_ID="+s.AccessKeyID, "ROOT_SECRET_ACCESS_KEY="+s.SecretAccessKey)
	s.p, err = start(cmd, func() bool {
		resp, err := client.Get(s.URL + "/health")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return err
}

func (s *S3) log() string { return filepath.Join(s.dir, "access.log") }

// ObjectPath returns the file in which an object is kept, for tests that
// damage it or make it old.
func (s *S3) ObjectPath(key string) string {
	return filepath.Join(s.Dir, s.Bucket, filepath.FromSlash(key))
}

// Close stops versitygw and removes its temporary directory.
func (s *S3) Close() error {
	var err error
	if s.p != nil {
		err = s.p.stop()
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// An S3Request is one line of versitygw's access log.
type S3Request struct {
	Operation string // "PutObject", "ListObjectsV2"
	Key       string // "" for requests about the bucket
	Status    int
}

// Requests returns every request since the start. A line is written when a
// request has been answered, so the last ones may be missing for some
// milliseconds: Requests waits until the log is quiet.
func (s *S3) Requests() ([]S3Request, error) {
	size := int64(-1)
	for {
		st, err := os.Stat(s.log())
		if err != nil {
			return nil, fmt.Errorf("read versitygw's log: %w", err)
		}
		if st.Size() == size {
			break
		}
		size = st.Size()
		time.Sleep(20 * time.Millisecond)
	}
	b, err := os.ReadFile(s.log())
	if err != nil {
		return nil, fmt.Errorf("read versitygw's log: %w", err)
	}
	var out []S3Request
	for l := bufio.NewScanner(bytes.NewReader(b)); l.Scan(); {
		// The fields of S3's server access log; the time has a space in it.
		f := strings.Fields(l.Text())
		if len(f) < 11 || !strings.HasPrefix(f[7], "s3_") {
			continue
		}
		r := S3Request{Operation: strings.TrimPrefix(f[7], "s3_"), Key: f[8]}
		if r.Key == "-" {
			r.Key = ""
		}
		if r.Status, err = strconv.Atoi(f[10]); err != nil {
			return nil, fmt.Errorf("read versitygw's log: %q: %w", l.Text(), err)
		}
		out = append(out, r)
	}
	return out, nil
}
