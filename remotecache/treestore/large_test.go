package treestore

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/remotecache"
)

// TestLarge saves and loads 500 MiB in the directory $TREESTORE_LARGE, changes
// 1 % of the files, and prints what that costs beside tar and zstd. A third of
// the bytes cannot be compressed, the rest are program text.
func TestLarge(t *testing.T) {
	base := os.Getenv("TREESTORE_LARGE")
	if base == "" {
		t.Skip("$TREESTORE_LARGE names no directory for 2 GiB of files")
	}
	d := newDirIn(t, base)
	text := programText(t)
	const size = 500 << 20
	total, files := 0, 0
	for ; total < size; files++ {
		n := 2_000 + (files*7919)%60_000
		switch {
		case files%2000 == 1999:
			n = 20 << 20
		case files%100 == 99:
			n = 1 << 20
		}
		data := random(uint64(files), n)
		if files%3 != 0 {
			at := files * 104_729 % len(text)
			data = []byte(fmt.Sprint(files))
			for len(data) < n {
				data = append(data, text[at:min(len(text), at+n)]...)
				at = 0
			}
		}
		d.write(fmt.Sprintf("%03d/%d", files%300, files), string(data[:n]))
		total += n
	}
	t.Logf("%d files, %d MiB", files, total>>20)
	timed := func(what string, f func()) {
		began, cpu := time.Now(), cpuTime(t)
		f()
		t.Logf("%-44s %6.2f s, of CPUs %6.2f s", what, time.Since(began).Seconds(), (cpuTime(t) - cpu).Seconds())
	}
	archive := filepath.Join(base, "treestore-test.tar.zst")
	defer os.Remove(archive)
	timed("tar | zstd", func() { shell(t, "tar -C %s -cf - . | zstd -q -3 -T0 -f -o %s", d.path, archive) })
	fi, err := os.Stat(archive)
	must(t, err)
	t.Logf("%-44s %6.1f MiB", "  bytes", float64(fi.Size())/(1<<20))
	untar := newDirIn(t, base)
	timed("zstd -d | tar", func() { shell(t, "zstd -q -dc -T0 %s | tar -C %s -xf -", archive, untar.path) })

	m := remotecache.NewMemory()
	var all, s Stats
	var known *Known
	timed("Save into nothing", func() { _, all = d.mustSave(m, SaveOptions{}) })
	t.Logf("%-44s %6.1f MiB in %d blobs", "  bytes", float64(all.Sent)/(1<<20), all.Blobs)
	got := newDirIn(t, base)
	timed("Load", func() { known, _ = got.mustLoad(m) })
	d.same(got)
	timed("Save unchanged after Load", func() { known, s = got.mustSave(m, SaveOptions{Known: known}) })
	if !s.Unchanged || s.Read > all.Bytes/20 {
		t.Errorf("%+v", s)
	}
	timed("Save unchanged, nothing known", func() { got.mustSave(m, SaveOptions{}) })
	for i := 0; i < files; i += 100 {
		got.write(fmt.Sprintf("%03d/%d", i%300, i), string(random(uint64(i)+1e6, 2_000+(i*7919)%60_000)))
	}
	timed("Save with 1 % of the files changed", func() { _, s = got.mustSave(m, SaveOptions{Known: known}) })
	t.Logf("%-44s %6.1f MiB in %d blobs, %.1f %% of %.1f MiB", "  bytes", float64(s.Sent)/(1<<20), s.Blobs,
		100*float64(s.Sent)/float64(all.Sent), float64(all.Sent)/(1<<20))
	if s.Sent > all.Sent/20 {
		t.Errorf("1 %% of the files cost %d of %d bytes", s.Sent, all.Sent)
	}
}

// cpuTime returns what this process and those it started have used.
func cpuTime(t *testing.T) (sum time.Duration) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		must(t, unix.Getrusage(who, &u))
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

// programText returns some megabytes of Go sources.
func programText(t *testing.T) (text []byte) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	must(t, err)
	files, err := filepath.Glob(filepath.Join(string(out[:len(out)-1]), "src/*/*.go"))
	must(t, err)
	for _, f := range files {
		data, err := os.ReadFile(f)
		must(t, err)
		text = append(text, data...)
	}
	return text
}

func shell(t *testing.T, format string, args ...any) {
	t.Helper()
	out, err := exec.Command("bash", "-c", "set -o pipefail; "+fmt.Sprintf(format, args...)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
