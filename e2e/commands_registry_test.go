package e2e

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mayfly-build/mayfly/e2e/services"
)

func cmdReglog(ts *testscript.TestScript, neg bool, args []string) {
	s := shared(ts)
	all, err := s.registry.Requests()
	ts.Check(err)
	if len(args) == 1 && args[0] == "mark" {
		s.mark = len(all)
		return
	}
	if len(args) == 3 && args[0] == "wait" && !neg {
		s.wait(ts, args[1], args[2])
		return
	}
	method, expr, num := http.MethodGet, `/blobs/sha256:`, ""
	switch {
	case !neg && len(args) == 2 && args[0] == "blobs":
		num = args[1]
	case !neg && len(args) == 4 && args[0] == "count":
		method, expr, num = args[1], args[2], args[3]
	default:
		ts.Fatalf("usage: reglog mark | reglog blobs N | reglog count METHOD REGEXP N")
	}
	re, err := regexp.Compile(expr)
	ts.Check(err)
	want, err := strconv.Atoi(num)
	ts.Check(err)
	var got []string
	for _, q := range all[s.mark:] {
		if q.Method == method && re.MatchString(q.Path) {
			got = append(got, q.String())
		}
	}
	if len(got) != want {
		ts.Fatalf("%d requests %s %s, want %d:\n%s", len(got), method, expr, want, strings.Join(got, "\n"))
	}
}

// wait returns when a request since the mark matches.
func (s *script) wait(ts *testscript.TestScript, method, expr string) {
	re, err := regexp.Compile(expr)
	ts.Check(err)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		all, err := s.registry.Requests()
		ts.Check(err)
		for _, q := range all[s.mark:] {
			if q.Method == method && re.MatchString(q.Path) {
				return
			}
		}
	}
	ts.Fatalf("no request %s %s in 20s", method, expr)
}

func cmdDamage(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "damage REF N")
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	layers, err := imageOf(ts, args[0]).Layers()
	ts.Check(err)
	if n >= len(layers) {
		ts.Fatalf("%s has %d layers", args[0], len(layers))
	}
	d, err := layers[n].Digest()
	ts.Check(err)
	path := shared(ts).registry.BlobPath(d.String())
	b, err := os.ReadFile(path)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(path, b, 0o644))
}

func reference(ts *testscript.TestScript, s string) name.Reference {
	ref, err := name.ParseReference(s)
	ts.Check(err)
	return ref
}

func get(ts *testscript.TestScript, s string) *remote.Descriptor {
	d, err := remote.Get(reference(ts, s))
	ts.Check(err)
	return d
}

func imageOf(ts *testscript.TestScript, s string) v1.Image {
	img, err := get(ts, s).Image()
	ts.Check(err)
	return img
}

func cmdDigest(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "digest REF FILE")
	writeFile(ts, args[1], []byte(get(ts, args[0]).Digest.String()+"\n"))
}

func cmdManifest(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "manifest REF FILE")
	writeFile(ts, args[1], get(ts, args[0]).Manifest)
}

func cmdConfig(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "config REF FILE")
	b, err := imageOf(ts, args[0]).RawConfigFile()
	ts.Check(err)
	writeFile(ts, args[1], b)
}

// cmdTree lists an image's files as "MODE UID:GID PATH SIZE" or, for links,
// "MODE UID:GID PATH -> TARGET", sorted by path.
func cmdTree(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "tree REF FILE")
	rc := mutate.Extract(imageOf(ts, args[0]))
	defer rc.Close()
	var lines []string
	for r := tar.NewReader(rc); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		ts.Check(err)
		tail := strconv.FormatInt(h.Size, 10)
		if h.Linkname != "" {
			tail = "-> " + h.Linkname
		}
		lines = append(lines, fmt.Sprintf("/%s %s %d:%d %s\n", path.Clean(h.Name), h.FileInfo().Mode(), h.Uid, h.Gid, tail))
	}
	sort.Strings(lines)
	writeFile(ts, args[1], []byte(strings.Join(lines, "")))
}

func cmdPutManifest(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "putmanifest REF FILE")
	ref := reference(ts, args[0])
	url := fmt.Sprintf("http://%s/v2/%s/manifests/%s", ref.Context().RegistryStr(), ref.Context().RepositoryStr(), ref.Identifier())
	req, err := http.NewRequest(http.MethodPut, url, strings.NewReader(ts.ReadFile(args[1])))
	ts.Check(err)
	req.Header.Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		b, _ := io.ReadAll(resp.Body) // only for the message
		ts.Fatalf("put %s: %s: %s", url, resp.Status, b)
	}
}

func cmdCopy(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, args, 2, "copy SRC DST")
	ts.Check(services.Push(context.Background(), args[1], imageOf(ts, args[0])))
}
