// Package image makes the config and the manifest of an image.
//
//	frontend ──config──▶ image ──Image──▶ engine (push), exporter/oci
//	layer ──Layers──────▶
//
// Pure: the bytes that go in are the frontend's config and what is known of
// the layers; the bytes that come out equal those BuildKit v0.33 makes of the
// same, so that one build has one digest, whoever made it.
package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/compression"
)

// A Layer is a layer of the image, bottom first in lists.
type Layer struct {
	Desc        ocispec.Descriptor // MediaType as OCI names it
	DiffID      digest.Digest
	Created     time.Time // zero when unknown
	Description string    // for a history that does not know the layer

	// RewrittenTo is the time that the files' later times became; nil when
	// the layer is as its step made it.
	RewrittenTo *time.Time
}

// Input is what an image is made of.
type Input struct {
	Config      []byte // the frontend's; nil means that of an empty image
	BaseConfig  []byte // of the base image, whose history keeps its times; may be nil
	Layers      []Layer
	Epoch       *time.Time // times after it become it; nil leaves all as they are
	InlineCache []byte     // records for moby.buildkit.cache.v0; nil for none
	DockerTypes bool       // media types of Docker instead of OCI's
	Annotations map[string]string
}

// An Image is a manifest and the config it names.
type Image struct {
	Manifest     []byte
	ManifestDesc ocispec.Descriptor
	Config       []byte
	ConfigDesc   ocispec.Descriptor
	Layers       []ocispec.Descriptor // as the manifest lists them
}

// Media types of Docker's schema 2.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// Build makes the image.
func Build(in Input) (*Image, error) {
	config := in.Config
	if len(config) == 0 {
		config = emptyConfig()
	}
	config, err := patch(config, in)
	if err != nil {
		return nil, err
	}
	manifestType, configType := ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig
	if in.DockerTypes {
		manifestType, configType = dockerManifest, dockerConfig
	}
	img := &Image{Config: config, ConfigDesc: ocispec.Descriptor{
		MediaType: configType, Digest: digest.FromBytes(config), Size: int64(len(config)),
	}}
	for _, l := range in.Layers {
		desc, err := listed(l, in.DockerTypes)
		if err != nil {
			return nil, err
		}
		img.Layers = append(img.Layers, desc)
	}
	img.Manifest, err = json.MarshalIndent(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: manifestType,
		Config: img.ConfigDesc, Layers: img.Layers, Annotations: in.Annotations,
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("marshal manifest: %w", err)
	}
	img.ManifestDesc = ocispec.Descriptor{
		MediaType: manifestType, Digest: digest.FromBytes(img.Manifest), Size: int64(len(img.Manifest)),
	}
	return img, nil
}

// listed returns a layer's descriptor as a manifest has it: with what readers
// of the layer need, without what builders say to each other.
func listed(l Layer, docker bool) (ocispec.Descriptor, error) {
	d := l.Desc
	out := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, URLs: d.URLs}
	if docker {
		var err error
		out.MediaType, err = compression.ToDockerMediaType(d.MediaType)
		return out, err
	}
	out.Annotations = map[string]string{}
	for _, k := range keptAnnotations() {
		if v, ok := d.Annotations[k]; ok {
			out.Annotations[k] = v
		}
	}
	if l.RewrittenTo != nil {
		out.Annotations["buildkit/rewritten-timestamp"] = strconv.FormatInt(l.RewrittenTo.Unix(), 10)
	}
	return out, nil
}

// keptAnnotations are those that snapshotters read layers lazily by.
func keptAnnotations() []string {
	return []string{
		"containerd.io/snapshot/stargz/toc.digest",
		"io.containers.estargz.uncompressed-size",
		"containerd.io/snapshot/overlaybd/blob-digest",
		"containerd.io/snapshot/overlaybd/blob-size",
		"containerd.io/snapshot/overlaybd/blob-fs-type",
	}
}

func emptyConfig() []byte {
	p := platforms.Normalize(platforms.DefaultSpec())
	img := ocispec.Image{Platform: p}
	img.RootFS.Type = "layers"
	img.Config.WorkingDir = "/"
	img.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	dt, err := json.Marshal(img)
	if err != nil {
		return nil
	}
	return dt
}

// patch completes the frontend's config: root file system, history, times,
// inline cache. Fields nobody here knows stay as they are.
func patch(config []byte, in Input) ([]byte, error) {
	var img ocispec.Image
	if err := json.Unmarshal(config, &img); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	if fields == nil || img.OS == "" || img.Architecture == "" {
		return nil, errors.New("image config has no os or no architecture")
	}
	history := complete(img.History, in.Layers)
	if in.Epoch != nil {
		if err := clamp(history, in); err != nil {
			return nil, err
		}
	}
	rootfs := ocispec.RootFS{Type: "layers"}
	for _, l := range in.Layers {
		rootfs.DiffIDs = append(rootfs.DiffIDs, l.DiffID)
	}
	created, err := createdField(fields["created"], history, in.Epoch)
	if err != nil {
		return nil, err
	}
	set := map[string]any{"rootfs": rootfs, "history": history, "created": created}
	if in.InlineCache != nil {
		set["moby.buildkit.cache.v0"] = in.InlineCache
	}
	for k, v := range set {
		if fields[k], err = json.Marshal(v); err != nil {
			return nil, fmt.Errorf("image config: %s: %w", k, err)
		}
	}
	return json.Marshal(fields)
}

// createdField returns the image's time: its own, clamped to epoch, or that of
// the last step with a time.
func createdField(own json.RawMessage, history []ocispec.History, epoch *time.Time) (any, error) {
	if own == nil {
		var last *time.Time
		for _, h := range history {
			if h.Created != nil {
				last = h.Created
			}
		}
		return last, nil
	}
	if epoch == nil {
		return own, nil
	}
	var t time.Time
	if err := json.Unmarshal(own, &t); err != nil {
		return nil, fmt.Errorf("image config: created: %w", err)
	}
	if t.After(*epoch) {
		return epoch, nil
	}
	return own, nil
}

// complete makes the history say as many layers as there are, and gives every
// item a time.
func complete(history []ocispec.History, layers []Layer) []ocispec.History {
	said := 0
	for i := range history {
		if history[i].EmptyLayer {
			continue
		}
		if said == len(layers) {
			history[i].EmptyLayer = true // says a layer that is not there
			continue
		}
		said++
	}
	for _, l := range layers[said:] {
		description := l.Description
		if description == "" {
			description = "created by buildkit"
		}
		history = append(history, ocispec.History{
			Created: timeOf(l), CreatedBy: description, Comment: "buildkit.exporter.image.v0",
		})
	}
	n := 0
	for i := range history {
		if history[i].EmptyLayer {
			continue
		}
		if history[i].Created == nil {
			history[i].Created = timeOf(layers[n])
		}
		n++
	}
	fillTimes(history)
	return history
}

func timeOf(l Layer) *time.Time {
	t := l.Created
	return &t
}

// fillTimes gives items without a time that of the first new layer, or of the
// item before them: the first metadata of a build is not as old as its base.
func fillTimes(history []ocispec.History) {
	var t *time.Time
	missing := false
	for _, h := range history {
		if h.Created == nil {
			missing = true
			continue
		}
		t = h.Created
		if missing {
			break
		}
	}
	missing = false
	for i := range history {
		switch {
		case history[i].Created == nil:
			missing = true
			history[i].Created = t
		case missing:
			t = history[i].Created
		}
	}
}

// clamp sets times after the epoch to it, but not those of the base image.
func clamp(history []ocispec.History, in Input) error {
	var base ocispec.Image
	if len(in.BaseConfig) > 0 {
		if err := json.Unmarshal(in.BaseConfig, &base); err != nil {
			return fmt.Errorf("base image config: %w", err)
		}
	}
	ofBase := true
	for i := range history {
		if ofBase && i < len(base.History) && reflect.DeepEqual(history[i], base.History[i]) {
			continue
		}
		ofBase = false
		if history[i].Created == nil || history[i].Created.After(*in.Epoch) {
			history[i].Created = in.Epoch
		}
	}
	return nil
}
