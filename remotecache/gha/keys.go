package gha

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/mayfly-build/mayfly/remotecache"
)

// The names under which BuildKit v0.33 keeps a cache. Every blob is an entry;
// so is every state of an index, with a number that grows.
const (
	layout     = "1"
	blobPrefix = "buildkit-blob-" + layout + "-"

	// entryVersion is the version of all entries: the SHA-256 of
	// "|go-actionscache-1.0". An entry is found only under its version.
	entryVersion = "693bb7016429d80366022f036f84856888c9f13e00145f5f6f4dce303a38d6f2"
)

func blobKey(d digest.Digest) string { return blobPrefix + d.String() }

// digestOf returns the digest of a blob's key, false for other keys: a
// signature's has "-sig" behind it.
func digestOf(key string) (digest.Digest, bool) {
	rest, ok := strings.CutPrefix(key, blobPrefix)
	if !ok {
		return "", false
	}
	d, err := digest.Parse(rest)
	return d, err == nil
}

// indexKey returns the key of an index, without the number: the scope of its
// name and the branch that it belongs to.
func indexKey(scope, branch string) string {
	return indexPrefix + scope + indexSuffix(branch)
}

const indexPrefix = "index-"

func indexSuffix(branch string) string {
	sum := sha256.Sum256([]byte(branch))
	return "-" + layout + "-" + hex.EncodeToString(sum[:4])
}

func numbered(key string, n int64) string { return key + "#" + strconv.FormatInt(n, 10) }

// numberOf returns the number of a key that numbered made of an index's key.
func numberOf(index, key string) (int64, bool) {
	if len(key) <= len(index) || !strings.EqualFold(key[:len(index)], index) || key[len(index)] != '#' { // act lowers the case of keys
		return 0, false
	}
	n, err := strconv.ParseInt(key[len(index)+1:], 10, 64)
	return n, err == nil && n > 0
}

// escape begins the refs that stand for scopes which are no refs themselves.
const escape = "__"

// Ref returns the ref that stands for BuildKit's scope attribute ("" means its
// default, buildkit). Most scopes are refs, and stand for themselves; others,
// such as "build-linux/amd64", are escaped.
func Ref(scope string) string {
	if scope == "" {
		scope = "buildkit"
	}
	if remotecache.CheckRef(scope) == nil && !strings.HasPrefix(scope, escape) {
		return scope
	}
	var b strings.Builder
	b.WriteString(escape)
	for _, c := range []byte(scope) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}

// scopeOf returns the scope that a ref stands for.
func scopeOf(ref string) string {
	rest, ok := strings.CutPrefix(ref, escape)
	if !ok {
		return ref
	}
	var out []byte
	for i := 0; i < len(rest); i++ {
		if rest[i] != '_' {
			out = append(out, rest[i])
			continue
		}
		c, err := hex.DecodeString(rest[i+1 : min(i+3, len(rest))])
		if err != nil || len(c) != 1 {
			return ref
		}
		out = append(out, c[0])
		i += 2
	}
	if scope := string(out); Ref(scope) == ref {
		return scope
	}
	return ref
}
