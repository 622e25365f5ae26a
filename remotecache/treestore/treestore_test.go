package treestore

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-build/mayfly/remotecache"
)

func sumBytes(b []byte) [32]byte { return sha256.Sum256(b) }

// TestEveryKind: all that a directory may have is there again, to the
// nanosecond.
func TestEveryKind(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	d := newDir(t)
	d.write("a/b/c", "one", "a/empty", "", "a/large", string(random(1, 5<<20)), "bad\xff\xfename\n", "two", "caps", "three", "setuid", "four")
	p := func(name string) string { return filepath.Join(d.path, name) }
	must(t, os.Mkdir(p("empty dir"), 0o700))
	must(t, os.Symlink("../../outside", p("a/link")))
	must(t, os.Symlink("/etc/passwd", p("absolute")))
	must(t, os.Link(p("a/b/c"), p("hard")))
	must(t, os.Link(p("a/large"), p("a/b/hard2")))
	must(t, os.Link(p("absolute"), p("link of a link")))
	must(t, unix.Mkfifo(p("pipe"), 0o640))
	must(t, unix.Mknod(p("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(p("whiteout"), unix.S_IFCHR, 0))
	must(t, unix.Lchown(p("absolute"), 12, 34))
	must(t, os.Chown(p("a/b"), 1000, 1001))
	must(t, os.Chown(p("setuid"), 7, 8))
	must(t, os.Chmod(p("setuid"), 0o755|os.ModeSetuid|os.ModeSticky))
	must(t, os.Chmod(p("a/b/c"), 0))
	must(t, unix.Setxattr(p("a/b"), "user.dir", []byte("x\x00y"), 0))
	must(t, unix.Setxattr(p("caps"), "user.empty", nil, 0))
	capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	must(t, unix.Setxattr(p("caps"), "security.capability", capability, 0))
	for i, name := range []string{"a/b/c", "a/large", "absolute", "pipe", "empty dir", "a/b", "a", "."} {
		ts := unix.Timespec{Sec: int64(1_000_000_000 + i), Nsec: 123_456_789}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p(name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}

	b := remotecache.NewMemory()
	_, saved := d.mustSave(b, SaveOptions{})
	if saved.Files != 6 || saved.Bytes != 5<<20+15 {
		t.Errorf("%+v", saved)
	}
	got := newDir(t)
	_, loaded := got.mustLoad(b)
	d.same(got)
	if loaded.Files != saved.Files || loaded.Bytes != saved.Bytes || loaded.Packs != 1 {
		t.Errorf("saved %+v, loaded %+v", saved, loaded)
	}
}

func TestSocketsAndMountsAreLeftOut(t *testing.T) {
	d := newDir(t)
	d.write("f", "x")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer unix.Close(fd)
	t.Chdir(d.path)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: "sock"}))
	if os.Geteuid() == 0 {
		must(t, os.Mkdir("proc", 0o755))
		must(t, unix.Mount("proc", "proc", "proc", 0, ""))
		defer func() { must(t, unix.Unmount(filepath.Join(d.path, "proc"), 0)) }()
	}
	b := remotecache.NewMemory()
	d.mustSave(b, SaveOptions{})
	got := newDir(t)
	got.mustLoad(b)
	if names := got.names(); len(names) != 1 || names[0] != "f" {
		t.Errorf("loaded %q, want f", names)
	}
}

func TestSparse(t *testing.T) {
	d := newDir(t)
	p := filepath.Join(d.path, "sparse")
	f, err := os.Create(p)
	must(t, err)
	_, err = f.WriteAt([]byte("middle"), 100<<20)
	must(t, err)
	must(t, f.Truncate(1<<30))
	must(t, f.Close())
	must(t, os.WriteFile(filepath.Join(d.path, "all hole"), nil, 0o644))
	must(t, os.Truncate(filepath.Join(d.path, "all hole"), 1<<40))

	b := remotecache.NewMemory()
	_, s := d.mustSave(b, SaveOptions{})
	if s.Read > 1<<20 {
		t.Errorf("%d bytes read of a file with 6", s.Read)
	}
	got := newDir(t)
	got.mustLoad(b)
	for _, name := range []string{"sparse", "all hole"} {
		var was, is unix.Stat_t
		must(t, unix.Stat(filepath.Join(d.path, name), &was))
		must(t, unix.Stat(filepath.Join(got.path, name), &is))
		if was.Size != is.Size || is.Blocks > was.Blocks {
			t.Errorf("%s: %d bytes in %d blocks, was %d in %d", name, is.Size, is.Blocks, was.Size, was.Blocks)
		}
	}
	g, err := os.Open(filepath.Join(got.path, "sparse"))
	must(t, err)
	defer g.Close()
	buf := make([]byte, 8)
	_, err = g.ReadAt(buf, 100<<20-1)
	must(t, err)
	if string(buf) != "\x00middle\x00" {
		t.Errorf("%q", buf)
	}
}

// TestManyFiles: 20,000 small files are few blobs, and one that changes is few
// bytes.
func TestManyFiles(t *testing.T) {
	n := 20_000
	if testing.Short() {
		n = 2_000
	}
	d := newDirIn(t, "")
	for i := range n {
		dir := filepath.Join(d.path, fmt.Sprintf("%02x", i%256))
		if i < 256 {
			must(t, os.Mkdir(dir, 0o755))
		}
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), random(uint64(i), 100+i%3000), 0o644))
	}
	b := &spy{Backend: remotecache.NewMemory()}
	began := time.Now()
	_, s := d.mustSave(b, SaveOptions{})
	took := time.Since(began)
	if s.Files != n || s.Blobs > 4 {
		t.Errorf("%d files in %d blobs", s.Files, s.Blobs)
	}
	got := newDirIn(t, "")
	began = time.Now()
	known, _ := got.mustLoad(b)
	t.Logf("%d files of %.1f MB: saved in %v, loaded in %v, manifest %d bytes", n, float64(s.Bytes)/1e6, took, time.Since(began), b.blobs[len(b.blobs)-1].Size)
	d.same(got)

	got.write("00/256", "changed")
	b.bytes, b.blobs = 0, nil
	time.Sleep(2 * racy)
	_, s = got.mustSave(b, SaveOptions{Known: known})
	if s.Blobs != 2 || s.Sent != b.bytes || s.Blobs != len(b.blobs) {
		t.Errorf("one file changed: %+v; %d blobs with %d bytes were put", s, len(b.blobs), b.bytes)
	}
	if s.Read > int64(n)*2000/10 {
		t.Errorf("%d bytes were read again", s.Read)
	}
}

// TestOnlyChangesTravel is the reason for all this: what 1 % of the files
// costs, and what a large file costs in which some bytes were put.
func TestOnlyChangesTravel(t *testing.T) {
	d := newDir(t)
	for i := range 400 {
		d.write(fmt.Sprintf("%d/%d", i%20, i), string(random(uint64(i), 50_000)))
	}
	big := random(1000, 20<<20)
	d.write("big", string(big))
	b := &spy{Backend: remotecache.NewMemory()}
	_, all := d.mustSave(b, SaveOptions{})

	for i := range 4 {
		d.write(fmt.Sprintf("%d/%d", i, i), string(random(uint64(2000+i), 50_000)))
	}
	_, s := d.mustSave(b, SaveOptions{})
	t.Logf("%d bytes; 1 %% of the files changed: %d sent", all.Bytes, s.Sent)
	if s.Sent > all.Sent/20 {
		t.Errorf("1 %% of the files cost %d of %d bytes", s.Sent, all.Sent)
	}
	d.write("big", string(big[:7<<20])+"some more"+string(big[7<<20:]))
	_, s = d.mustSave(b, SaveOptions{})
	t.Logf("bytes put into %d: %d sent", len(big), s.Sent)
	if s.Sent > 3*maxChunk {
		t.Errorf("bytes put into a file cost %d", s.Sent)
	}
	got := newDir(t)
	got.mustLoad(b)
	d.same(got)
}

func TestUnchangedSendsNothing(t *testing.T) {
	d := newDir(t)
	d.write("a/f", "x", "g", "y")
	b := &spy{Backend: remotecache.NewMemory()}
	d.mustSave(b, SaveOptions{})
	got := newDir(t)
	known, _ := got.mustLoad(b)
	b.blobs, b.saves = nil, 0
	if _, s := got.mustSave(b, SaveOptions{Known: known}); !s.Unchanged || len(b.blobs) != 0 || b.saves != 0 || s.Files != 2 {
		t.Errorf("%+v, %d blobs put, %d indexes saved", s, len(b.blobs), b.saves)
	}
	// A day later it is stored again, so that its age is that of its last use.
	later := func() time.Time { return time.Now().Add(2 * refresh) }
	if _, s := got.mustSave(b, SaveOptions{Known: known, Now: later}); s.Unchanged || s.Blobs != 1 || b.saves != 1 {
		t.Errorf("a day later: %+v, %d indexes saved", s, b.saves)
	}
}

func TestNothingToStore(t *testing.T) {
	d := newDir(t)
	b := remotecache.NewMemory()
	if _, _, err := d.save(b, SaveOptions{}); !errors.Is(err, remotecache.ErrEmpty) {
		t.Errorf("an empty directory: %v", err)
	}
	d.write("f", "x")
	d.mustSave(b, SaveOptions{})
	must(t, os.Remove(filepath.Join(d.path, "f")))
	d.mustSave(b, SaveOptions{})
	got := newDir(t)
	if _, s := got.mustLoad(b); s.Files != 0 || len(got.names()) != 0 {
		t.Errorf("an emptied directory has %q", got.names())
	}
}

// TestKnownIsNotFooled: a file that has its old size and time and is another
// one is read.
func TestKnownIsNotFooled(t *testing.T) {
	d := newDir(t)
	d.write("f", "old content", "g", "stays")
	for _, f := range d.names() {
		d.age(f, time.Hour)
	}
	b := remotecache.NewMemory()
	d.mustSave(b, SaveOptions{})
	got := newDir(t)
	known, _ := got.mustLoad(b)
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(got.path, "f"), &st))
	got.write("f", "new content")
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(got.path, "f"), []unix.Timespec{st.Atim, st.Mtim}, 0))
	got.mustSave(b, SaveOptions{Known: known})
	again := newDir(t)
	again.mustLoad(b)
	if again.read("f") != "new content" {
		t.Errorf("f is %q", again.read("f"))
	}
}

func TestKnownInAFile(t *testing.T) {
	d := newDir(t)
	d.write("a", strings.Repeat("x", 100_000), "b/c", strings.Repeat("y", 100_000))
	time.Sleep(2 * racy)
	b := remotecache.NewMemory()
	known, s := d.mustSave(b, SaveOptions{})
	if s.Read != 200_000 {
		t.Errorf("read %d bytes", s.Read)
	}
	p := filepath.Join(d.tmp, "known")
	must(t, known.WriteFile(p))
	read := ReadKnown(p)
	if read == nil || len(read.files) != 2 {
		t.Fatalf("read %+v", read)
	}
	must(t, os.Remove(p))
	d.write("new", "z")
	if _, s = d.mustSave(b, SaveOptions{Known: read}); s.Read != 1 {
		t.Errorf("with what is known %d bytes are read, want 1", s.Read)
	}
	must(t, os.WriteFile(p, []byte("broken"), 0o600))
	if ReadKnown(p) != nil || ReadKnown(p+"x") != nil {
		t.Error("something is known from a broken file")
	}
}

func TestMaxSize(t *testing.T) {
	d := newDir(t)
	b := remotecache.NewMemory()
	d.write("old/f", strings.Repeat("x", 40_000), "old/g", strings.Repeat("y", 40_000))
	time.Sleep(1100 * time.Millisecond) // times of use are seconds
	d.write("new/f", strings.Repeat("z", 40_000), "huge", string(random(1, 1<<20)))
	must(t, os.Link(filepath.Join(d.path, "old/f"), filepath.Join(d.path, "other name"))) // a change of old/f
	must(t, os.Mkdir(filepath.Join(d.path, "empty"), 0o755))
	_, s := d.mustSave(b, SaveOptions{MaxSize: 100_000})
	if s.LeftOut != 2 || s.Files != 2 || s.OutBytes < 1<<20 {
		t.Errorf("%+v", s)
	}
	got := newDir(t)
	got.mustLoad(b)
	if names := fmt.Sprint(got.names()); names != "[empty new old other name]" {
		t.Errorf("loaded %s", names)
	}
	if _, err := os.Stat(filepath.Join(got.path, "old/g")); err == nil {
		t.Error("the file used longest ago is still there")
	}
}

// TestMaxAge: what nobody uses goes, and restoring is no use.
func TestMaxAge(t *testing.T) {
	d := newDir(t)
	d.write("dir/unused", "x", "read", "y", "written", "z")
	b := remotecache.NewMemory()
	now := time.Now()
	at := func(d time.Duration) func() time.Time { return func() time.Time { return now.Add(d) } }
	const day = 24 * time.Hour
	opts := SaveOptions{MaxAge: 7 * day, Now: at(-10 * day)}
	// As the clock of a directory cannot be set, the first Save is in the past.
	d.mustSave(b, opts)
	tr, _ := stored(t, b)
	for _, n := range tr.nodes {
		if n.isRegular() && n.used != now.Add(-10*day).Unix() {
			t.Errorf("%s was used at %v", n.name, time.Unix(n.used, 0))
		}
	}

	late := newDir(t)
	if _, _, err := late.load(b, LoadOptions{}); !errors.Is(err, ErrExpired) || !errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("restored ten days later: %v", err)
	}
	if _, _, err := late.load(b, LoadOptions{MaxAge: day, Now: at(-8 * day)}); !errors.Is(err, ErrExpired) {
		t.Errorf("restored two days later, asking for one: %v", err)
	}
	got := newDir(t)
	known, _, err := got.load(b, LoadOptions{Now: at(-5 * day)})
	must(t, err)
	time.Sleep(2 * racy)
	got.write("written", "more")
	got.read("read")
	opts.Known, opts.Now = known, at(0)
	k := known.files["dir/unused"]
	if k.stat.ino == 0 { // too fresh to be known: as on a fast machine
		t.Skip("the files were restored within the clock's tick")
	}
	got.mustSave(b, opts)
	again := newDir(t)
	again.mustLoad(b)
	want := "[read written]"
	r, err := openRoot(got.path)
	must(t, err)
	defer r.close()
	if !readsCount(r) {
		want = "[written]"
	}
	if names := fmt.Sprint(again.names()); names != want {
		t.Errorf("loaded %s, want %s", names, want)
	}
}

func TestIndexLeadsToAll(t *testing.T) {
	d := newDir(t)
	d.write("f", "x")
	m := remotecache.NewMemory()
	d.mustSave(m, SaveOptions{})
	_, idx := stored(t, m)
	data, err := idx.EncodeAnnotated()
	must(t, err)
	read, err := remotecache.Decode(data)
	must(t, err)
	if len(read.Layers) != 2 || len(read.Attachments) != 0 || len(read.Records) != 1 {
		t.Errorf("%d layers, %d attachments, %d records", len(read.Layers), len(read.Attachments), len(read.Records))
	}
	if got := idx.Layers[1].Description; got != "cache mount /go-build for linux/amd64" {
		t.Errorf("the manifest is described as %q", got)
	}
}

func TestDescribe(t *testing.T) {
	d := newDir(t)
	d.write("f", "content")
	m := remotecache.NewMemory()
	saved := time.Now()
	d.mustSave(m, SaveOptions{MaxAge: time.Hour, Now: func() time.Time { return saved }})
	refs, err := m.List(t.Context())
	must(t, err)
	info, err := Describe(t.Context(), m, refs.Refs[0].Ref)
	must(t, err)
	if info.Name != testName || !info.Saved.Equal(saved) || info.MaxAge != time.Hour || info.Files != 1 || info.Bytes != 7 {
		t.Errorf("%+v", info)
	}
	must(t, m.SaveIndex(t.Context(), "layers", &remotecache.Index{}))
	for _, ref := range []string{"main", "layers"} {
		if _, err := Describe(t.Context(), m, ref); !errors.Is(err, remotecache.ErrNotFound) {
			t.Errorf("of %s: %v", ref, err)
		}
	}
}

func TestRef(t *testing.T) {
	seen := map[string]bool{}
	for _, ref := range []string{"main", "main1", strings.Repeat("x", 200), "sha256:abc"} {
		for _, n := range []Name{{"/a", "linux/amd64"}, {"/a", "linux/arm64"}, {"/alinux", "/amd64"}, {"a", ""}} {
			r := Ref(ref, n)
			if err := remotecache.CheckRef(r); err != nil || len(r) != 38 || seen[r] {
				t.Errorf("ref %q of %q and %v: %v", r, ref, n, err)
			}
			seen[r] = true
		}
	}
}
