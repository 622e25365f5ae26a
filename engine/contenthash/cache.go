package contenthash

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/opencontainers/go-digest"
)

const (
	// cacheMagic starts the file; another version of it is another cache.
	cacheMagic = "mayfly contenthash 1\n"

	// maxRecords bounds the file to about 19 MB; those used last are kept.
	maxRecords = 1 << 18

	// settleTime is how long ago a file must have changed for its stat to
	// prove that its bytes are the ones that were read: a second write within
	// the same tick of the file system's clock leaves no trace in a stat.
	settleTime = 2 * time.Second

	// touchAfter is how many days a time of last use may be out of date, so
	// that a build that hashes nothing writes nothing.
	touchAfter = 7
)

// A cacheKey names a file's state and header.
type cacheKey [sha256.Size]byte

type record struct {
	sum  [sha256.Size]byte
	used uint32 // days since 1970
}

const recordSize = 2*sha256.Size + 4

// A Cache remembers digests of files on disk by what a stat says of them:
// device, inode, size, mtime and ctime. It is read at the first question. All
// methods may be called from several goroutines at once, and several processes
// may use one path: what one of them saves another's Save may lose.
type Cache struct {
	path  string
	now   func() time.Time
	today uint32 // days since 1970, when it was opened

	load  sync.Once
	mu    sync.RWMutex
	known map[cacheKey]record
	fresh map[cacheKey]record // not on disk yet

	hits, misses atomic.Int64
}

// OpenCache returns the cache that lies in the file at path. One that is
// missing or damaged is empty.
func OpenCache(path string) *Cache {
	return &Cache{
		path: path, now: time.Now, today: uint32(time.Now().Unix() / 86400),
		fresh: map[cacheKey]record{},
	}
}

func keyOf(id fsdiff.FileID, header []byte) cacheKey {
	b := make([]byte, 0, 512)
	for _, n := range []uint64{id.Dev, id.Ino, uint64(id.Size), uint64(id.Mtime), uint64(id.Ctime)} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return sha256.Sum256(append(b, header...))
}

func (c *Cache) get(k cacheKey) (digest.Digest, bool) {
	c.load.Do(func() {
		known := readCache(c.path)
		c.mu.Lock()
		c.known = known
		c.mu.Unlock()
	})
	c.mu.RLock()
	r, ok := c.known[k]
	if !ok {
		r, ok = c.fresh[k]
	}
	c.mu.RUnlock()
	if !ok {
		c.misses.Add(1)
		return "", false
	}
	c.hits.Add(1)
	if r.used+touchAfter < c.today {
		r.used = c.today
		c.mu.Lock()
		c.fresh[k] = r
		c.mu.Unlock()
	}
	return spell(r.sum[:]), true
}

func (c *Cache) put(k cacheKey, id fsdiff.FileID, d digest.Digest) {
	if c.now().UnixNano()-max(id.Mtime, id.Ctime) < int64(settleTime) {
		return
	}
	r := record{used: c.today}
	if _, err := hex.Decode(r.sum[:], []byte(d.Encoded())); err != nil {
		return
	}
	c.mu.Lock()
	c.fresh[k] = r
	c.mu.Unlock()
}

// Stats returns how many files were known and how many were not, so far.
func (c *Cache) Stats() (hits, misses int64) { return c.hits.Load(), c.misses.Load() }

// Save writes the cache to its file if it has learned anything.
func (c *Cache) Save() error {
	c.mu.Lock()
	fresh := c.fresh
	c.fresh = map[cacheKey]record{}
	c.mu.Unlock()
	if len(fresh) == 0 {
		return nil
	}
	all := readCache(c.path) // with what others saved meanwhile
	if all == nil {
		all = map[cacheKey]record{}
	}
	maps.Copy(all, fresh)
	if err := writeCache(c.path, all); err != nil {
		return fmt.Errorf("save digests of files: %w", err)
	}
	c.load.Do(func() {})
	c.mu.Lock()
	c.known = all
	c.mu.Unlock()
	return nil
}

// The file is cacheMagic, the records and a CRC-32C of them.

func readCache(path string) map[cacheKey]record {
	b, err := os.ReadFile(path)
	if err != nil || len(b) < len(cacheMagic)+4 || string(b[:len(cacheMagic)]) != cacheMagic {
		return nil
	}
	b = b[len(cacheMagic):]
	b, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if len(b)%recordSize != 0 || crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) != sum {
		return nil
	}
	all := make(map[cacheKey]record, len(b)/recordSize)
	for ; len(b) > 0; b = b[recordSize:] {
		var r record
		copy(r.sum[:], b[sha256.Size:])
		r.used = binary.LittleEndian.Uint32(b[2*sha256.Size:])
		all[cacheKey(b[:sha256.Size])] = r
	}
	return all
}

func writeCache(path string, all map[cacheKey]record) error {
	keys := make([]cacheKey, 0, len(all))
	for k := range all {
		keys = append(keys, k)
	}
	if len(keys) > maxRecords {
		slices.SortFunc(keys, func(a, b cacheKey) int { return cmp.Compare(all[b].used, all[a].used) })
		keys = keys[:maxRecords]
	}
	b := make([]byte, 0, len(cacheMagic)+len(keys)*recordSize+4)
	b = append(b, cacheMagic...)
	for _, k := range keys {
		r := all[k]
		b = append(b, k[:]...)
		b = append(b, r.sum[:]...)
		b = binary.LittleEndian.AppendUint32(b, r.used)
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[len(cacheMagic):], crc32.MakeTable(crc32.Castagnoli)))

	f, err := os.CreateTemp(filepath.Dir(path), ".digests-*")
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
			f, err = os.CreateTemp(filepath.Dir(path), ".digests-*")
		}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
