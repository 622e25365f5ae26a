package services

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// AzuriteConfig says how to start azurite.
type AzuriteConfig struct {
	// TLS serves HTTPS with a certificate of CAFile, and takes bearer tokens
	// besides the account's key: their issuer, audience and times are looked
	// at, their signature is not.
	TLS bool
}

// An Azurite is a running azurite-blob: the Azure Blob service with one
// account and no container.
type Azurite struct {
	URL     string // of the account, without a final slash
	Account string
	Key     string // of the account, base64; azurite's documented one, and no secret
	CAFile  string // PEM file of the certificate to trust; "" without TLS
	Dir     string // where it keeps the blobs

	p   *process
	dir string
}

// The account that azurite has when it is not told of others.
const (
	azuriteAccount = "devstoreaccount1"
	azuriteKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// StartAzurite starts the azurite that hack/setup.sh installed, on a free
// loopback port and an empty temporary directory that Close removes.
func StartAzurite(cfg AzuriteConfig) (*Azurite, error) {
	bin, err := Tool("azurite-blob")
	if err != nil {
		return nil, err
	}
	a := &Azurite{Account: azuriteAccount, Key: azuriteKey}
	if a.dir, err = os.MkdirTemp("", "mayfly-azurite-"); err != nil {
		return nil, fmt.Errorf("make azurite's directory: %w", err)
	}
	a.Dir = filepath.Join(a.dir, "data")
	if err := a.start(bin, cfg); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func (a *Azurite) start(bin string, cfg AzuriteConfig) error {
	addr, err := freeAddr()
	if err != nil {
		return fmt.Errorf("find a port for azurite: %w", err)
	}
	host, port, _ := strings.Cut(addr, ":") // loopback of IPv4
	args := []string{"--blobHost", host, "--blobPort", port, "--location", a.Dir,
		"--silent", "--skipApiVersionCheck", "--disableTelemetry"}
	scheme, client := "http", &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	if cfg.TLS {
		cert, err := writeCertificate(a.dir)
		if err != nil {
			return err
		}
		scheme, a.CAFile = "https", cert.file
		args = append(args, "--oauth", "basic", "--cert", cert.file, "--key", cert.key)
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(cert.pem)
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	}
	a.URL = scheme + "://" + addr + "/" + a.Account
	cmd := exec.Command(bin, args...)
	cmd.Dir = a.dir
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "AZURITE_") { // other accounts, a database
			cmd.Env = append(cmd.Env, kv)
		}
	}
	a.p, err = start(cmd, func() bool {
		resp, err := client.Get(a.URL + "?comp=list")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusForbidden // there, and not for strangers
	})
	return err
}

// Close stops azurite and removes what it kept.
func (a *Azurite) Close() error {
	var err error
	if a.p != nil {
		err = a.p.stop()
	}
	return errors.Join(err, os.RemoveAll(a.dir))
}
