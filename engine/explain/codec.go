package explain

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
)

// MediaType is that of an encoded Set.
const MediaType = "application/vnd.mayfly.explain.v1+json+zstd"

// ErrInvalid says that bytes are no Set.
var ErrInvalid = errors.New("not a record of a build's steps")

const (
	version = 1

	// maxPlain bounds a Set before compression, in bytes: what a decoder holds
	// in memory for a file of whatever origin.
	maxPlain = 64 << 20

	// maxSteps and maxInputs bound what Explain walks over.
	maxSteps  = 20_000
	maxInputs = 10_000

	maxSets = 8
)

// An encoded Set is two lines of JSON: who is in it, so that a reader that looks
// for a step need not read on, and the rest. Sets follow one another in one
// zstd frame.
type (
	jsonHead struct {
		Version int       `json:"version"`
		Build   string    `json:"build,omitempty"`
		Created time.Time `json:"created"`
		IDs     []string  `json:"ids"`   // of the steps
		Seats   []string  `json:"seats"` // of the same steps
	}
	jsonBody struct {
		Args      []jsonField                    `json:"args,omitempty"`
		Steps     []jsonRecord                   `json:"steps"`
		Manifests map[digest.Digest]jsonManifest `json:"manifests,omitempty"`
	}
	jsonRecord struct {
		Name    string        `json:"name"`
		Text    string        `json:"text"`
		Where   string        `json:"where,omitempty"`
		Kind    Kind          `json:"kind"`
		Op      digest.Digest `json:"op,omitempty"`
		Fields  []jsonField   `json:"fields,omitempty"`
		Inputs  []jsonInput   `json:"inputs,omitempty"`
		State   State         `json:"state,omitempty"`
		Key     string        `json:"key,omitempty"`
		NoCache bool          `json:"noCache,omitempty"`
		Known   bool          `json:"known,omitempty"`
		Lost    bool          `json:"lost,omitempty"`
		Blob    digest.Digest `json:"blob,omitempty"`
		Why     *Reason       `json:"why,omitempty"`
	}
	jsonField struct {
		Name string `json:"name"`
		Text string `json:"text,omitempty"`
		Sum  string `json:"sum,omitempty"`
	}
	jsonInput struct {
		Step     int           `json:"step"`
		Output   int           `json:"output,omitempty"`
		Selector digest.Digest `json:"selector,omitempty"`
		Content  digest.Digest `json:"content,omitempty"`
		Pending  bool          `json:"-"`
	}
	// Columns: equal neighbours compress to nothing.
	jsonManifest struct {
		Depth  int               `json:"depth,omitempty"`
		Paths  []string          `json:"paths"`
		Types  string            `json:"types"` // a letter each
		Modes  []uint32          `json:"modes"`
		UIDs   []uint32          `json:"uids"`
		GIDs   []uint32          `json:"gids"`
		Sizes  []int64           `json:"sizes"`
		Sums   []byte            `json:"sums"`             // 8 bytes each, little endian
		Xattrs map[string]uint64 `json:"xattrs,omitempty"` // by position
	}
)

// Encode returns Sets, the most important first, in at most limit bytes; 0
// means any number. To get there the last Sets are left out, then the
// manifests of the first become coarser, and then go. The error is that it does
// not fit even so.
func Encode(sets []*Set, limit int) ([]byte, error) {
	fits := func(dt []byte) bool { return dt != nil && (limit == 0 || len(dt) <= limit) }
	for n := len(sets); n > 0; n-- {
		files := 0
		for _, s := range sets[:n] {
			for _, m := range s.Manifests {
				files = max(files, len(m.Files))
			}
		}
		for {
			dt, err := encode(sets[:n], files)
			if err != nil || fits(dt) {
				return dt, err
			}
			if n > 1 || files == 0 {
				break
			}
			if files /= 4; files < 100 {
				files = 0
			}
		}
	}
	return nil, fmt.Errorf("the records of steps do not fit into %d bytes", limit)
}

// encode encodes Sets with at most so many files in a manifest; nil when that
// is too large to be decoded.
func encode(sets []*Set, files int) ([]byte, error) {
	plain, err := encodePlain(sets, files)
	if err != nil || len(plain) > maxPlain {
		return nil, err
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return z.EncodeAll(plain, nil), z.Close()
}

func encodePlain(sets []*Set, files int) ([]byte, error) {
	var plain bytes.Buffer
	enc := json.NewEncoder(&plain) // a line each
	enc.SetEscapeHTML(false)
	for _, s := range sets {
		head, body := s.lines(files)
		if err := errors.Join(enc.Encode(head), enc.Encode(body)); err != nil {
			return nil, fmt.Errorf("encode the records of steps: %w", err)
		}
	}
	return plain.Bytes(), nil
}

func (s *Set) lines(files int) (head jsonHead, body jsonBody) {
	head = jsonHead{Version: version, Build: s.Build, Created: s.Created.UTC(), IDs: []string{}, Seats: []string{}}
	body.Steps = []jsonRecord{}
	for _, f := range s.Args {
		body.Args = append(body.Args, jsonField(f))
	}
	for _, r := range s.Steps {
		head.IDs, head.Seats = append(head.IDs, r.ID), append(head.Seats, r.Seat)
		j := jsonRecord{
			Name: r.Name, Text: r.Text, Where: r.Where, Kind: r.Kind, Op: r.Op, State: r.State, Key: r.Key,
			NoCache: r.NoCache, Known: r.Known, Lost: r.Lost, Blob: r.Blob, Why: r.Why,
		}
		for _, f := range r.Fields {
			j.Fields = append(j.Fields, jsonField(f))
		}
		for _, in := range r.Inputs {
			j.Inputs = append(j.Inputs, jsonInput(in))
		}
		body.Steps = append(body.Steps, j)
	}
	if files == 0 {
		return head, body
	}
	body.Manifests = map[digest.Digest]jsonManifest{}
	for d, m := range s.Manifests {
		if m = m.atMost(files); m != nil {
			body.Manifests[d] = encodeManifest(m)
		}
	}
	return head, body
}

func encodeManifest(m *Manifest) jsonManifest {
	j := jsonManifest{Depth: m.Depth, Sums: []byte{}}
	types := make([]byte, len(m.Files))
	for i, f := range m.Files {
		types[i] = byte(f.Type)
		j.Paths = append(j.Paths, f.Path)
		j.Modes = append(j.Modes, f.Mode)
		j.UIDs, j.GIDs = append(j.UIDs, f.UID), append(j.GIDs, f.GID)
		j.Sizes = append(j.Sizes, f.Size)
		j.Sums = binary.LittleEndian.AppendUint64(j.Sums, f.Sum)
		if f.Xattrs != 0 {
			if j.Xattrs == nil {
				j.Xattrs = map[string]uint64{}
			}
			j.Xattrs[strconv.Itoa(i)] = f.Xattrs
		}
	}
	j.Types = string(types)
	return j
}

// Decode reads what Encode made, of whatever origin. The error is ErrInvalid
// for anything else.
func Decode(dt []byte) ([]*Set, error) {
	z, err := reader(bytes.NewReader(dt))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return decodePlain(io.LimitReader(z, maxPlain))
}

func decodePlain(r io.Reader) ([]*Set, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	var sets []*Set
	for {
		var head jsonHead
		var body jsonBody
		if err := readLine(in, &head); err == io.EOF && len(sets) > 0 {
			return sets, nil
		} else if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if err := readLine(in, &body); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		s, err := decode(head, body)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if sets = append(sets, s); len(sets) > maxSets {
			return nil, fmt.Errorf("%w: more than %d builds", ErrInvalid, maxSets)
		}
	}
}

// readLine reads a line of JSON; io.EOF when there is none.
func readLine(in *bufio.Reader, v any) error {
	line, err := in.ReadBytes('\n')
	if err != nil && (err != io.EOF || len(line) == 0) {
		return err
	}
	return json.Unmarshal(line, v)
}

func reader(r io.Reader) (*zstd.Decoder, error) {
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxPlain), zstd.WithDecoderMaxWindow(16<<20))
}

// A Head says which steps a Set has.
type Head struct {
	Build   string
	Created time.Time
	names   map[string]bool
}

// Has reports whether the Set has a step of that ID or, unless seat is "", of
// that seat.
func (h *Head) Has(id, seat string) bool {
	return h.names["id "+id] || seat != "" && h.names["seat "+seat]
}

// maxHead bounds the first line, in bytes.
const maxHead = 4 << 20

// ReadHead reads the start of an encoded Set. The error is ErrInvalid when it
// is none.
func ReadHead(r io.Reader) (*Head, error) {
	z, err := reader(r)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	var head jsonHead
	if err := readLine(bufio.NewReader(io.LimitReader(z, maxHead)), &head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if head.Version != version || len(head.IDs) != len(head.Seats) {
		return nil, fmt.Errorf("%w: version %d", ErrInvalid, head.Version)
	}
	h := &Head{Build: head.Build, Created: head.Created, names: map[string]bool{}}
	for i := range head.IDs {
		h.names["id "+head.IDs[i]], h.names["seat "+head.Seats[i]] = true, true
	}
	return h, nil
}

func decode(head jsonHead, body jsonBody) (*Set, error) {
	n := len(body.Steps)
	switch {
	case head.Version != version:
		return nil, fmt.Errorf("version %d, not %d", head.Version, version)
	case n > maxSteps:
		return nil, fmt.Errorf("%d steps, more than %d", n, maxSteps)
	case n != len(head.IDs) || n != len(head.Seats):
		return nil, fmt.Errorf("%d steps and %d IDs", n, len(head.IDs))
	}
	s := &Set{Build: head.Build, Created: head.Created, Args: fieldsOf(body.Args)}
	seen := map[string]bool{}
	for i, j := range body.Steps {
		r := Record{
			ID: head.IDs[i], Seat: head.Seats[i], Name: j.Name, Text: j.Text, Where: j.Where, Kind: j.Kind, Op: j.Op,
			Fields: fieldsOf(j.Fields), State: j.State, Key: j.Key,
			NoCache: j.NoCache, Known: j.Known, Lost: j.Lost, Blob: j.Blob, Why: j.Why,
		}
		if r.ID == "" || seen[r.ID] {
			return nil, fmt.Errorf("step %d has no ID of its own", i)
		}
		seen[r.ID] = true
		if err := optional(j.Op, j.Blob); err != nil {
			return nil, fmt.Errorf("step %d: %w", i, err)
		}
		if len(j.Inputs) > maxInputs {
			return nil, fmt.Errorf("step %d: %d inputs, more than %d", i, len(j.Inputs), maxInputs)
		}
		for _, in := range j.Inputs {
			if in.Step < 0 || in.Step >= i || in.Output < 0 {
				return nil, fmt.Errorf("step %d: its input %d is not before it", i, in.Step)
			}
			if err := optional(in.Selector, in.Content); err != nil {
				return nil, fmt.Errorf("step %d: %w", i, err)
			}
			r.Inputs = append(r.Inputs, Input(in))
		}
		s.Steps = append(s.Steps, r)
	}
	for d, j := range body.Manifests {
		m, err := decodeManifest(j)
		if err = errors.Join(d.Validate(), err); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d, err)
		}
		if s.Manifests == nil {
			s.Manifests = map[digest.Digest]*Manifest{}
		}
		s.Manifests[d] = m
	}
	return s, nil
}

func fieldsOf(in []jsonField) (out []Field) {
	for _, f := range in {
		out = append(out, Field(f))
	}
	return out
}

func optional(all ...digest.Digest) error {
	for _, d := range all {
		if d != "" {
			if err := d.Validate(); err != nil {
				return err
			}
		}
	}
	return nil
}

func decodeManifest(j jsonManifest) (*Manifest, error) {
	n := len(j.Paths)
	for _, have := range []int{len(j.Types), len(j.Modes), len(j.UIDs), len(j.GIDs), len(j.Sizes), len(j.Sums) / 8} {
		if have != n {
			return nil, fmt.Errorf("%d paths, and %d of something", n, have)
		}
	}
	if len(j.Sums)%8 != 0 || j.Depth < 0 {
		return nil, errors.New("the sums are cut off")
	}
	m := &Manifest{Depth: j.Depth, Files: make([]Entry, n)}
	for i, p := range j.Paths {
		if i > 0 && p <= j.Paths[i-1] {
			return nil, fmt.Errorf("path %d is not behind the one before", i)
		}
		f := Entry{
			Path: p, Type: Type(j.Types[i]), Mode: j.Modes[i], UID: j.UIDs[i], GID: j.GIDs[i], Size: j.Sizes[i],
			Sum: binary.LittleEndian.Uint64(j.Sums[8*i:]),
		}
		if (f.Type == Group) != (j.Depth > 0) || f.Size < 0 {
			return nil, fmt.Errorf("path %d is of the type %q", i, f.Type)
		}
		m.Files[i] = f
	}
	for at, x := range j.Xattrs {
		i, err := strconv.Atoi(at)
		if err != nil || i < 0 || i >= n {
			return nil, fmt.Errorf("extended attributes of file %q of %d", at, n)
		}
		m.Files[i].Xattrs = x
	}
	return m, nil
}
