package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// Secrets that builds are given in these tests, besides those of services.
const (
	envSecret  = "env-s3cret-kx81" // #nosec G101 -- a canary
	fileSecret = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq/hkiG9w0+AQ==\n-----END KEY-----\n"
	keyLine    = "MIIEvQIBADANBgkq/hkiG9w0+AQ=="
	gitToken   = "ghs_git-s3cret-77aa"    // #nosec G101 -- a canary
	registryPW = "registry-s3cret-p4ss"   // #nosec G101 -- a canary
	headerAuth = "Bearer otel-s3cret-b3a" // #nosec G101 -- a canary

	// openText is in a layer of the image, and so in every store: it shows that
	// the search finds what is there.
	openText = "content of the git repository"
)

// The steps print what they are given, in every way that comes to mind.
const secretsDockerfile = `ARG BASE
FROM $BASE AS build
ADD GIT /src
RUN --mount=type=secret,id=a,env=A --mount=type=secret,id=f \
    echo "it is $A" && cat /run/secrets/f >&2 && set -x && : "$A" && printf '%s' "$A" && sleep 0.05 && printf 'x\n' && \
    sh -c 'for c in $(echo $A | sed "s/./& /g"); do printf %s $c; sleep 0.01; done; echo'
RUN --mount=type=cache,target=/var/cache/app --mount=type=secret,id=a,target=/t md5sum /t > /var/cache/app/sum && cp /var/cache/app/sum /sum
FROM $BASE
COPY --from=build /sum /src/f /
`

// TestNoSecretLeaves builds with all kinds of secrets and credentials, with all
// that mayfly writes, and searches it by value: what it prints, trace
// and metadata, every blob of the image and of the caches, and the state dir.
func TestNoSecretLeaves(t *testing.T) {
	services.NeedRoot(t)
	dir := t.TempDir()
	base := services.NewRegistry(t)
	reg, err := services.StartRegistry(services.RegistryConfig{Dir: filepath.Join(dir, "stores", "registry"), User: "ann", Password: registryPW})
	services.Use(t, reg, err)
	w := secretsWorld{dir: dir, secrets: []string{envSecret, keyLine, gitToken, registryPW, "ann:" + registryPW, headerAuth}}
	gitURL := w.git(t)
	w.write(t, "app/Dockerfile", strings.Replace(secretsDockerfile, "GIT", gitURL, 1))
	w.write(t, "key.pem", fileSecret)
	w.write(t, "docker/config.json", fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, reg.Addr, base64.StdEncoding.EncodeToString([]byte("ann:"+registryPW))))

	image := reg.Addr + "/app"
	args := []string{
		"build", "--root", filepath.Join(dir, "state"), "--build-arg", "BASE=" + base.Addr + "/base", "--secret", "id=a,env=SECRET_A", "--secret", "id=f,src=" + filepath.Join(dir, "key.pem"),
		"--secret", "id=GIT_AUTH_TOKEN,env=GIT_TOKEN", "-t", image + ":v1", "--push", "-o", "type=oci,dest=" + filepath.Join(dir, "oci.tar"),
		"--metadata-file", filepath.Join(dir, "meta.json"), "--trace", filepath.Join(dir, "trace.json"), "--report", filepath.Join(dir, "build.html"),
		"--cache-to", "type=registry,ref=" + image + ":cache,mode=max", "--cache-from", "type=registry,ref=" + image + ":cache",
	}
	stores := map[string]string{"registry": filepath.Join(dir, "stores", "registry")}
	for _, kind := range []string{"gha", "gha-v1", "s3", "azblob", "local"} {
		c, err := services.StartCache(t.Context(), kind, services.CacheConfig{Dir: filepath.Join(dir, "stores", kind)})
		services.Use(t, c, err)
		at := c.Place("app")
		switch stores[kind] = filepath.Join(dir, "stores", kind); kind {
		case "gha":
			stores[kind] = c.GHA.Azurite.Dir
		case "gha-v1":
			stores[kind] = c.GHAv1.Dir
		case "azblob":
			stores[kind] = c.Azurite.Dir
		}
		w.secrets = append(w.secrets, secretsOf(at.To)...)
		args = append(args, "--cache-to", at.To+",mode=max,mounts=true", "--cache-from", at.From+",mounts=true")
	}
	env := []string{"SECRET_A=" + envSecret, "GIT_TOKEN=" + gitToken, "DOCKER_CONFIG=" + filepath.Join(dir, "docker"),
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_HEADERS=authorization=" + url.PathEscape(headerAuth)}

	for _, progress := range []string{"plain", "rawjson"} { // the second one finds all in the caches
		job := &job{dir: dir, env: map[string]string{"PATH": os.Getenv("PATH"), "HOME": dir}}
		cmd := job.command(mayflyBin, append(args, "--progress", progress, filepath.Join(dir, "app"))...)
		cmd.Env = append(cmd.Env, env...)
		code, out := status(t, cmd)
		if code != 0 {
			t.Fatalf("it ended with %d:\n%s", code, out)
		}
		w.search(t, progress, []byte(out))
		if progress == "plain" && (!strings.Contains(out, "it is ***") || strings.Count(out, "***") < 5) {
			t.Errorf("the steps print no secret, or too much is masked:\n%s", out)
		}
		for name, store := range stores {
			if !w.searchFiles(t, store) {
				t.Errorf("nothing of the image is found in %s", name)
			}
		}
		for name, has := range map[string]bool{"state": progress == "plain", "oci.tar": true, "meta.json": false, "trace.json": false, "build.html": false} {
			if w.searchFiles(t, filepath.Join(dir, name)) != has {
				t.Errorf("whether the image's files are found in %s: not %v", name, has)
			}
		}
		if err := os.RemoveAll(filepath.Join(dir, "state")); err != nil {
			t.Fatal(err)
		}
	}
	// What a failed build says of its step.
	w.write(t, "app/Dockerfile", "ARG BASE\nFROM $BASE\nRUN --mount=type=secret,id=a,env=A echo \"last words: $A\" && exit 3\n")
	cmd := (&job{dir: dir, env: map[string]string{"PATH": os.Getenv("PATH"), "HOME": dir}}).command(mayflyBin, append(args, filepath.Join(dir, "app"))...)
	cmd.Env = append(cmd.Env, env...)
	code, out := status(t, cmd)
	if code != 1 || !strings.Contains(out, "last words: ***") {
		t.Errorf("it ended with %d:\n%s", code, out)
	}
	w.search(t, "a failed build", []byte(out))
	w.searchFiles(t, filepath.Join(dir, "state"))
	w.searchFiles(t, filepath.Join(dir, "build.html"))
}

// A secretsWorld is where secrets are searched for.
type secretsWorld struct {
	dir     string
	secrets []string
}

func (w *secretsWorld) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// git serves a repository that wants the token.
func (w *secretsWorld) git(t *testing.T) string {
	t.Helper()
	w.write(t, "tree/f", openText+"\n")
	repos := filepath.Join(w.dir, "repos")
	if err := os.Mkdir(repos, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := services.GitRepo(t.Context(), filepath.Join(w.dir, "tree"), filepath.Join(repos, "app.git"))
	services.Need(t, err)
	git, err := services.StartGitHTTP(t.Context(), repos, gitToken)
	services.Use(t, git, err)
	return git.URL + "/app.git"
}

// searchFiles searches a file, or every file of a directory, and reports whether
// openText is found.
func (w *secretsWorld) searchFiles(t *testing.T, dir string) (found bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "htpasswd" || strings.HasSuffix(path, "access.log") {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		found = w.search(t, path, data) || found
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// search looks for the secrets in data, in the forms in which one may be
// written, and in what is compressed in data. It reports whether openText is
// found.
func (w *secretsWorld) search(t *testing.T, where string, data []byte) (found bool) {
	t.Helper()
	found = bytes.Contains(data, []byte(openText))
	for _, s := range w.secrets {
		quoted, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range []string{s, string(bytes.Trim(quoted, `"`)), url.QueryEscape(s), url.PathEscape(s), hex.EncodeToString([]byte(s)), strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(s)), "=")} {
			if at := bytes.Index(data, []byte(form)); at >= 0 {
				t.Errorf("%s has a secret: …%q…", where, data[max(at-80, 0):min(at+len(form)+40, len(data))])
				break
			}
		}
	}
	// Members of gzip and frames of zstd, wherever they begin: in a tar, or in
	// a file of chunks.
	for _, p := range []struct {
		magic  string
		unpack func([]byte) ([]byte, error)
	}{{"\x1f\x8b\x08", gunzip}, {"\x28\xb5\x2f\xfd", unzstd}} {
		for rest := data; ; {
			at := bytes.Index(rest, []byte(p.magic))
			if at < 0 {
				break
			}
			rest = rest[at:]
			inner, _ := p.unpack(rest) // up to what is not of it
			if len(inner) > 0 {
				found = w.search(t, where+" (unpacked)", inner) || found
			}
			rest = rest[len(p.magic):]
		}
	}
	return found
}

func gunzip(data []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	r.Multistream(false)
	return io.ReadAll(io.LimitReader(r, 64<<20))
}

func unzstd(data []byte) ([]byte, error) {
	r, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, 64<<20))
}
