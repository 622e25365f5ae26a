package registry

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

func TestParseRef(t *testing.T) {
	const dgst = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, tt := range []struct{ in, full, familiar string }{
		{"busybox", "docker.io/library/busybox:latest", "busybox:latest"},
		{"acme/app:1.4", "docker.io/acme/app:1.4", "acme/app:1.4"},
		{"index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"},
		{"localhost/app", "localhost/app:latest", "localhost/app:latest"},
		{"localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"},
		{"[::1]:5000/app:x", "[::1]:5000/app:x", "[::1]:5000/app:x"},
		{"ghcr.io/acme/app@" + dgst, "ghcr.io/acme/app@" + dgst, "ghcr.io/acme/app@" + dgst},
		{"ghcr.io/acme/app:v1@" + dgst, "ghcr.io/acme/app:v1@" + dgst, "ghcr.io/acme/app:v1@" + dgst},
	} {
		r, err := ParseRef(tt.in)
		if err != nil || r.String() != tt.full || r.Familiar() != tt.familiar {
			t.Errorf("ParseRef(%q) = %q, %q, %v", tt.in, r.String(), r.Familiar(), err)
		}
	}
	for _, in := range []string{"", "UPPER", "a b", "app:", "app@sha256:12", "http://x/y"} {
		if r, err := ParseRef(in); err == nil || !strings.Contains(err.Error(), "image reference") {
			t.Errorf("ParseRef(%q) = %v, %v", in, r, err)
		}
	}
}

func TestParseChallenges(t *testing.T) {
	type p = map[string]string
	for _, tt := range []struct {
		in   string
		want []transport.Challenge
	}{
		{`Basic realm="x y"`, []transport.Challenge{{Scheme: "basic", Parameters: p{"realm": "x y"}}}},
		{`Bearer realm="https://a/t",service="s",scope="repository:a:pull,push"`,
			[]transport.Challenge{{Scheme: "bearer", Parameters: p{"realm": "https://a/t", "service": "s", "scope": "repository:a:pull,push"}}}},
		{`Bearer realm=https://a/t , service=s`, []transport.Challenge{{Scheme: "bearer", Parameters: p{"realm": "https://a/t", "service": "s"}}}},
		{`Negotiate, Basic realm="a\"b", Bearer realm="c"`, []transport.Challenge{
			{Scheme: "negotiate", Parameters: p{}}, {Scheme: "basic", Parameters: p{"realm": `a"b`}}, {Scheme: "bearer", Parameters: p{"realm": "c"}}}},
		{``, nil}, {`=`, nil}, {`"`, nil}, {`realm="x"`, nil},
		{`Bearer realm="open`, []transport.Challenge{{Scheme: "bearer", Parameters: p{"realm": "open"}}}},
	} {
		if got := parseChallenges(tt.in); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("parseChallenges(%q) = %v, want %v", tt.in, got, tt.want)
		}
	}
}

func FuzzParseChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://a/t",service="s"`)
	f.Add(`Negotiate abc==, Basic realm=x`)
	f.Fuzz(func(t *testing.T, s string) { parseChallenges(s) })
}

func TestCovers(t *testing.T) {
	for _, tt := range []struct {
		have, want string
		ok         bool
	}{
		{"repository:a:pull", "repository:a:pull", true},
		{"repository:a:pull,push", "repository:a:pull", true},
		{"repository:a:pull", "repository:a:pull,push", false},
		{"repository:a:pull,push repository:b:pull", "repository:b:pull", true},
		{"repository:a:pull", "repository:b:pull", false},
	} {
		if got := covers(strings.Fields(tt.have), strings.Fields(tt.want)); got != tt.ok {
			t.Errorf("covers(%q, %q) = %v", tt.have, tt.want, got)
		}
	}
}

func TestIsLocal(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1:1": true, "127.9.9.9": true, "[::1]:5000": true,
		"a.localhost": true, "registry:5000": false, "10.0.0.1": false, "ghcr.io": false, "notlocalhost": false,
	} {
		if got := isLocal(host); got != want {
			t.Errorf("isLocal(%q) = %v", host, got)
		}
	}
}

func TestParseError(t *testing.T) {
	for _, tt := range []struct {
		status     int
		body, want string
	}{
		{404, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}`, "404 MANIFEST_UNKNOWN: manifest unknown"},
		{403, `{"errors":[{"code":"DENIED","message":"write_package"}]}`, "403 DENIED: write_package"},
		{401, `{"details":"incorrect username or password"}`, "401 Unauthorized: incorrect username or password"},
		{502, "<html>\n<body>oh", "502 Bad Gateway"},
		{500, "plain\n\ttext\x1b[31m", "500 Internal Server Error: plain text [31m"},
		{404, "Not Found\n", "404 Not Found"},
		{599, "", "599"},
	} {
		if got := parseError(tt.status, []byte(tt.body)).Error(); got != tt.want {
			t.Errorf("%d %q: %q, want %q", tt.status, tt.body, got, tt.want)
		}
	}
}
