package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/e2e/services"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/remotecachetest"
	"github.com/mayfly-build/mayfly/remotecache/s3"
)

// counter returns what counts the requests since it was last called, as
// "2 PutObject, 1 UploadPart".
func counter(t *testing.T, srv *services.S3) func() string {
	seen := 0
	return func() string {
		t.Helper()
		reqs, err := srv.Requests()
		if err != nil {
			t.Fatal(err)
		}
		n := map[string]int{}
		for _, r := range reqs[seen:] {
			n[r.Operation]++
		}
		seen = len(reqs)
		var out []string
		for op, n := range n {
			out = append(out, fmt.Sprint(n, " ", op))
		}
		slices.Sort(out)
		return strings.Join(out, ", ")
	}
}

// strangers puts n empty objects in the bucket whose names are digests.
func strangers(t *testing.T, srv *services.S3, n int) {
	t.Helper()
	dir := srv.ObjectPath("blobs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		name := digest.FromString(fmt.Sprint("stranger ", i)).String()
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func descs(from uint64, n, size int) []ocispec.Descriptor {
	out := make([]ocispec.Descriptor, n)
	for i := range out {
		out[i], _ = remotecachetest.Blob(from+uint64(i), size)
	}
	return out
}

// TestRequests counts what is sent.
func TestRequests(t *testing.T) {
	srv := start(t, services.S3Config{})
	count := counter(t, srv)
	b := open(t, reach(srv))
	missing := func(b *s3.Backend, blobs []ocispec.Descriptor, want int) {
		t.Helper()
		got, err := b.Missing(t.Context(), blobs)
		if err != nil || len(got) != want {
			t.Errorf("%d of %d blobs are missing, %v; want %d", len(got), len(blobs), err, want)
		}
	}
	want := func(what, want string) {
		t.Helper()
		if got := count(); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	few, many := descs(1, 5, 1000), descs(100, 400, 1000)
	missing(b, few, 5)
	want("missing, few", "5 HeadObject")
	missing(b, many, 400)
	want("missing, many", "1 ListObjectsV2")

	put(t, b, 100, 1000)
	put(t, b, 100, 1000)
	missing(b, many[:1], 0)
	want("put one twice, and missing", "1 PutObject")
	put(t, open(t, reach(srv)), 100, 1000)
	want("put a small one that another job has put", "1 PutObject")
	put(t, b, 7, 1<<20)
	want("put a larger one", "1 HeadObject, 1 PutObject")
	put(t, open(t, reach(srv)), 7, 1<<20)
	want("put it in another job", "1 HeadObject")
	missing(b, append(few, many...), 404)
	want("all", "1 ListObjectsV2")
	put(t, b, 8, 20<<20)
	want("put a large one", "1 CompleteMultipartUpload, 1 CreateMultipartUpload, 1 HeadObject, 3 UploadPart")
	if err := readAll(t, b, 8, 20<<20); err != nil {
		t.Error(err)
	}
	want("read a large one", "5 GetObject")
	if err := readAll(t, b, 100, 1000); err != nil {
		t.Error(err)
	}
	want("read a small one", "1 GetObject")

	blob, _ := remotecachetest.Blob(100, 1000)
	idx := remotecachetest.IndexOf("x", blob)
	if err := b.SaveIndex(t.Context(), "main", idx); err != nil {
		t.Error(err)
	}
	want("save over whatever is there", "1 PutObject")
	if _, err := b.LoadIndex(t.Context(), "main"); err != nil {
		t.Error(err)
	}
	want("load", "1 GetObject")

	// Of a bucket with many blobs of others, only so many pages are read.
	strangers(t, srv, 2500)
	missing(open(t, reach(srv)), append(few, many...), 404)
	want("400 among 2500", "3 ListObjectsV2")
	missing(open(t, reach(srv)), many[1:21], 20)
	if got := count(); !strings.Contains(got, "1 ListObjectsV2") || !strings.Contains(got, "HeadObject") {
		t.Errorf("20 among 2500: %s, want a page, and questions after what is not on it", got)
	}
}

// age makes the object of a blob a week old.
func age(t *testing.T, srv *services.S3, d digest.Digest) {
	t.Helper()
	old := time.Now().Add(-7 * 24 * time.Hour)
	if err := os.Chtimes(srv.ObjectPath("blobs/"+d.String()), old, old); err != nil {
		t.Fatal(err)
	}
}

func TestTouch(t *testing.T) {
	srv := start(t, services.S3Config{Args: []string{"--copy-object-threshold", fmt.Sprint(6 << 20)}})
	cfg := reach(srv)
	small, _ := put(t, open(t, cfg), 1, 1000)
	large, _ := put(t, open(t, cfg), 2, 13<<20)
	other, _ := put(t, open(t, cfg), 3, 1000)
	blobs := append(descs(1, 1, 1000), append(descs(2, 1, 13<<20), descs(3, 1, 1000)...)...)
	// A copy of an object onto itself leaves versitygw's file as old as it was:
	// what tells is the metadatum that has to change with it.
	sdk := open(t, cfg).SDK()
	last := map[digest.Digest]string{}
	fresh := func(d digest.Digest) bool {
		out, err := sdk.HeadObject(t.Context(), &awss3.HeadObjectInput{Bucket: &srv.Bucket, Key: new("blobs/" + d.String())})
		if err != nil {
			t.Fatal(err)
		}
		was := last[d]
		last[d] = out.Metadata["updated-at"]
		return last[d] != was
	}
	run := func(cfg s3.Config, needed []ocispec.Descriptor) {
		t.Helper()
		age(t, srv, small)
		age(t, srv, large)
		age(t, srv, other)
		b := open(t, cfg)
		b.SetCopyMax(6 << 20)
		if missing, err := b.Missing(t.Context(), needed); err != nil || len(missing) > 0 {
			t.Fatalf("%v, %v", missing, err)
		}
		if err := b.SaveIndex(t.Context(), "main", remotecachetest.IndexOf("x", needed...)); err != nil {
			t.Fatal(err)
		}
	}
	count := counter(t, srv)
	count()
	run(cfg, blobs[:2])
	if got, want := count(), "1 CompleteMultipartUpload, 1 CopyObject, 1 CreateMultipartUpload, 2 HeadObject, 1 PutObject, 3 UploadPartCopy"; sorted(got) != sorted(want) {
		t.Errorf("requests: %s, want %s", got, want)
	}
	if !fresh(small) || !fresh(large) || fresh(other) {
		t.Error("not those two are touched that were needed")
	}
	for i, size := range []int{1000, 13 << 20} {
		if err := readAll(t, open(t, cfg), uint64(1+i), size); err != nil {
			t.Error(err)
		}
	}
	for _, d := range []time.Duration{30 * 24 * time.Hour, -1} {
		cfg.TouchRefresh = d
		run(cfg, blobs)
		if fresh(small) || fresh(large) {
			t.Errorf("TouchRefresh %s: a blob of a week is touched", d)
		}
	}

	// Who may not write is not told before it does.
	srv = start(t, services.S3Config{Dir: srv.Dir, ReadOnly: true})
	age(t, srv, small)
	b := open(t, reach(srv))
	if missing, err := b.Missing(t.Context(), blobs[:1]); err != nil || len(missing) > 0 {
		t.Errorf("%v, %v", missing, err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func sorted(list string) string {
	s := strings.Split(list, ", ")
	slices.Sort(s)
	return strings.Join(s, ", ")
}

// TestDamage: objects that are not what they should be are missing, and are
// put anew.
func TestDamage(t *testing.T) {
	srv := start(t, services.S3Config{})
	cfg := reach(srv)
	const size = 10 << 20
	d, data := put(t, open(t, cfg), 1, size)
	blobs := descs(1, 1, size)
	for _, cut := range []int64{0, 1, 5 << 20, size - 1} {
		if err := os.Truncate(srv.ObjectPath("blobs/"+d.String()), cut); err != nil {
			t.Fatal(err)
		}
		b := open(t, cfg)
		err := readAll(t, b, 1, size)
		if !errors.Is(err, remotecache.ErrCorrupt) || !strings.Contains(err.Error(), d.String()) {
			t.Errorf("cut at %d: %v, want ErrCorrupt and the blob", cut, err)
		}
		for range 2 { // what was met, and what is asked
			if missing, err := b.Missing(t.Context(), blobs); err != nil || len(missing) != 1 {
				t.Errorf("cut at %d: %v, %v", cut, missing, err)
			}
			b = open(t, cfg)
		}
		if err := b.Put(t.Context(), blobs[0], bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if err := readAll(t, open(t, cfg), 1, size); err != nil {
			t.Error(err)
		}
	}

	// A blob that has expired since is no part of an Index that is saved.
	idx := remotecachetest.IndexOf("x", blobs[0], descs(2, 1, 100)[0])
	if err := open(t, cfg).SaveIndex(t.Context(), "main", idx); !errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("an Index with a blob that is not there: %v", err)
	}
	put(t, open(t, cfg), 2, 100)
	if err := open(t, cfg).SaveIndex(t.Context(), "main", idx); err != nil {
		t.Error(err)
	}
	for what, bad := range map[string]string{"no JSON": "{", "no index": `{"layers":[{"blob":"sha256:x"}]}`} {
		if err := os.WriteFile(srv.ObjectPath("manifests/main"), []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := open(t, cfg).LoadIndex(t.Context(), "main")
		if !errors.Is(err, remotecache.ErrCorrupt) || !strings.Contains(err.Error(), srv.Bucket) {
			t.Errorf("%s: %v, want ErrCorrupt and the place", what, err)
		}
	}
}

// TestNames: a cache saved under a name with slashes is kept apart, listed,
// and read.
func TestNames(t *testing.T) {
	for name, want := range map[string][2]string{
		"buildkit": {"", "buildkit"}, "feature/x": {"feature/", "x"}, "a/b/c-1": {"a/b/", "c-1"},
	} {
		if folder, ref, err := s3.SplitName(name); folder != want[0] || ref != want[1] || err != nil {
			t.Errorf("%s: %q, %q, %v", name, folder, ref, err)
		}
	}
	for _, name := range []string{"", "a/", "a b", "x/ä", "a@b"} {
		if _, _, err := s3.SplitName(name); err == nil {
			t.Errorf("%q is a name", name)
		}
	}

	srv := start(t, services.S3Config{})
	cfg := reach(srv)
	cfg.Prefix = "p/"
	b := open(t, cfg)
	blob, _ := remotecachetest.Blob(1, 100)
	put(t, b, 1, 100)
	idx := remotecachetest.IndexOf("x", blob)
	for _, name := range []string{"feature/x", "main"} {
		folder, ref, err := s3.SplitName(name)
		if err != nil {
			t.Fatal(err)
		}
		cfg := cfg
		cfg.ManifestsPrefix = new("manifests/" + folder)
		if err := open(t, cfg).SaveIndex(t.Context(), ref, idx); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(srv.ObjectPath("p/manifests/" + name)); err != nil {
			t.Error(err)
		}
	}
	// Both prefixes empty: blobs and indexes beside each other.
	flat := cfg
	flat.BlobsPrefix, flat.ManifestsPrefix = new(""), new("")
	put(t, open(t, flat), 1, 100)
	for _, tt := range []struct {
		cfg  s3.Config
		refs []string
	}{{cfg, []string{"feature/x", "main"}}, {flat, []string{"manifests/feature/x", "manifests/main"}}} {
		b := open(t, tt.cfg)
		c, err := b.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var refs []string
		for _, r := range c.Refs {
			if strings.HasPrefix(r.Ref, "blobs/") {
				continue // of the other layout
			}
			refs = append(refs, r.Ref)
			if got, err := b.LoadIndex(t.Context(), r.Ref); err != nil || len(got.Layers) != 1 {
				t.Errorf("load %s: %v", r.Ref, err)
			}
			if time.Since(r.Saved) > time.Hour {
				t.Errorf("%s was saved at %s", r.Ref, r.Saved)
			}
		}
		slices.Sort(refs)
		if !slices.Equal(refs, tt.refs) || len(c.Blobs) != 1 || c.Blobs[0].Size != 100 {
			t.Errorf("refs %v and %d blobs, want %v and 1", refs, len(c.Blobs), tt.refs)
		}
	}
	if err := open(t, cfg).RemoveIndex(t.Context(), "feature/x"); err != nil {
		t.Error(err)
	}
	if _, err := open(t, cfg).LoadIndex(t.Context(), "feature/x"); !errors.Is(err, remotecache.ErrNotFound) {
		t.Errorf("after it was removed: %v", err)
	}
	for _, name := range []string{"", "../x", "a/./b", "x/"} {
		if _, err := open(t, cfg).LoadIndex(t.Context(), name); err == nil || errors.Is(err, remotecache.ErrNotFound) {
			t.Errorf("load %q: %v", name, err)
		}
	}
}
