// Package engine builds: one Request in, one Result out.
//
//	cmd, action, control ──Request──▶ engine ──Result──▶ cmd, action, control
//	   frontend/dockerfile ◀──┤
//	   solver, op, buildcache ◀┤
//	   exporter, remotecache ◀─┘
//
// The package composes what the others do and owns every goroutine of a
// build. There are three kinds of failure: the build's and the push's end the
// build; the cache's is a warning, and never delays or undoes a push.
package engine

import (
	"context"
	"encoding/json"
	"io"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/compression"
	"github.com/mayfly-build/mayfly/engine/executor"
	"github.com/mayfly-build/mayfly/engine/layer"
	"github.com/mayfly-build/mayfly/engine/op"
	"github.com/mayfly-build/mayfly/engine/progress"
	"github.com/mayfly-build/mayfly/engine/provenance"
	"github.com/mayfly-build/mayfly/engine/secret"
	"github.com/mayfly-build/mayfly/internal/registry"
	"github.com/mayfly-build/mayfly/remotecache"
)

// A Request says what to build. It is data: nothing in it is read from flags
// or the environment below this line.
type Request struct {
	StateDir string            // made when missing
	Frontend map[string]string // options of the Dockerfile frontend: filename, target, build-arg:NAME, …
	Locals   map[string]string // directory of this machine for each local source

	Secrets secret.Store
	Agents  secret.Agents
	Allow   op.Entitlements

	// Provenance is attested of images, and of files where that was asked for;
	// nil means nothing. SBOMs are the frontend's, by its option attest:sbom.
	Provenance *Provenance

	// Hidden are texts that no attestation may have, such as the values of
	// build arguments that are credentials.
	Hidden []string

	// Record is how much of the provenance is in the Result, "" for nothing.
	Record provenance.Mode

	Outputs []Output
	Imports []Import
	Exports []Export
	Inline  bool // put the cache's records into the image's config

	Registry    *registry.Client
	NewExecutor func(stateDir string) (executor.Executor, error)
	Snapshotter string   // "overlay", "native", or "auto"
	Parallel    int      // steps running at once; 0 means 8
	Env         []string // NAME=VALUE: what git sources start from, see git.Environ
	Progress    *progress.Stream

	// StepEnv returns variables, as NAME=VALUE, for the RUN step with the
	// vertex's digest, beside those that define it: they change no cache key,
	// and no result may depend on them. nil means none.
	StepEnv func(vertex digest.Digest) []string
}

// OutputKind says what form a result takes.
type OutputKind string

// The kinds of outputs, as --output names them.
const (
	OutputImage  OutputKind = "image"
	OutputOCI    OutputKind = "oci"
	OutputDocker OutputKind = "docker"
	OutputTar    OutputKind = "tar"
	OutputLocal  OutputKind = "local"
)

// An Output is one form that the result takes.
type Output struct {
	Kind  OutputKind
	Names []string // image, oci, docker: references; normalised
	Push  bool     // image: push under every name
	// ByDigest pushes under no tag: the names are repositories, and what is
	// pushed there is had by its digest alone.
	ByDigest bool

	Compression      compression.Config
	ForceCompression bool // compress again what is compressed otherwise
	DockerTypes      bool // media types of Docker instead of OCI's
	RewriteTimestamp bool // clamp the files' times to Epoch
	Epoch            *time.Time
	Annotations      []Annotation

	// InlineAttestations puts into an OCI layout what is for images only, too.
	// PlainAttestations makes their manifests look like images, for what does
	// not know those of OCI 1.1. AttestationPrefix begins the names of their
	// files.
	InlineAttestations bool
	PlainAttestations  bool
	AttestationPrefix  string

	// Split says whether local has a directory for each platform; nil means
	// when several are built.
	Split *bool

	Dir string // local; oci and docker when not a tar: the directory
	Tar bool   // oci, docker: one file
	// Open opens the file of tar, oci and docker. It is closed when it is
	// whole; one that fails and has an Abandon method is abandoned instead.
	Open func() (io.WriteCloser, error)
}

// An Annotation is a key and value that a part of an image carries.
type Annotation struct {
	On         AnnotationPlace
	Platform   string // of OnManifest and OnManifestDescriptor: the one platform that gets it, as "linux/arm64"; "" means all
	Key, Value string
}

// An AnnotationPlace is where an annotation is.
type AnnotationPlace string

// The places of annotations, as --annotation names them.
const (
	OnManifest           AnnotationPlace = "manifest"
	OnManifestDescriptor AnnotationPlace = "manifest-descriptor"
	OnIndex              AnnotationPlace = "index"
	OnIndexDescriptor    AnnotationPlace = "index-descriptor"
)

// An Import is a cache to read.
type Import struct {
	Name string // shown to the user: "registry ghcr.io/acme/app:cache"

	// Load fetches the indexes: keys only, no blobs. The origin is where the
	// blobs can be read. An error beside indexes says what else could not be
	// loaded.
	Load    func(ctx context.Context) ([]*remotecache.Index, layer.Origin, error)
	Timeout time.Duration // how long the indexes are waited for; 0 means 30 seconds

	// Mounts, unless nil, are the cache mounts that are restored from here
	// when a step needs them and the state dir has none. The first Import that
	// has one wins.
	Mounts *MountsImport
}

// A MountsImport says which directories of RUN --mount=type=cache are restored
// from a cache.
type MountsImport struct {
	Backend remotecache.Backend
	Refs    []string      // of the caches beside which they were stored; the first that has one wins
	IDs     []string      // of the mounts, as the Dockerfile has them: id=, or else the target; none means all
	MaxAge  time.Duration // those stored longer ago are not restored; 0 means as long as their export said
}

// An Export is a cache to write.
type Export struct {
	Name    string
	Backend remotecache.Backend
	Ref     string
	Max     bool // every step's result, not just those of the image
	Uploads int  // blobs in flight; 0 means 4

	Compression      compression.Config
	ForceCompression bool
	FailBuild        bool          // the user asked that a failed export fails the build
	Timeout          time.Duration // 0 means 10 minutes

	// Remove removes a blob of the cache that turned out to be wrong when it was
	// imported; nil when blobs cannot be removed.
	Remove func(context.Context, digest.Digest) error

	// Merge, unless nil, keeps what other jobs saved under Ref, within the
	// limits; otherwise the index is replaced.
	Merge *remotecache.Limits

	// Mounts, unless nil, are the cache mounts that are stored beside Ref, once
	// the build succeeded.
	Mounts *MountsExport

	// Denied, unless nil, is why the cache may not be written: nothing is sent,
	// and the outcome is skipped with this reason.
	Denied error

	// Manifest describes what was saved, for the metadata file; nil when the
	// backend has no manifest.
	Manifest func() (ocispec.Descriptor, bool)
}

// A MountsExport says which directories of RUN --mount=type=cache, among those
// that a step of the build used, are stored in a cache, and what of them.
type MountsExport struct {
	IDs     []string      // as in MountsImport
	MaxSize int64         // bytes of each mount's files; those used longest ago are left out; 0 means any number
	MaxAge  time.Duration // files not used for so long are left out, and a mount stored longer ago is not restored; 0 means any age
}

// A Result says what was built.
type Result struct {
	Ref        string // names the build
	Digest     digest.Digest
	Config     digest.Digest       // "" when the image is an index
	Descriptor *ocispec.Descriptor // of the image's manifest or index; nil when no image was made
	Size       int64               // bytes of the image as stored: manifests, configs and layers
	Names      []string
	Images     []PlatformImage // of each platform, in the order asked for; nil when no image was made

	// Provenance is that of each platform, where it was asked for, as JSON of
	// SLSA 0.2; the platform is "" when one was built that nobody named.
	Provenance []PlatformProvenance
	Steps      []Step
	Caches     []CacheOutcome
	Manifest   *ocispec.Descriptor // of the cache exported; nil when there is none
	BytesIn    int64               // read from registries
	BytesOut   int64               // written to registries
	Warnings   []string
	Seconds    float64
}

// A PlatformImage is the image for one platform.
type PlatformImage struct {
	Platform ocispec.Platform
	Digest   digest.Digest // of its manifest
	Config   digest.Digest
	Size     int64 // bytes as stored: manifest, config and layers
}

// A PlatformProvenance is the provenance of the result for one platform.
type PlatformProvenance struct {
	Platform  string
	Predicate json.RawMessage
}

// A CacheOutcome says what became of one cache, or of a cache mount in one:
// then the name is "mounts", the mount's id, and the cache's name.
type CacheOutcome struct {
	Name    string
	Export  bool   // otherwise an import
	Outcome string // ok, partial, skipped or failed
	Reason  string // why, unless ok
	Hint    string // what to do about it; "" where nobody knows
	Blobs   int    // sent by an export; read from an import
	Bytes   int64  // of them, as stored
	Carried int    // records of other jobs that an export kept
	Seconds float64
}
