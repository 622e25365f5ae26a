package treestore

import (
	"cmp"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// findLinks makes later names of an inode links of the first one.
func findLinks(files []scanned) {
	type inode struct{ dev, ino uint64 }
	first := map[inode]int{}
	for i := range files {
		f := &files[i]
		if f.stat.links < 2 || f.kind() == unix.S_IFDIR {
			continue
		}
		at := inode{f.stat.dev, f.stat.ino}
		if to, ok := first[at]; ok {
			f.link = to
		} else {
			first[at] = i
		}
	}
}

// A limit says what is left out of a directory.
type limit struct {
	size int64     // bytes of all files; 0 means any number
	age  time.Time // files not used since; zero means any age
}

// pick says of each file whether it stays. Those that were not used for too
// long go, and then, until the rest fits, those that were used longest ago.
// Files larger than all together may be go first. What is no regular file
// stays.
func pick(files []scanned, l limit) []bool {
	stay := make([]bool, len(files))
	var order []int
	for i := range files {
		f := &files[i]
		stay[i] = true
		if !f.isRegular() {
			continue
		}
		if !l.age.IsZero() && f.used < l.age.Unix() || l.size > 0 && f.stored() > l.size {
			stay[i] = false
			continue
		}
		order = append(order, i)
	}
	if l.size > 0 {
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(files[b].used, files[a].used) })
		total := int64(0)
		for _, i := range order {
			if total += files[i].stored(); total > l.size {
				stay[i] = false
			}
		}
	}
	return stay
}

// stored returns about how many bytes a file has without its holes.
func (f *scanned) stored() int64 { return min(f.size, f.stat.blocks*512) }

// prune drops what cannot stay because of what does not: the other names of a
// file, and directories that lost all they had.
func prune(files []scanned, stay []bool) {
	had, has := make([]int, len(files)), make([]int, len(files))
	for i := range files {
		if f := &files[i]; i > 0 {
			had[f.parent]++
			stay[i] = stay[i] && (f.link == 0 || stay[f.link])
		}
	}
	for i := len(files) - 1; i > 0; i-- {
		if files[i].isDir() && had[i] > 0 && has[i] == 0 {
			stay[i] = false
		}
		if stay[i] {
			has[files[i].parent]++
		}
	}
}
