package main

import (
	"errors"
	"strings"
	"testing"
)

func TestParseAttrs(t *testing.T) {
	tests := []struct {
		text, plain string
		fields      map[string]string
		err         string // part of it; "" for none
	}{
		{text: "out", plain: "out"},
		{text: "-", plain: "-"},
		{text: "type=tar", fields: map[string]string{"type": "tar"}},
		{text: "type=tar,dest=a=b", fields: map[string]string{"type": "tar", "dest": "a=b"}},
		{text: "Type=tar,DEST=X", fields: map[string]string{"type": "tar", "dest": "X"}},
		{text: `type=tar,"name=a,b"`, fields: map[string]string{"type": "tar", "name": "a,b"}},
		{text: "type=tar,", err: "field 2 is not key=value"},
		{text: "a,b", err: "field 1 is not key=value"},
		{text: `type="tar`, err: "--output"},
	}
	for _, tt := range tests {
		a, plain, err := parseAttrs("output", tt.text)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || !isUsage(err) {
				t.Errorf("%s: the error is %v", tt.text, err)
			}
			continue
		}
		if err != nil || plain != tt.plain || (a == nil) != (tt.fields == nil) {
			t.Errorf("%s: %v, %q, %v", tt.text, a, plain, err)
			continue
		}
		if a == nil {
			continue
		}
		for k, v := range tt.fields {
			if got := a.str(k, "missing"); got != v {
				t.Errorf("%s: %s is %q, not %q", tt.text, k, got, v)
			}
		}
		if err := a.done(); err != nil {
			t.Errorf("%s: %v", tt.text, err)
		}
	}
}

func isUsage(err error) bool {
	var u usageError
	return errors.As(err, &u)
}

func TestAttrErrors(t *testing.T) {
	read := func(a *attrs) {
		a.boolean("push", false)
		a.integer("level")
		a.oneOf("mode", "min", "min", "max")
	}
	for text, want := range map[string]string{
		"push=maybe":           "push=maybe is not true or false",
		"level=high":           "level=high is not a number",
		"mode=most":            "mode=most is none of min, max",
		"colour=red":           "unknown attribute colour; the known ones are level, mode, push",
		"colour=red,b=2":       "unknown attribute b, colour; the known ones",
		"push=maybe,level=bad": "push=maybe is not",
		"push=100%d":           "push=100%d is not",
	} {
		a, _, err := parseAttrs("x", text)
		if err != nil {
			t.Fatal(err)
		}
		read(a)
		if err := a.done(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "%!") || !isUsage(err) {
			t.Errorf("%s: %v does not say %q", text, err, want)
		}
	}
	a, _, err := parseAttrs("x", "push=1,level=3,mode=max")
	if err != nil {
		t.Fatal(err)
	}
	if !a.boolean("push", false) || a.oneOf("mode", "min", "min", "max") != "max" {
		t.Error("values are not read")
	}
	if n, ok := a.integer("level"); n != 3 || !ok || a.done() != nil {
		t.Errorf("level %d, %v; %v", n, ok, a.done())
	}
}

// No error shows the value of a credential, however the flag is written.
func TestCredentialsAreRedacted(t *testing.T) {
	for _, args := range [][]string{
		{"--cache-to", "type=registry,secret_access_key=SEKRET,ref=x/y"},
		{"--cache-to", "type=s3,Secret_Access_Key=SEKRET"},
		{"--cache-to", "type=s3,access_key_id=SEKRET"},
		{"--cache-to", "type=gha,token=SEKRET"},
		{"--cache-to", "type=azblob,account_key=SEKRET"},
		{"--cache-to", "type=registry,ref=x/y,mode=most,password=SEKRET"},
		{"--cache-to", `type=s3,"secret_access_key=a,SEKRET",x=1`},
		{"--cache-to", "type=s3,secret_access_key=a,SEKRET"},
		{"--cache-to", `type=s3,secret_access_key="a,SEKRET=b`},
		{"--cache-to", "type=local,session_token=SEKRET,dest"},
		{"--cache-to", "type=registry,secret_access_key=%sSEKRET,ref=x/y"},
		{"--cache-from", "type=s3,secret_access_key=SEKRET"},
		{"--cache-from", "type=registry,ref=Not A Ref,secret_access_key=SEKRET"},
		{"--output", "type=image,token=SEKRET"},
		{"--secret", "id=a,token=SEKRET"},
	} {
		code, stdout, stderr := mayfly(t, nil, "", append([]string{"build", "--root", t.TempDir()}, append(args, contextDir(t))...)...)
		if code != exitUsage {
			t.Errorf("%s: exit status %d", args, code)
		}
		if !strings.Contains(stderr, args[0]) || strings.Contains(stdout+stderr, "SEKRET") {
			t.Errorf("%s: %s", args, stderr)
		}
	}
}
