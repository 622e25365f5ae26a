// Package signed lets a job use only those caches that it trusts.
//
//	Index ──SaveIndex──▶ Sign ──Index, envelope──▶ ┌─────────┐
//	                                               │ Backend │
//	Index ◀─LoadIndex── Verify ◀─Index, envelope── └─────────┘
//	                      ▲
//	Policy: keys, CI identities, age
//
// An envelope holds signatures over the contents of an Index and its ref. It
// is stored as a blob and attached to the Index, on every backend alike, and
// programs that do not know it pass over it. An Index names all it needs by
// digest, and blobs are checked by digest wherever they are read (see
// remotecache.Verify): so nothing but the Index has to be signed.
//
// Whoever can write to the store can still put back an Index that was signed
// for the same ref before, until it is older than Policy.MaxAge.
package signed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache"
)

// MediaType is that of the envelope that is attached to an Index.
const MediaType = remotecache.AttachmentPrefix + "signature.v1+json"

// A Signer signs what Sign gives it. Its methods may be called from several
// goroutines at once.
type Signer interface {
	// KeyID names the key or kind of identity. Verifiers look a key up by it.
	KeyID() string

	// Sign returns a signature over message.
	Sign(ctx context.Context, message []byte) (Signature, error)
}

// Config says how Sign signs.
type Config struct {
	Signers []Signer         // at least one; all of them sign
	Now     func() time.Time // nil means time.Now
}

// Sign returns b with every Index signed when it is saved: SaveIndex puts the
// envelope as one more blob and attaches it, in the place of one that is
// there. It saves nothing when a Signer fails. The error is one of cfg.
//
// The Index is saved in the form that all backends give back: media types as
// OCI names them, times in UTC, and what is known of a blob the same for all
// its layers.
func Sign(b remotecache.Backend, cfg Config) (remotecache.Backend, error) {
	s, err := newSigning(b, cfg)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func newSigning(b remotecache.Backend, cfg Config) (signing, error) {
	if len(cfg.Signers) == 0 {
		return signing{}, errors.New("sign the cache: no key and no identity to sign with")
	}
	seen := map[string]bool{}
	for _, s := range cfg.Signers {
		if seen[s.KeyID()] {
			return signing{}, fmt.Errorf("sign the cache: %s is given twice", s.KeyID())
		}
		seen[s.KeyID()] = true
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return signing{b, cfg}, nil
}

type signing struct {
	remotecache.Backend
	cfg Config
}

// Writable implements remotecache.Guard.
func (s signing) Writable() error { return writable(s.Backend) }

func writable(b remotecache.Backend) error {
	if g, ok := b.(remotecache.Guard); ok {
		return g.Writable()
	}
	return nil
}

func (s signing) SaveIndex(ctx context.Context, ref string, idx *remotecache.Index) error {
	save := canonical(idx)
	data, err := s.sign(ctx, ref, save)
	if err != nil {
		return fmt.Errorf("sign cache index %q: %w", ref, err)
	}
	blob := remotecache.Blob{Digest: digest.FromBytes(data), Size: int64(len(data)), MediaType: MediaType}
	// BuildKit imports nothing from gha, s3 and azblob when a layer has no
	// diff ID, even one that no record leads to.
	blob.DiffID = blob.Digest
	if err := s.Put(ctx, blob.Descriptor(), bytes.NewReader(data)); err != nil {
		return fmt.Errorf("store the signature of cache index %q: %w", ref, err)
	}
	save.Attach(blob)
	return s.Backend.SaveIndex(ctx, ref, save)
}

// sign returns the envelope for a canonical Index.
func (s signing) sign(ctx context.Context, ref string, idx *remotecache.Index) ([]byte, error) {
	var signers []string
	for _, signer := range s.cfg.Signers {
		signers = append(signers, signer.KeyID())
	}
	p, err := newPayload(ref, idx, s.cfg.Now(), signers)
	if err != nil {
		return nil, err
	}
	env, err := p.envelope()
	if err != nil {
		return nil, err
	}
	for _, signer := range s.cfg.Signers {
		sig, err := signer.Sign(ctx, env.message())
		if err != nil {
			return nil, err
		}
		sig.KeyID = signer.KeyID()
		env.Signatures = append(env.Signatures, sig)
	}
	return env.encode()
}

// Verify returns b with LoadIndex refusing every Index that the Policy does
// not allow: the error is then a *PolicyError, which is a
// remotecache.ErrUntrusted. The Index it returns has no signature among its
// attachments any more, and what is known of blobs only as far as it was
// signed. The error of Verify is one of the Policy.
//
// Blobs are to be read through remotecache.Verify, or checked otherwise.
// Whoever removes blobs that no Index names uses Keeper instead.
func Verify(b remotecache.Backend, p Policy) (remotecache.Backend, error) {
	c, err := p.compile()
	if err != nil {
		return nil, fmt.Errorf("verify the cache: %w", err)
	}
	return verifying{b, c}, nil
}

type verifying struct {
	remotecache.Backend
	policy *compiled
}

// Writable implements remotecache.Guard.
func (v verifying) Writable() error { return writable(v.Backend) }

func (v verifying) LoadIndex(ctx context.Context, ref string) (*remotecache.Index, error) {
	idx, _, err := v.load(ctx, ref)
	return idx, err
}

// load returns the Index of ref without its signature, and that.
func (v verifying) load(ctx context.Context, ref string) (*remotecache.Index, remotecache.Blob, error) {
	idx, err := v.Backend.LoadIndex(ctx, ref)
	if err != nil {
		return nil, remotecache.Blob{}, err
	}
	data, refused, err := v.envelope(ctx, idx)
	if err != nil {
		return nil, remotecache.Blob{}, fmt.Errorf("load the signature of cache index %q: %w", ref, err)
	}
	out := canonical(idx)
	if refused == nil {
		refused = v.policy.check(data, ref, out)
	}
	if refused != nil {
		refused.Ref, refused.Version = ref, idx.Version
		return nil, remotecache.Blob{}, hint.With(refused, refused.Reason.hint())
	}
	signature, _ := idx.Attachment(MediaType)
	return out, signature, nil
}

// Keeper returns k for those who remove what is old and save what is left:
// LoadIndex refuses as Verify's does, but leaves the signature among the
// attachments, since it is one of the blobs in use; SaveIndex signs as Sign's
// does. Both are needed: who signs what he did not verify makes poison good.
func Keeper(k remotecache.Keeper, cfg Config, p Policy) (remotecache.Keeper, error) {
	s, err := newSigning(k, cfg)
	if err != nil {
		return nil, err
	}
	c, err := p.compile()
	if err != nil {
		return nil, fmt.Errorf("verify the cache: %w", err)
	}
	return keeper{k, s, verifying{k, c}}, nil
}

type keeper struct {
	remotecache.Keeper
	signing   signing
	verifying verifying
}

func (k keeper) LoadIndex(ctx context.Context, ref string) (*remotecache.Index, error) {
	idx, signature, err := k.verifying.load(ctx, ref)
	if err != nil {
		return nil, err
	}
	idx.Attach(signature)
	return idx, nil
}

func (k keeper) SaveIndex(ctx context.Context, ref string, idx *remotecache.Index) error {
	return k.signing.SaveIndex(ctx, ref, idx)
}

// envelope reads the envelope of an Index. The error is one of the network.
func (v verifying) envelope(ctx context.Context, idx *remotecache.Index) ([]byte, *PolicyError, error) {
	var found []remotecache.Blob
	for _, a := range idx.Attachments {
		if a.MediaType == MediaType {
			found = append(found, a)
		}
	}
	switch {
	case len(found) == 0:
		return nil, refuse(Unsigned, nil), nil
	case len(found) > 1:
		return nil, refuse(Malformed, fmt.Errorf("there are %d signatures", len(found))), nil
	case found[0].Size > maxEnvelope:
		return nil, refuse(Malformed, fmt.Errorf("the signature has %d bytes, more than %d", found[0].Size, maxEnvelope)), nil
	}
	r, err := remotecache.Verify(v.Backend).Open(ctx, found[0].Descriptor(), 0)
	var data []byte
	if err == nil {
		data, err = io.ReadAll(r)
		r.Close()
	}
	switch {
	case errors.Is(err, remotecache.ErrNotFound):
		// Not wrapped: it is not the Index that is not there.
		return nil, refuse(Unsigned, fmt.Errorf("the signature %s is not stored any more", found[0].Digest)), nil
	case errors.Is(err, remotecache.ErrCorrupt):
		return nil, refuse(Malformed, err), nil
	}
	return data, nil, err
}

// canonical returns a copy of an Index as every backend gives it back, without
// the signature. The Index that is signed, the one that is stored and the one
// that is verified are all of this form.
func canonical(idx *remotecache.Index) *remotecache.Index {
	out := idx.Clone()
	out.Attachments = slices.DeleteFunc(out.Attachments, func(b remotecache.Blob) bool { return b.MediaType == MediaType })
	// A manifest lists what it knows of a digest, not of a layer; the last
	// entry counts.
	facts := map[digest.Digest]remotecache.Blob{}
	for _, l := range out.StoredLayers() {
		if l.Known() || !facts[l.Digest].Known() {
			b := l.Blob
			b.MediaType = remotecache.OCIMediaType(b.MediaType)
			b.CreatedAt = b.CreatedAt.UTC()
			facts[l.Digest] = b
		}
	}
	for i := range out.Layers {
		out.Layers[i].Blob = facts[out.Layers[i].Digest]
	}
	for i := range out.Attachments {
		out.Attachments[i] = facts[out.Attachments[i].Digest]
	}
	for _, r := range out.Records {
		for i := range r.Results {
			r.Results[i].CreatedAt = r.Results[i].CreatedAt.UTC()
		}
		for i := range r.Chains {
			r.Chains[i].CreatedAt = r.Chains[i].CreatedAt.UTC()
		}
		for _, links := range r.Inputs {
			for i := range links {
				links[i].Selector = validUTF8(links[i].Selector)
			}
		}
	}
	return out
}
