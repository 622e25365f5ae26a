package signed

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// A KeySet is an issuer's public keys (a JWKS, RFC 7517). An issuer changes
// its keys now and then; a set for caches keeps the old ones as long as what
// they signed is to be used.
type KeySet struct{ keys []issuerKey }

type issuerKey struct {
	id  string // "kid"; "" when it has none
	alg string // RS256, ES256 or EdDSA
	key crypto.PublicKey
}

// The algorithms of identity documents that are verified. All have a private
// key at the issuer: neither "none" nor a shared secret is among them.
const (
	algRSA = "RS256"
	algEC  = "ES256"
	algEd  = "EdDSA"
)

const minRSA = 2048 // bits, as RFC 7518 wants for RS256

// ParseKeySet reads a JWKS: {"keys": […]}. Keys that are not for RS256, ES256
// or EdDSA are passed over; it is an error when none is left. name is that of
// the file, for errors.
func ParseKeySet(name string, data []byte) (*KeySet, error) {
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("JWKS %s: %w", name, err)
	}
	set := &KeySet{}
	for i, raw := range doc.Keys {
		k, err := parseJWK(raw)
		if err != nil {
			return nil, fmt.Errorf("JWKS %s: key %d: %w", name, i, err)
		}
		if k != nil {
			set.keys = append(set.keys, *k)
		}
	}
	if len(set.keys) == 0 {
		return nil, fmt.Errorf(`JWKS %s: there is no key for RS256, ES256 or EdDSA under "keys"`, name)
	}
	return set, nil
}

// parseJWK returns nil for a key that is for something else.
func parseJWK(raw []byte) (*issuerKey, error) {
	var j struct {
		Kty    string   `json:"kty"`
		Kid    string   `json:"kid"`
		Use    string   `json:"use"`
		KeyOps []string `json:"key_ops"`
		Alg    string   `json:"alg"`
		Crv    string   `json:"crv"`
		N      string   `json:"n"`
		E      string   `json:"e"`
		X      string   `json:"x"`
		Y      string   `json:"y"`
	}
	if err := json.Unmarshal(raw, &j); err != nil {
		return nil, err
	}
	if j.Use != "" && j.Use != "sig" || j.KeyOps != nil && !slices.Contains(j.KeyOps, "verify") {
		return nil, nil
	}
	k := &issuerKey{id: j.Kid}
	var err error
	switch {
	case j.Kty == "RSA":
		k.alg = algRSA
		k.key, err = rsaKey(j.N, j.E)
	case j.Kty == "EC" && j.Crv == "P-256":
		k.alg = algEC
		k.key, err = ecKey(j.X, j.Y)
	case j.Kty == "OKP" && j.Crv == "Ed25519":
		k.alg = algEd
		k.key, err = edKey(j.X)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", j.Kty, j.Kid, err)
	}
	if j.Alg != "" && j.Alg != k.alg && (k.alg != algEd || j.Alg != "Ed25519") {
		return nil, nil
	}
	return k, nil
}

func rsaKey(n, e string) (crypto.PublicKey, error) {
	modulus, err := decode64(n)
	if err != nil {
		return nil, err
	}
	exponent, err := decode64(e)
	if err != nil {
		return nil, err
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(modulus)}
	if bits := key.N.BitLen(); bits < minRSA {
		return nil, fmt.Errorf("it has %d bits, less than %d", bits, minRSA)
	}
	exp := new(big.Int).SetBytes(exponent)
	if !exp.IsInt64() || exp.Int64() < 3 || exp.Int64() > 1<<31-1 || exp.Bit(0) == 0 {
		return nil, errors.New("the exponent is none")
	}
	key.E = int(exp.Int64())
	return key, nil
}

func ecKey(x, y string) (crypto.PublicKey, error) {
	point := []byte{4} // uncompressed
	for _, c := range []string{x, y} {
		b, err := decode64(c)
		if err != nil {
			return nil, err
		}
		if len(b) != 32 {
			return nil, errors.New("a coordinate is not of 32 bytes")
		}
		point = append(point, b...)
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
}

func edKey(x string) (crypto.PublicKey, error) {
	b, err := decode64(x)
	if err == nil && len(b) != ed25519.PublicKeySize {
		err = fmt.Errorf("it has %d bytes, not %d", len(b), ed25519.PublicKeySize)
	}
	return ed25519.PublicKey(b), err
}

func decode64(s string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(s) }

// find returns the keys that a document of this header may be signed with.
func (s *KeySet) find(id, alg string) (out []crypto.PublicKey) {
	for _, k := range s.keys {
		if k.alg == alg && (id == "" || k.id == "" || k.id == id) {
			out = append(out, k.key)
		}
	}
	return out
}
