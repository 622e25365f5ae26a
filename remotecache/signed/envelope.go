package signed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/remotecache"
)

// payloadType says what is signed. It is part of what is signed: a key that
// signs other things too cannot be made to have signed an Index.
const payloadType = "application/vnd.mayfly.cache-index.v1+json"

const (
	maxEnvelope   = 1 << 20 // bytes; one with a key has some 600, with an identity some 3,000
	maxSignatures = 16      // each costs a public-key operation
)

// An envelope is a DSSE envelope (github.com/secure-systems-lab/dsse): the
// signatures are over message.
type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"` // base64 in JSON
	Signatures  []Signature `json:"signatures"`
}

// A Signature is one of an envelope: Sig or JWT is set.
type Signature struct {
	KeyID string `json:"keyid"` // Signer.KeyID

	// Sig is what a key made: for Ed25519 RFC 8032's 64 bytes, for ECDSA the
	// ASN.1 form of r and s over SHA-256 (P-256) or SHA-384 (P-384).
	Sig []byte `json:"sig,omitempty"`

	// JWT is an identity document whose audience is Audience(message). DSSE
	// has no field for it.
	JWT string `json:"jwt,omitempty"`
}

// A payload says what is true of an Index.
type payload struct {
	Ref   string        `json:"ref"`   // under which it is saved
	Index digest.Digest `json:"index"` // of Index.EncodeAnnotated, without the signature

	// Details is over what that encoding leaves out, and some backends keep:
	// descriptions and annotations of the blobs; "" when there are none.
	Details digest.Digest `json:"details,omitempty"`

	Time    time.Time `json:"time"`    // of signing
	Signers []string  `json:"signers"` // key IDs of all who sign
}

// newPayload describes a canonical Index.
func newPayload(ref string, idx *remotecache.Index, now time.Time, signers []string) (*payload, error) {
	data, err := idx.EncodeAnnotated()
	if err != nil {
		return nil, err
	}
	details, err := detailsOf(idx)
	if err != nil {
		return nil, err
	}
	return &payload{Ref: ref, Index: digest.FromBytes(data), Details: details, Time: now.UTC().Truncate(time.Second), Signers: signers}, nil
}

func detailsOf(idx *remotecache.Index) (digest.Digest, error) {
	type details struct {
		Description string            `json:"description,omitempty"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	var all []details
	some := false
	for _, l := range idx.StoredLayers() {
		all = append(all, details{l.Description, l.Extra})
		some = some || l.Description != "" || len(l.Extra) > 0
	}
	if !some {
		return "", nil
	}
	data, err := json.Marshal(all)
	return digest.FromBytes(data), err
}

// withoutDetails removes what Details is over.
func withoutDetails(idx *remotecache.Index) {
	for i := range idx.Layers {
		idx.Layers[i].Description, idx.Layers[i].Extra = "", nil
	}
	for i := range idx.Attachments {
		idx.Attachments[i].Description, idx.Attachments[i].Extra = "", nil
	}
}

// envelope returns one without signatures.
func (p *payload) envelope() (*envelope, error) {
	data, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	return &envelope{PayloadType: payloadType, Payload: data}, nil
}

// message is what is signed: DSSE's pre-authentication encoding.
func (e *envelope) message() []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(e.PayloadType), e.PayloadType, len(e.Payload), e.Payload)
}

// Audience returns the audience of the identity document that signs message.
func Audience(message []byte) string { return "mayfly-cache:" + digest.FromBytes(message).String() }

func (e *envelope) encode() ([]byte, error) {
	data, err := json.Marshal(e)
	if err == nil && (len(data) > maxEnvelope || len(e.Signatures) > maxSignatures) {
		err = fmt.Errorf("%d signatures in %d bytes: more than %d in %d", len(e.Signatures), len(data), maxSignatures, maxEnvelope)
	}
	return data, err
}

// decodeEnvelope reads an envelope and what it claims. Nothing of it is to be
// believed before a signature was verified.
func decodeEnvelope(data []byte) (*envelope, *payload, error) {
	var e envelope
	if err := decodeStrict(data, &e); err != nil {
		return nil, nil, fmt.Errorf("decode the signature: %w", err)
	}
	if e.PayloadType != payloadType {
		return nil, nil, fmt.Errorf("it signs a %q, not a %q", e.PayloadType, payloadType)
	}
	if n := len(e.Signatures); n == 0 || n > maxSignatures {
		return nil, nil, fmt.Errorf("it has %d signatures, not 1 to %d", n, maxSignatures)
	}
	for _, s := range e.Signatures {
		if (len(s.Sig) == 0) == (s.JWT == "") {
			return nil, nil, fmt.Errorf("signature %q is not one of a key or of an identity", s.KeyID)
		}
	}
	var p payload
	if err := decodeStrict(e.Payload, &p); err != nil {
		return nil, nil, fmt.Errorf("decode what is signed: %w", err)
	}
	if p.Index.Validate() != nil || p.Details != "" && p.Details.Validate() != nil || p.Time.IsZero() || p.Ref == "" {
		return nil, nil, errors.New("what is signed lacks a ref, a digest or a time")
	}
	return &e, &p, nil
}

// decodeStrict decodes one JSON value that has no fields but v's.
func decodeStrict(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("there is more behind it")
	}
	return nil
}

// validUTF8 returns s as JSON gives it back.
func validUTF8(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
