package remotecache

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MediaType is that of an encoded Index.
const MediaType = "application/vnd.buildkit.cacheconfig.v0"

// The JSON of cacheconfig v0. A layer without "parent" is on top of layer 0:
// the field is left out when it is 0, and -1 stands for no parent.
type (
	jsonIndex struct {
		Layers  []jsonLayer  `json:"layers,omitempty"`
		Records []jsonRecord `json:"records,omitempty"`
	}
	jsonLayer struct {
		Blob        digest.Digest `json:"blob,omitempty"`
		Parent      int           `json:"parent,omitempty"`
		Annotations *jsonFacts    `json:"annotations,omitempty"`
	}
	jsonFacts struct {
		MediaType string        `json:"mediaType,omitempty"`
		DiffID    digest.Digest `json:"diffID,omitempty"`
		Size      int64         `json:"size,omitempty"`
		CreatedAt time.Time     `json:"createdAt"`

		// BuildKit has no such field, and passes it over.
		Description string `json:"description,omitempty"`
	}
	jsonRecord struct {
		Results []jsonResult  `json:"layers,omitempty"`
		Chains  []jsonChain   `json:"chains,omitempty"`
		Digest  digest.Digest `json:"digest,omitempty"`
		Inputs  [][]jsonInput `json:"inputs,omitempty"`
	}
	jsonResult struct {
		Layer     int       `json:"layer"`
		CreatedAt time.Time `json:"createdAt"`
	}
	jsonChain struct {
		Layers    []int     `json:"layers"`
		CreatedAt time.Time `json:"createdAt"`
	}
	jsonInput struct {
		Selector string `json:"selector,omitempty"`
		Link     int    `json:"link"`
	}
)

// Decode reads an encoded Index and validates it. Where the layers carry no
// facts of their own, as in a registry, Describe adds those of the manifest.
// The error is ErrCorrupt for anything but a sound Index.
func Decode(data []byte) (*Index, error) {
	var in jsonIndex
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("%w: decode cache index: %w", ErrCorrupt, err)
	}
	idx := &Index{Records: recordsOf(in.Records)}
	for _, l := range in.Layers {
		out := Layer{Blob: Blob{Digest: l.Blob}, Parent: l.Parent}
		if a := l.Annotations; a != nil {
			out.MediaType, out.DiffID, out.Size, out.CreatedAt = OCIMediaType(a.MediaType), a.DiffID, a.Size, a.CreatedAt
			out.Description = a.Description
		}
		idx.Layers = append(idx.Layers, out)
	}
	if err := idx.Validate(); err != nil {
		return nil, err
	}
	idx.splitAttachments()
	return idx, nil
}

// DecodeRecords reads the records of an inline cache, whose layers are those
// of the image: layer i of them on top of layer i-1.
func DecodeRecords(data []byte, layers []Blob) (*Index, error) {
	var in []jsonRecord
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("%w: decode inline cache: %w", ErrCorrupt, err)
	}
	idx := &Index{Records: recordsOf(in)}
	for i, b := range layers {
		idx.Layers = append(idx.Layers, Layer{Blob: b, Parent: i - 1})
	}
	if err := idx.Validate(); err != nil {
		return nil, err
	}
	return idx, nil
}

// Describe gives the layers what the descriptors of a manifest say of them.
// Layers that are not among them stay as they are.
func (idx *Index) Describe(descs []ocispec.Descriptor) error {
	blobs := make(map[digest.Digest]Blob, len(descs))
	for _, d := range descs {
		b, err := BlobOf(d)
		if err != nil {
			return err
		}
		blobs[d.Digest] = b
	}
	for i := range idx.Layers {
		l := &idx.Layers[i]
		if b, ok := blobs[l.Digest]; ok {
			l.Blob = b
		}
	}
	idx.splitAttachments()
	return nil
}

// Encode returns the Index for a place where a manifest lists the layers:
// registry and local.
func (idx *Index) Encode() ([]byte, error) { return idx.encode(false) }

// EncodeAnnotated returns the Index with the facts of each layer in it, for
// places without manifests: gha, s3, azblob.
func (idx *Index) EncodeAnnotated() ([]byte, error) { return idx.encode(true) }

func (idx *Index) encode(annotated bool) ([]byte, error) {
	if err := idx.Validate(); err != nil {
		return nil, err
	}
	out := jsonIndex{Records: jsonRecords(idx.Records)}
	for _, l := range idx.StoredLayers() {
		j := jsonLayer{Blob: l.Digest, Parent: l.Parent}
		if annotated {
			j.Annotations = &jsonFacts{MediaType: l.MediaType, DiffID: l.DiffID, Size: l.Size, CreatedAt: l.CreatedAt.UTC(), Description: l.Description}
		}
		out.Layers = append(out.Layers, j)
	}
	return json.Marshal(out)
}

// EncodeRecords returns the records alone, as an inline cache has them.
func (idx *Index) EncodeRecords() ([]byte, error) {
	if err := idx.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(jsonRecords(idx.Records))
}

func recordsOf(in []jsonRecord) []Record {
	var out []Record
	for _, r := range in {
		rec := Record{Digest: r.Digest}
		for _, links := range r.Inputs {
			ins := make([]Input, len(links))
			for i, l := range links {
				ins[i] = Input(l)
			}
			rec.Inputs = append(rec.Inputs, ins)
		}
		for _, res := range r.Results {
			rec.Results = append(rec.Results, Result(res))
		}
		for _, ch := range r.Chains {
			rec.Chains = append(rec.Chains, Chain(ch))
		}
		out = append(out, rec)
	}
	return out
}

func jsonRecords(in []Record) []jsonRecord {
	var out []jsonRecord
	for _, r := range in {
		j := jsonRecord{Digest: r.Digest}
		for _, links := range r.Inputs {
			ins := make([]jsonInput, len(links))
			for i, l := range links {
				ins[i] = jsonInput(l)
			}
			j.Inputs = append(j.Inputs, ins)
		}
		for _, res := range r.Results {
			j.Results = append(j.Results, jsonResult(res))
		}
		for _, ch := range r.Chains {
			j.Chains = append(j.Chains, jsonChain(ch))
		}
		out = append(out, j)
	}
	return out
}
