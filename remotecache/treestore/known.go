package treestore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Known is what the files of a directory held when Load wrote them or Save
// read them. It is about one directory in one place: a file counts as known
// only while its inode, size, time and, above all, its change time are those
// of then, which no program can set. It says nothing of what a cache holds. A
// nil *Known knows nothing.
type Known struct {
	files map[string]knownFile // by path
}

// A knownFile is a regular file.
type knownFile struct {
	stat   stat
	used   int64 // as in node
	pieces []knownPiece
}

// A knownPiece is a chunk; of a hole the sum is zero.
type knownPiece struct {
	sum  sum
	size int64
}

func (p knownPiece) isHole() bool { return p.sum == sum{} }

// How old a change must be for another one to get another time. The kernel's
// clock for files ticks at least every 10 ms; file systems that store whole
// seconds are known by them.
const (
	racy       = 20 * time.Millisecond
	racyCoarse = 2 * time.Second
)

// add notes a file. at is a time at which it had that content and stat: one
// that had changed just before could change again without being seen to.
func (k *Known) add(path string, f knownFile, at time.Time) {
	ago := racy
	if f.stat.ctime.nsec == 0 {
		ago = racyCoarse
	}
	if f.stat.ctime.before(stampAt(at.Add(-ago))) {
		k.files[path] = f
	}
}

// find returns what is known of a file that has the given stat now.
func (k *Known) find(path string, now stat) (knownFile, bool) {
	if k == nil {
		return knownFile{}, false
	}
	f, ok := k.files[path]
	return f, ok && f.stat.sameFile(now)
}

const knownMagic = "mayfly known 1\n"

// ReadKnown returns what WriteFile wrote, nil when there is none or when it
// cannot be read: then files are read instead.
func ReadKnown(path string) *Known {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	d, err := newDecoder(data, knownMagic)
	if err != nil {
		return nil
	}
	k := &Known{files: map[string]knownFile{}}
	d.each(func() {
		path := d.string(maxManifest)
		f := knownFile{used: d.int()}
		f.stat.ino = d.uint()
		f.stat.size = int64(d.below(maxSize))
		f.stat.mtime, f.stat.ctime, f.stat.atime = d.stamp(), d.stamp(), d.stamp()
		d.each(func() { f.pieces = append(f.pieces, knownPiece{d.digest(), int64(d.below(maxSize))}) })
		k.files[path] = f
	})
	if d.end() != nil {
		return nil
	}
	return k
}

// WriteFile keeps what is known in a file outside of the directory, which
// later processes read with ReadKnown. It appears under its name whole.
func (k *Known) WriteFile(path string) error {
	e := &encoder{}
	e.raw([]byte(knownMagic))
	e.count(len(k.files))
	for path, f := range k.files {
		e.string(path)
		e.int(f.used)
		e.uint(f.stat.ino)
		e.uint(uint64(f.stat.size))
		e.stamp(f.stat.mtime)
		e.stamp(f.stat.ctime)
		e.stamp(f.stat.atime)
		e.count(len(f.pieces))
		for _, p := range f.pieces {
			e.digest(p.sum)
			e.uint(uint64(p.size))
		}
	}
	data, err := e.compressed()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".known-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		if rerr := os.Remove(f.Name()); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}
