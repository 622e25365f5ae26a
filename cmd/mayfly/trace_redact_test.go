package main

import (
	"testing"

	"github.com/mayfly-build/mayfly/engine/secret"
)

func TestRedactor(t *testing.T) {
	r := newRedactor(worldOf(map[string]string{"API_TOKEN": "from-env"}, ""), buildOptions{
		buildArgs: []string{"NPM_TOKEN=npm-value", "API_TOKEN", "VERSION=1.4.0", "A_SECRET=abc"},
	})
	store := r.watch(secret.Map{
		"one":  {Value: []byte("s3cr3t\n")},
		"many": {Value: []byte("-----BEGIN KEY-----\nMIIEvQIBADANBg\nend\n")},
		"odd":  {Value: []byte(`pa"ss\word`)},
		"none": {Value: []byte("never-read")},
	})
	for _, id := range []string{"one", "many", "odd"} {
		if _, err := store.Get(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.Get(t.Context(), "unknown"); err == nil {
		t.Error("an unknown secret is there")
	}
	for text, want := range map[string]string{
		"RUN curl -u ci:s3cr3t host":                            "RUN curl -u ci:*** host",
		`process "/bin/sh -c echo pa\"ss\\word"`:                `process "/bin/sh -c echo ***"`,
		"key MIIEvQIBADANBg":                                    "key ***",
		"the end":                                               "the end",
		"RUN npm-value from-env abc 1.4.0":                      "RUN *** *** abc 1.4.0",
		"never-read":                                            "never-read",
		"https://ci:pw@git.example/x.git":                       "https://***@git.example/x.git",
		"https://ghp@github.com/x":                              "https://***@github.com/x",
		"docker-image://alpine@sha256:ab":                       "docker-image://alpine@sha256:ab",
		"FROM docker.io/library/alpine@sha256:ab":               "FROM docker.io/library/alpine@sha256:ab",
		"COPY --from=build /a@b /c":                             "COPY --from=build /a@b /c",
		"https://a.blob/c?sv=1&sig=ab%2Fc&se=2":                 "https://a.blob/c?sv=1&sig=***&se=2",
		"GET https://b/k?X-Amz-Credential=AK/1&X-Amz-Date=2":    "GET https://b/k?X-Amz-Credential=***&X-Amz-Date=2",
		"https://b/k?X-Amz-Signature=ab&X-Amz-Security-Token=c": "https://b/k?X-Amz-Signature=***&X-Amz-Security-Token=***",
		"RUN MY_PASSWORD=hunter2 ./x --jobs=4":                  "RUN MY_PASSWORD=*** ./x --jobs=4",
		`RUN export TOKEN="a b" X=1`:                            `RUN export TOKEN=*** X=1`,
		`process "sh -c TOKEN=\"a b\" x"`:                       `process "sh -c TOKEN=*** x"`,
		"RUN --mount=type=secret,id=token,target=/t cat /t":     "RUN --mount=type=secret,id=token,target=/t cat /t",
		"type=s3,bucket=b,secret_access_key=k,region=r":         "type=s3,bucket=b,secret_access_key=***,region=r",
		"Authorization: Bearer abcdef0123":                      "Authorization: Bearer ***",
		`RUN curl -H "authorization: Basic dXNlcjpwdw=="`:       `RUN curl -H "authorization: Basic ***"`,
		"bearer abcdef0123":                                     "bearer ***",
		"authorization failed: Basic usage":                     "authorization failed: Basic usage",
		"ghp_0123456789abcdefghijABCDEFGHIJ":                    "***",
		"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc_-":            "***",
		"sha256:0123456789abcdef":                               "sha256:0123456789abcdef",
	} {
		if got := r.text(text); got != want {
			t.Errorf("%s is\n%s, not\n%s", text, got, want)
		}
	}
}
