package signed

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/ssh"
)

// A KeySigner signs with a private key.
type KeySigner struct {
	key crypto.Signer
	pub PublicKey
}

// ParsePrivateKey reads an Ed25519 or ECDSA key (P-256 or P-384) without a
// passphrase: PEM with PKCS #8, SEC 1 or OpenSSH's format. name is that of the
// file, for errors, which say nothing of what is in it.
func ParsePrivateKey(name string, data []byte) (*KeySigner, error) {
	key, err := parsePrivateKey(data)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", name, err)
	}
	pub, err := newPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", name, err)
	}
	return &KeySigner{key: key, pub: pub}, nil
}

func parsePrivateKey(data []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(data)
	if block != nil && block.Type == "EC PARAMETERS" { // openssl ecparam writes the curve first
		block, _ = pem.Decode(rest)
	}
	if block == nil {
		if bytes.HasPrefix(bytes.TrimSpace(data), []byte("ssh-")) || bytes.HasPrefix(bytes.TrimSpace(data), []byte("ecdsa-")) {
			return nil, errors.New("this is a public key; to sign takes the private one")
		}
		return nil, errors.New("there is no PEM block in it: -----BEGIN PRIVATE KEY-----")
	}
	switch {
	case strings.HasSuffix(block.Type, "PUBLIC KEY"):
		return nil, errors.New("this is a public key; to sign takes the private one")
	case strings.Contains(block.Type, "ENCRYPTED"), block.Headers["DEK-Info"] != "":
		return nil, errPassphrase
	case !strings.HasSuffix(block.Type, "PRIVATE KEY"):
		return nil, fmt.Errorf("this is a %s; to sign takes a PRIVATE KEY", strings.ToLower(block.Type))
	}
	key, err := ssh.ParseRawPrivateKey(pem.EncodeToMemory(block))
	if _, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
		return nil, errPassphrase
	}
	if err != nil {
		return nil, err
	}
	switch k := key.(type) {
	case *ed25519.PrivateKey: // of OpenSSH's format
		return *k, nil
	case ed25519.PrivateKey:
		return k, nil
	case *ecdsa.PrivateKey:
		return k, nil
	}
	return nil, unsupported(key)
}

var errPassphrase = errors.New("it has a passphrase, which a CI job cannot type: give the key without one, as a secret of the CI service")

func unsupported(key any) error {
	kind := strings.Trim(fmt.Sprintf("%T", key), "*")
	switch key.(type) {
	case *rsa.PrivateKey, *rsa.PublicKey:
		kind = "an RSA key"
	case *ecdsa.PublicKey:
		kind = "an ECDSA key of another curve"
	}
	return fmt.Errorf("%s is not supported, but Ed25519 and ECDSA P-256 and P-384", kind)
}

// KeyID implements Signer: the SHA-256 of the public key in its PKIX form.
func (s *KeySigner) KeyID() string { return s.pub.id }

// PublicKey returns the key that verifies what s signs.
func (s *KeySigner) PublicKey() PublicKey { return s.pub }

// String returns the key ID, so that the key does not get printed.
func (s *KeySigner) String() string { return s.pub.id }

// Sign implements Signer.
func (s *KeySigner) Sign(_ context.Context, message []byte) (Signature, error) {
	opts, digest := s.pub.hashed(message)
	sig, err := s.key.Sign(rand.Reader, digest, opts)
	return Signature{Sig: sig}, err
}

// A PublicKey verifies signatures.
type PublicKey struct {
	id  string
	key crypto.PublicKey // ed25519.PublicKey, or *ecdsa.PublicKey of P-256 or P-384
}

// KeyID returns the SHA-256 of the key in its PKIX form, as openssl pkey
// -pubin -outform DER gives it: "sha256:…".
func (k PublicKey) KeyID() string { return k.id }

func newPublicKey(key crypto.PublicKey) (PublicKey, error) {
	switch k := key.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return PublicKey{}, unsupported(k)
		}
	default:
		return PublicKey{}, unsupported(k)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return PublicKey{}, err
	}
	return PublicKey{id: digest.FromBytes(der).String(), key: key}, nil
}

// hashed returns what is signed for a message.
func (k PublicKey) hashed(message []byte) (crypto.SignerOpts, []byte) {
	ec, ok := k.key.(*ecdsa.PublicKey)
	switch {
	case !ok:
		return crypto.Hash(0), message
	case ec.Curve == elliptic.P384():
		sum := sha512.Sum384(message)
		return crypto.SHA384, sum[:]
	}
	sum := sha256.Sum256(message)
	return crypto.SHA256, sum[:]
}

func (k PublicKey) verify(message, sig []byte) bool {
	_, digest := k.hashed(message)
	switch key := k.key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, digest, sig)
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, digest, sig)
	}
	return false
}

// ParsePublicKeys reads all the keys of a file: PEM blocks with PKIX keys, or
// lines as OpenSSH writes them to .pub and authorized_keys. name is that of
// the file, for errors.
func ParsePublicKeys(name string, data []byte) ([]PublicKey, error) {
	parse := parseSSHKeys
	if bytes.Contains(data, []byte("-----BEGIN")) {
		parse = parsePEMKeys
	}
	keys, err := parse(data)
	if err == nil && len(keys) == 0 {
		err = errors.New("there is no key in it: -----BEGIN PUBLIC KEY-----")
	}
	if err != nil {
		return nil, fmt.Errorf("verification key %s: %w", name, err)
	}
	return keys, nil
}

func parsePEMKeys(data []byte) (out []PublicKey, err error) {
	for n := 1; ; n++ {
		block, rest := pem.Decode(data)
		if block == nil {
			if bytes.Contains(data, []byte("-----BEGIN")) {
				return nil, fmt.Errorf("block %d is no sound PEM", n)
			}
			return out, nil
		}
		data = rest
		switch {
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return nil, errors.New("this is a private key: keep it, and give the public one (openssl pkey -pubout)")
		case block.Type == "CERTIFICATE":
			return nil, errors.New("this is a certificate: give its key (openssl x509 -noout -pubkey)")
		case block.Type != "PUBLIC KEY":
			return nil, fmt.Errorf("this is a %s, not a PUBLIC KEY", block.Type)
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", n, err)
		}
		k, err := newPublicKey(key)
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", n, err)
		}
		out = append(out, k)
	}
}

func parseSSHKeys(data []byte) (out []PublicKey, err error) {
	for n, line := range strings.Split(string(data), "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, fmt.Errorf("line %d is neither PEM nor an OpenSSH key: %w", n+1, err)
		}
		ck, ok := key.(ssh.CryptoPublicKey)
		if !ok {
			return nil, fmt.Errorf("line %d: %s is not supported, but Ed25519 and ECDSA P-256 and P-384", n+1, key.Type())
		}
		k, err := newPublicKey(ck.CryptoPublicKey())
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
		out = append(out, k)
	}
	return out, nil
}
