package e2e

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// files compares the outputs that are no registry's.
func (c *attestCase) files(t *testing.T) {
	for _, tt := range []struct{ provenance, output string }{
		{"mode=min", "type=local,dest=DEST"},
		{"mode=min", "type=local,dest=DEST,attestation-prefix=app."},
		{"mode=min,inline-only=true", "type=local,dest=DEST"},
		{"mode=min", "type=tar,dest=DEST"},
		{"mode=min", "type=oci,dest=DEST,name=example.test/app:1"},
		{"mode=min", "type=oci,dest=DEST,oci-artifact=false"},
		{"mode=min,inline-only=true", "type=oci,dest=DEST"},
		{"mode=min,inline-only=true", "type=oci,dest=DEST,attestation-inline=true"},
	} {
		theirs, ours := filepath.Join(t.TempDir(), "theirs"), filepath.Join(t.TempDir(), "ours")
		if strings.HasPrefix(tt.output, "type=oci") { // the image is to have the same digest
			tt.output += ",rewrite-timestamp=true,compression=uncompressed,force-compression=true"
		}
		in := c.in
		in.Opts = append([]string{"attest:provenance=" + tt.provenance}, in.Opts...)
		in.Outputs = []string{strings.ReplaceAll(tt.output, "DEST", theirs)}
		if _, err := c.bk.Build(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		args := append([]string{"--provenance", tt.provenance, "-o", strings.ReplaceAll(tt.output, "DEST", ours)}, c.args...)
		if _, err := mayfly(t.Context(), t, c.root, nil, append(args, c.dir)...); err != nil {
			t.Fatal(err)
		}
		want, got := shape(t, theirs), shape(t, ours)
		if len(want) != len(got) || !strings.HasPrefix(linesDiff(want, got), "the same") {
			t.Errorf("%s %s:\n%s", tt.provenance, tt.output, linesDiff(want, got))
		}
	}
}

// shape lists what is in a directory or tar, and the statements in it; of what
// is named by its digest only the kind and whether there is one.
func shape(t *testing.T, path string) (lines []string) {
	t.Helper()
	add := func(name string, mode fs.FileMode, dt []byte) {
		switch {
		case strings.HasPrefix(name, "blobs/sha256/") && len(name) > 13:
			name = "blob"
		case name == "index.json":
			dt = nil
		}
		var v any
		if json.Unmarshal(dt, &v) == nil {
			if m, ok := v.(map[string]any); ok {
				delete(m, "manifests") // digests and sizes
				delete(m, "layers")
				for _, k := range []string{"config", "subject"} {
					if d, ok := m[k].(map[string]any); ok {
						m[k] = d["mediaType"]
					}
				}
				for _, k := range []string{"rootfs", "history", "created"} {
					delete(m, k)
				}
			}
			dt = mustJSON(t, timeless(v))
		} else if len(dt) > 100 {
			dt = dt[:0]
		}
		lines = append(lines, fmt.Sprintf("%s %v %s", name, mode, dt))
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi.IsDir() {
		err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if err != nil || p == path {
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			var dt []byte
			if fi.Mode().IsRegular() {
				if dt, err = os.ReadFile(p); err != nil {
					return err
				}
			}
			rel, err := filepath.Rel(path, p)
			add(rel, fi.Mode(), dt)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return lines
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			slices.Sort(lines)
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		dt, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		add(h.Name, h.FileInfo().Mode(), dt)
	}
}
