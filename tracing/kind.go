package tracing

import "strings"

// The kinds of spans, as the attribute mayfly.kind has them.
const (
	kindExec        = "exec"   // RUN
	kindFile        = "file"   // COPY, ADD, WORKDIR
	kindSource      = "source" // an image, git repository, URL or local directory
	kindResolve     = "resolve"
	kindUnpack      = "unpack"
	kindCompress    = "compress"
	kindPush        = "push"
	kindExport      = "export"
	kindCacheImport = "cache import"
	kindCacheExport = "cache export"
)

// steps are the names of what the engine does beside the graph's vertices.
var steps = []struct{ prefix, kind string }{
	{"[internal] load metadata for ", kindResolve},
	{"resolve ", kindResolve},
	{"importing cache manifest from ", kindCacheImport},
	{"restoring cache mount ", kindCacheImport},
	{"exporting cache ", kindCacheExport}, // "to NAME", or "mount ID to NAME"
	{"exporting to ", kindExport},
	{"pushing image", kindPush},
}

// instructions are the words that the names of a Dockerfile's vertices begin with.
var instructions = map[string]string{"RUN": kindExec, "COPY": kindFile, "ADD": kindFile, "WORKDIR": kindFile}

// kindOf says what a vertex is, "" when its name does not tell.
func kindOf(name string, inputs int) string {
	if inputs == 0 {
		for _, s := range steps {
			if strings.HasPrefix(name, s.prefix) {
				return s.kind
			}
		}
		return kindSource
	}
	if strings.HasPrefix(name, "[") { // "[build 2/5] RUN make"
		_, name, _ = strings.Cut(name, "] ")
	}
	word, _, _ := strings.Cut(name, " ")
	return instructions[word]
}

// parts are the beginnings of the IDs of a step's parts, what the span is
// called, and what the rest of the ID is.
var parts = []struct{ prefix, name, kind, key string }{
	{"extracting ", "unpack layer", kindUnpack, keyBlob},
	{"compressing layer ", "compress layer", kindCompress, keyLayer},
	{"pushing layer ", "push layer", kindPush, keyBlob},
	{"pushing manifest for ", "push manifest", kindPush, keyImage},
	{"writing layer ", "write to cache", kindCacheExport, keyBlob},
	{"writing ", "write to cache", kindCacheExport, keyBlob},
	{"reading ", "read from cache", kindCacheImport, keyBlob},
}

// ofPart says what a part of a step is; one that is not known is called by its ID.
func ofPart(id string) (name, kind, key, value string) {
	for _, p := range parts {
		if rest, ok := strings.CutPrefix(id, p.prefix); ok {
			return p.name, p.kind, p.key, rest
		}
	}
	return id, "", "", ""
}
