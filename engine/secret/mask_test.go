package secret_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/mayfly-build/mayfly/engine/secret"
)

func TestMask(t *testing.T) {
	for _, tt := range []struct {
		values   []string
		in, want string
	}{
		{[]string{"hunter22"}, "pw=hunter22;hunter2;hunter22", "pw=***;hunter2;***"},
		{[]string{"hunter22\n"}, "hunter22", "***"},
		{[]string{"abc", ""}, "abc", "abc"},
		{[]string{"aaaa"}, "aaaaaaaaa", "******a"},
		{[]string{"cdcd", "abcdcdef"}, "abcdcdef abcdcde cdcd abcdcd", "*** ab***e *** ab***"},
		{[]string{"abab", "ababcc"}, "abababcc ababab", "***abcc ***ab"},
		{[]string{"-----BEGIN\nMIIEvQIBADAN\nshort\n-----END KEY"}, "x MIIEvQIBADAN\nshort\n-----BEGIN\n", "x ***\nshort\n***\n"},
		{nil, "hunter22", "hunter22"},
	} {
		var values [][]byte
		for _, v := range tt.values {
			values = append(values, []byte(v))
		}
		for n := 1; n <= len(tt.in); n++ { // in parts of n bytes
			var out bytes.Buffer
			m := secret.Mask(&out, values...)
			for rest := []byte(tt.in); len(rest) > 0; {
				part := rest[:min(n, len(rest))]
				if wrote, err := m.Write(part); wrote != len(part) || err != nil {
					t.Fatalf("wrote %d, %v", wrote, err)
				}
				rest = rest[len(part):]
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			for _, v := range secret.Words(values...) {
				if strings.Contains(out.String(), string(v)) {
					t.Errorf("%q in parts of %d: %q has %q", tt.in, n, out.String(), v)
				}
			}
			if n == len(tt.in) && out.String() != tt.want {
				t.Errorf("%q: %q, want %q", tt.in, out.String(), tt.want)
			}
		}
	}
}

// A line goes on its way although more may follow.
func TestMaskHoldsLittle(t *testing.T) {
	var out bytes.Buffer
	m := secret.Mask(&out, []byte("hunter22"))
	if _, err := m.Write([]byte("compiling\nh")); err != nil {
		t.Fatal(err)
	}
	if out.String() != "compiling\n" {
		t.Errorf("%q", out.String())
	}
}
