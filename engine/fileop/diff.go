package fileop

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"path"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
)

// diff returns what the tree changed of its base. The entries are the tree's
// own: it is valid until the tree is changed again.
func (t *tree) diff() (*fsdiff.Mem, error) {
	d := &differ{t: t, m: fsdiff.NewMem(), ids: map[*inode]uint64{}, next: rand.Uint64() >> 1}
	if t.root.dirty {
		if err := d.node(t.root, "", nil); err != nil {
			return nil, err
		}
	}
	return d.m, nil
}

type differ struct {
	t    *tree
	m    *fsdiff.Mem
	ids  map[*inode]uint64 // of those with several names
	next uint64            // random, so that two Diffs in one View differ
}

// node adds n and what is dirty below it. low is the directory of the base at
// n's path, if n is a new one that hides it.
func (d *differ) node(n *node, p string, low *fsdiff.Entry) error {
	if n.ino.names > 1 && !n.isDir() {
		e := n.ino.Entry
		e.Path, e.Inode = p, d.id(n.ino)
		d.m.Add(e)
	} else {
		n.ino.Path, n.ino.Inode = p, 0
		d.m.AddShared(&n.ino.Entry)
	}
	for name, k := range n.kids {
		kp := join(p, name)
		switch {
		case !k.dirty:
		case k.ino == nil:
			d.m.Whiteout(kp)
		default:
			hidden, err := d.hidden(k, kp, low)
			if err != nil {
				return err
			}
			if err := d.node(k, kp, hidden); err != nil {
				return err
			}
		}
	}
	if low == nil {
		return nil
	}
	// Not opaque but one whiteout for each: this is what the tar will have.
	list, err := d.t.base.ReadDir(p)
	if err != nil {
		return err
	}
	for _, e := range list {
		if _, ok := n.kids[path.Base(e.Path)]; !ok {
			d.m.Whiteout(e.Path)
		}
	}
	return nil
}

// hidden returns the directory of the base whose place the new directory k,
// in one that hides up, takes; nil when there is none.
func (d *differ) hidden(k *node, p string, up *fsdiff.Entry) (*fsdiff.Entry, error) {
	if !k.isDir() || k.merged || !k.low && up == nil {
		return nil, nil
	}
	e, err := d.t.base.Lookup(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || !e.IsDir() {
		return nil, err
	}
	return e, nil
}

func (d *differ) id(i *inode) uint64 {
	if d.ids[i] == 0 {
		d.next++
		d.ids[i] = d.next
	}
	return d.ids[i]
}
