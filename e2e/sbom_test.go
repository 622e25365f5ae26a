package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// scanner is a program that follows the protocol of SBOM scanners: it lists
// the files of the root file system that it is given.
const scanner = `#!/bin/sh
set -e
for core in "$BUILDKIT_SCAN_SOURCE" "$BUILDKIT_SCAN_SOURCE_EXTRAS"/*; do
	[ -d "$core" ] || continue
	name=$(basename "$core")
	{
		printf '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","predicate":{"by":"%s","name":"%s","files":["' "$BUILDKIT_SCAN_LEVEL" "$name"
		(cd "$core" && find . -name 'hello*' | sort | tr '\n' ' ')
		printf '"]}}'
	} > "$BUILDKIT_SCAN_DESTINATION/$name.json"
done
`

// spdxScanner lists what a step made and what the context has, as SPDX.
const spdxScanner = `#!/bin/sh
cat > "$BUILDKIT_SCAN_DESTINATION/$(basename "$BUILDKIT_SCAN_SOURCE").spdx.json" <<'EOF'
{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","predicate":{
"spdxVersion":"SPDX-2.3","dataLicense":"CC0-1.0","SPDXID":"SPDXRef-DOCUMENT","name":"x","documentNamespace":"https://example.test/x",
"creationInfo":{"creators":["Tool: scanner"],"created":"2026-01-01T00:00:00Z"},
"files":[
{"fileName":"/name","SPDXID":"SPDXRef-1","checksums":[{"algorithm":"SHA1","checksumValue":"aa"}],"copyrightText":""},
{"fileName":"./hello","SPDXID":"SPDXRef-2","checksums":[{"algorithm":"SHA1","checksumValue":"aa"}],"copyrightText":""},
{"fileName":"bin/busybox","SPDXID":"SPDXRef-3","checksums":[{"algorithm":"SHA1","checksumValue":"aa"}],"copyrightText":""},
{"fileName":"/nowhere","SPDXID":"SPDXRef-4","checksums":[{"algorithm":"SHA1","checksumValue":"aa"}],"copyrightText":""},
{"fileName":"/tool","SPDXID":"SPDXRef-5","comment":"mine","checksums":[{"algorithm":"SHA1","checksumValue":"aa"}],"copyrightText":""}
]}}
EOF
`

// layers: a document of SPDX says of each file which layer it is in.
func (c *attestCase) layers(t *testing.T, generator string) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"scan": spdxScanner, "Dockerfile": "FROM " + generator + "\nCOPY --chmod=755 scan /scan\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := mayfly(t.Context(), t, c.root, nil, "-t", generator+"-spdx", "--push", dir); err != nil {
		t.Fatal(err)
	}
	const output = "type=image,push=true,rewrite-timestamp=true,compression=uncompressed,force-compression=true,name="
	theirs, ours := c.reg+"/buildkit/spdx:1", c.reg+"/mayfly/spdx:1"
	in := c.in
	in.Opts = append([]string{"attest:sbom=generator=" + generator + "-spdx"}, c.in.Opts...)
	in.Outputs = []string{output + theirs}
	if _, err := c.bk.Build(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if _, err := mayfly(t.Context(), t, c.root, nil, append(append([]string{"--sbom", "generator=" + generator + "-spdx", "-o", output + ours}, c.args...), c.dir)...); err != nil {
		t.Fatal(err)
	}
	comments := func(image string) (out []string) {
		_, lines := attestationsOf(t, image, indexOf(t, image).manifest.Manifests[1].Digest)
		for _, l := range lines {
			if strings.Contains(l, `"comment"`) {
				out = append(out, strings.TrimSpace(l))
			}
		}
		return out
	}
	want, got := comments(theirs), comments(ours)
	if len(got) != 4 || !slices.Equal(want, got) {
		t.Errorf("comments %q, BuildKit's are %q", got, want)
	}
}

// TestSBOM: the statements of a scanner are beside the image, as BuildKit has
// them, and the scan is cached.
func TestSBOM(t *testing.T) {
	c := newAttestCase(t)
	generator := c.reg + "/scanner"
	dir := t.TempDir()
	for name, text := range map[string]string{
		"scan": scanner, "Dockerfile": "FROM " + c.reg + "/multi\nCOPY --chmod=755 scan /scan\nENTRYPOINT [\"/scan\"]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := mayfly(t.Context(), t, c.root, nil, "-t", generator, "--push", dir); err != nil {
		t.Fatal(err)
	}
	const output = "type=image,push=true,rewrite-timestamp=true,compression=uncompressed,force-compression=true,name="
	attrs := "generator=" + generator + ",LEVEL=high"
	for _, platforms := range []string{"", "linux/amd64,linux/arm64"} {
		theirs, ours := c.reg+"/buildkit/sbom:1", c.reg+"/mayfly/sbom:1"
		in := c.in
		in.Opts = append([]string{"attest:sbom=" + attrs, "build-arg:BUILDKIT_SBOM_SCAN_STAGE=true"}, c.in.Opts...)
		in.Outputs = []string{output + theirs}
		args := append([]string{"--sbom", attrs, "--build-arg", "BUILDKIT_SBOM_SCAN_STAGE=true", "-o", output + ours}, c.args...)
		images := 1
		if platforms != "" {
			in.Opts = append(in.Opts, "platform="+platforms)
			args = append(args, "--platform", platforms)
			images = 2
		}
		if _, err := c.bk.Build(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		args = append(args, c.dir)
		if _, err := mayfly(t.Context(), t, c.root, nil, args...); err != nil {
			t.Fatal(err)
		}
		sameAttestations(t, theirs, ours, images)
		b, err := mayfly(t.Context(), t, c.root, nil, args...)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range b.steps {
			if strings.Contains(s.Name, "generating sbom") && !s.Cached {
				t.Errorf("scanned again: %s", s.Name)
			}
		}
	}
	t.Run("files", func(t *testing.T) {
		theirs, ours := filepath.Join(t.TempDir(), "theirs"), filepath.Join(t.TempDir(), "ours")
		in := c.in
		in.Opts = append([]string{"attest:sbom=" + attrs}, c.in.Opts...)
		in.Outputs = []string{"type=local,dest=" + theirs}
		if _, err := c.bk.Build(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		if _, err := mayfly(t.Context(), t, c.root, nil, append(append([]string{"--sbom", attrs, "-o", ours}, c.args...), c.dir)...); err != nil {
			t.Fatal(err)
		}
		want, got := shape(t, theirs), shape(t, ours)
		if len(want) != len(got) || !strings.HasPrefix(linesDiff(want, got), "the same") {
			t.Errorf("files differ:\n%s", linesDiff(want, got))
		}
	})
	t.Run("layers", func(t *testing.T) { c.layers(t, generator) })
	t.Run("failing", func(t *testing.T) {
		_, err := mayfly(t.Context(), t, c.root, nil, append(append([]string{"--sbom", "generator=" + c.reg + "/none", "-t", c.reg + "/x"}, c.args...), c.dir)...)
		if err == nil || !strings.Contains(err.Error(), c.reg+"/none") {
			t.Errorf("a scanner that is not there: %v", err)
		}
	})
}
