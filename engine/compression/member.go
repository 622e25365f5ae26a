package compression

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
)

// A gzip stream of ours consists of members of gzipBlock bytes each, and every
// member says in an extra field how long it is, compressed. Other readers skip
// the field; ours decompresses as many members at once as there are cores.
const (
	memberHeader  = 20 // bytes: the fixed header, the length of the extra field, and the field
	memberTrailer = 8  // bytes: CRC-32 and size
	maxMember     = 2 * gzipBlock
)

// errMember says that a member is not what its header says.
var errMember = errors.New("gzip member is corrupt")

// memberStart returns the header of a member that is n bytes long.
func memberStart(n int) []byte {
	h := []byte{
		0x1f, 0x8b, 8, // magic, deflate
		1 << 2,     // there is an extra field
		0, 0, 0, 0, // no time
		0, 255, // unknown system, as Go's and BuildKit's
		8, 0, // bytes in the extra field
		'M', 'f', 4, 0, // ours, 4 bytes
	}
	return binary.LittleEndian.AppendUint32(h, uint32(n))
}

// memberSize returns the length of the member that starts with header, or 0
// for a member that is not one of ours.
func memberSize(header []byte) int {
	if len(header) < memberHeader {
		return 0
	}
	n := binary.LittleEndian.Uint32(header[memberHeader-4:])
	if n > maxMember || n < memberHeader+memberTrailer || !bytes.Equal(header[:memberHeader], memberStart(int(n))) {
		return 0
	}
	return int(n)
}

// A memberEncoder makes members.
type memberEncoder struct {
	level int
	pool  sync.Pool // *flate.Writer
}

func (e *memberEncoder) encode(data []byte) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(len(data)/2 + 512)
	out.Write(memberStart(0))
	w, _ := e.pool.Get().(*flate.Writer)
	if w == nil {
		var err error
		if w, err = flate.NewWriter(&out, e.level); err != nil {
			return nil, err
		}
	} else {
		w.Reset(&out)
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	e.pool.Put(w)
	member := binary.LittleEndian.AppendUint32(out.Bytes(), crc32.ChecksumIEEE(data))
	member = binary.LittleEndian.AppendUint32(member, uint32(len(data)))
	copy(member, memberStart(len(member)))
	return member, nil
}

// A memberDecoder reads members.
type memberDecoder struct {
	pool sync.Pool // io.ReadCloser of flate
}

// decode appends the bytes of a member to buf, which is empty.
func (d *memberDecoder) decode(buf, member []byte) ([]byte, error) {
	trailer := member[len(member)-memberTrailer:]
	sum, size := binary.LittleEndian.Uint32(trailer), binary.LittleEndian.Uint32(trailer[4:])
	if size > gzipBlock {
		return buf, fmt.Errorf("%w: has %d bytes, more than a member of ours", errMember, size)
	}
	if cap(buf) < int(size) {
		buf = make([]byte, 0, gzipBlock)
	}
	src := bytes.NewReader(member[memberHeader : len(member)-memberTrailer])
	r, _ := d.pool.Get().(io.ReadCloser)
	if r == nil {
		r = flate.NewReader(src)
	} else if err := r.(flate.Resetter).Reset(src, nil); err != nil {
		return buf, err
	}
	buf = buf[:size]
	if _, err := io.ReadFull(r, buf); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF { // the bytes are all here
			err = fmt.Errorf("%w: has less than %d bytes", errMember, size)
		}
		return buf, err
	}
	var more [1]byte
	if n, err := r.Read(more[:]); n > 0 || err != io.EOF || src.Len() > 0 {
		return buf, fmt.Errorf("%w: has more than %d bytes", errMember, size)
	}
	d.pool.Put(r)
	if got := crc32.ChecksumIEEE(buf); got != sum {
		return buf, fmt.Errorf("%w: checksum is %08x, not %08x", errMember, got, sum)
	}
	return buf, nil
}
