package treestore

// Sizes of chunks, in bytes. A file below minChunk is one chunk. Smaller ones
// would find more that is the same and make the manifest, which is sent every
// time, larger: at 512 KiB it takes 40 bytes for each.
const (
	minChunk = 128 << 10
	avgChunk = 512 << 10
	maxChunk = 2 << 20
)

// A chunk ends where the upper bits of the hash are zero: more of them are
// asked for before the average size than after it, which draws the sizes
// together (FastCDC, USENIX ATC 2016).
const (
	maskBefore = uint64(1<<21-1) << 43
	maskAfter  = uint64(1<<17-1) << 47
)

// A cutter finds the ends of chunks. Its gear hash, a shift and an addition
// for each byte, runs at 2.1 GB/s where SHA-256 runs at 1.8 (BenchmarkCut) and
// the Rabin fingerprint of restic/chunker at 0.45. The ends depend on the 64
// bytes before them and on gearSeed: another seed stores every large file
// anew.
type cutter struct{ gear [256]uint64 }

const gearSeed = 0x6d6179666c793031

func newCutter() *cutter {
	c := &cutter{}
	x := uint64(gearSeed)
	for i := range c.gear { // splitmix64
		x += 0x9e3779b97f4a7c15
		z := x
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		c.gear[i] = z ^ z>>31
	}
	return c
}

// cut returns the length of the first chunk of data, which holds maxChunk
// bytes or all that is left.
func (c *cutter) cut(data []byte) int {
	n := min(len(data), maxChunk)
	if n <= minChunk {
		return n
	}
	var h uint64
	i, mid := minChunk, min(n, avgChunk)
	for _, b := range data[i-64 : i] {
		h = h<<1 + c.gear[b]
	}
	for ; i < mid; i++ {
		h = h<<1 + c.gear[data[i]]
		if h&maskBefore == 0 {
			return i + 1
		}
	}
	for ; i < n; i++ {
		h = h<<1 + c.gear[data[i]]
		if h&maskAfter == 0 {
			return i + 1
		}
	}
	return n
}
