package provenance

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	slsa "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/common"
	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/solver/llbsolver/provenance/types"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/package-url/packageurl-go"
)

// sources are what the steps took from outside.
type sources struct {
	images  []Image
	git     []located // URL#ref, commit
	http    []located // URL, digest
	locals  []string
	secrets []*types.Secret
	ssh     []*types.SSH
	network bool // a step may have fetched anything
	unknown bool // a source is here that nobody knows what it stood for
}

// A located source is a URL and what was found there.
type located struct{ url, pinned string }

func (b *Build) sources() *sources {
	s := &sources{}
	for _, st := range b.Steps {
		switch op := st.Vertex.Op.Op.(type) {
		case *pb.Op_Source:
			s.addSource(st, op.Source)
		case *pb.Op_Exec:
			s.addExec(op.Exec)
		}
	}
	for _, img := range forPlatform(b.Images, b.Platform, b.All) {
		s.addImage(img)
	}
	s.dropPinnedTwins()
	slices.SortFunc(s.images, func(a, b Image) int { return cmp.Compare(a.Ref, b.Ref) })
	slices.SortFunc(s.git, func(a, b located) int { return cmp.Compare(a.url, b.url) })
	slices.SortFunc(s.http, func(a, b located) int { return cmp.Compare(a.url, b.url) })
	slices.Sort(s.locals)
	slices.SortFunc(s.secrets, func(a, b *types.Secret) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(s.ssh, func(a, b *types.SSH) int { return cmp.Compare(a.ID, b.ID) })
	return s
}

func (s *sources) addSource(st Step, op *pb.SourceOp) {
	scheme, rest, _ := strings.Cut(op.Identifier, "://")
	switch scheme {
	case "docker-image":
		p := st.Vertex.Platform()
		s.addImage(Image{Ref: rest, Platform: &p, Digest: cmp.Or(digest.Digest(st.Pinned), digestOf(rest))})
	case "local":
		if !slices.Contains(s.locals, rest) {
			s.locals = append(s.locals, rest)
		}
	case "git":
		s.addGit(st, op)
	case "http", "https":
		addLocated(&s.http, located{redact(op.Identifier), st.Pinned})
	default:
		s.unknown = true
		return
	}
	if st.Pinned == "" && scheme != "local" && (scheme != "docker-image" || digestOf(rest) == "") {
		s.unknown = true
	}
}

func (s *sources) addGit(st Step, op *pb.SourceOp) {
	remote := cmp.Or(op.Attrs[pb.AttrFullRemoteURL], strings.TrimPrefix(op.Identifier, "git://"))
	_, fragment, _ := strings.Cut(op.Identifier, "#")
	ref, _, _ := strings.Cut(fragment, ":") // what follows is a directory
	remote, _, _ = strings.Cut(remote, "#")
	if ref != "" {
		remote += "#" + ref
	}
	addLocated(&s.git, located{redact(remote), st.Pinned})
	for _, attr := range []string{pb.AttrAuthTokenSecret, pb.AttrAuthHeaderSecret} {
		if id := op.Attrs[attr]; id != "" {
			s.addSecret(id, true)
		}
	}
	if id := op.Attrs[pb.AttrMountSSHSock]; id != "" {
		s.addSSH(id, true)
	}
}

func addLocated(list *[]located, l located) {
	if !slices.ContainsFunc(*list, func(o located) bool { return o.url == l.url }) {
		*list = append(*list, l)
	}
}

func (s *sources) addExec(op *pb.ExecOp) {
	for _, m := range op.Mounts {
		switch m.MountType {
		case pb.MountType_SECRET:
			s.addSecret(m.SecretOpt.GetID(), m.SecretOpt.GetOptional())
		case pb.MountType_SSH:
			s.addSSH(m.SSHOpt.GetID(), m.SSHOpt.GetOptional())
		}
	}
	for _, e := range op.Secretenv {
		s.addSecret(e.GetID(), e.GetOptional())
	}
	s.network = s.network || op.Network != pb.NetMode_NONE
}

func (s *sources) addSecret(id string, optional bool) {
	for _, have := range s.secrets {
		if have.ID == id {
			have.Optional = have.Optional && optional
			return
		}
	}
	s.secrets = append(s.secrets, &types.Secret{ID: id, Optional: optional})
}

func (s *sources) addSSH(id string, optional bool) {
	id = cmp.Or(id, "default")
	for _, have := range s.ssh {
		if have.ID == id {
			have.Optional = have.Optional && optional
			return
		}
	}
	s.ssh = append(s.ssh, &types.SSH{ID: id, Optional: optional})
}

func (s *sources) addImage(img Image) {
	same := func(have Image) bool {
		return have.Ref == img.Ref && (have.Platform == img.Platform ||
			have.Platform != nil && img.Platform != nil && samePlatform(*have.Platform, *img.Platform))
	}
	if !slices.ContainsFunc(s.images, same) {
		s.images = append(s.images, img)
	}
}

func samePlatform(a, b ocispec.Platform) bool {
	return a.OS == b.OS && a.Architecture == b.Architecture && a.Variant == b.Variant && a.OSVersion == b.OSVersion
}

// dropPinnedTwins drops references with a digest whose tag is there without
// one: the frontend looked the tag up and pinned it.
func (s *sources) dropPinnedTwins() {
	tags := map[string]bool{}
	for _, img := range s.images {
		if name, pinned := tagOf(img.Ref); !pinned {
			tags[name] = true
		}
	}
	s.images = slices.DeleteFunc(s.images, func(img Image) bool {
		name, pinned := tagOf(img.Ref)
		return pinned && tags[name]
	})
}

// tagOf returns a reference without its digest, and whether it has one.
func tagOf(ref string) (name string, pinned bool) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref, false
	}
	tag := "latest"
	if t, ok := named.(reference.Tagged); ok {
		tag = t.Tag()
	}
	_, pinned = named.(reference.Canonical)
	return named.Name() + ":" + tag, pinned
}

func digestOf(ref string) digest.Digest {
	if named, err := reference.ParseNormalizedNamed(ref); err == nil {
		if c, ok := named.(reference.Canonical); ok {
			return c.Digest()
		}
	}
	return ""
}

// forPlatform drops the images for other platforms where the frontend looked
// one up for every platform of the build.
func forPlatform(images []Image, p ocispec.Platform, all []ocispec.Platform) (out []Image) {
	has := func(ref string, p ocispec.Platform) bool {
		m := platforms.NewMatcher(p)
		return slices.ContainsFunc(images, func(i Image) bool { return i.Ref == ref && i.Platform != nil && m.Match(*i.Platform) })
	}
	for _, img := range images {
		forEach := !slices.ContainsFunc(all, func(p ocispec.Platform) bool { return !has(img.Ref, p) })
		if forEach && img.Platform != nil && (img.Platform.OS != p.OS || img.Platform.Architecture != p.Architecture) {
			continue
		}
		out = append(out, img)
	}
	return out
}

// materials returns the sources with their digests, as SLSA names them.
func (s *sources) materials() (out []slsa.ProvenanceMaterial, err error) {
	for _, img := range s.images {
		uri, err := ImageURI(img.Ref, img.Platform)
		if err != nil {
			return nil, err
		}
		out = append(out, slsa.ProvenanceMaterial{URI: uri, Digest: digests(img.Digest)})
	}
	for _, g := range s.git {
		out = append(out, slsa.ProvenanceMaterial{URI: g.url, Digest: commitDigest(g.pinned)})
	}
	for _, h := range s.http {
		out = append(out, slsa.ProvenanceMaterial{URI: h.url, Digest: digests(digest.Digest(h.pinned))})
	}
	return out, nil
}

func digests(d digest.Digest) slsa.DigestSet {
	if d == "" {
		return nil
	}
	return slsa.DigestSet{d.Algorithm().String(): d.Encoded()}
}

func commitDigest(commit string) slsa.DigestSet {
	switch len(commit) {
	case 0:
		return nil
	case 64:
		return slsa.DigestSet{"sha256": commit}
	}
	return slsa.DigestSet{"sha1": commit}
}

// configSource takes the context and the Dockerfile's name out of the options,
// and returns them as what the build was configured by.
func (s *sources) configSource(args map[string]string) (src types.ProvenanceConfigSourceSLSA1) {
	key := contextKey(args)
	if context := args[key]; context != "" {
		src.URI = context
		delete(args, key)
		at, isGit := dfgitutil.FragmentFormat(context, false)
		for _, g := range s.git {
			if isGit && g.url == redact(at) {
				src.Digest = commitDigest(g.pinned)
				src.URI, _ = dfgitutil.FragmentFormat(context, true)
			}
		}
		for _, h := range s.http {
			if h.url == redact(context) {
				src.Digest = digests(digest.Digest(h.pinned))
			}
		}
		src.URI = redact(src.URI)
	}
	src.Path = cmp.Or(args["filename"], "Dockerfile") // the frontend's default
	delete(args, "filename")
	return src
}

// ImageURI returns the package URL of an image, of a platform unless p is nil.
func ImageURI(ref string, p *ocispec.Platform) (string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", fmt.Errorf("image %q: %w", ref, err)
	}
	var qualifiers []packageurl.Qualifier
	if c, ok := named.(reference.Canonical); ok {
		qualifiers = append(qualifiers, packageurl.Qualifier{Key: "digest", Value: c.Digest().String()})
	} else {
		named = reference.TagNameOnly(named)
	}
	version := ""
	if t, ok := named.(reference.Tagged); ok {
		version = t.Tag()
	}
	if p != nil {
		qualifiers = append(qualifiers, packageurl.Qualifier{Key: "platform", Value: platforms.Format(platforms.Normalize(*p))})
	}
	name, namespace := reference.FamiliarName(named), ""
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		namespace, name = name[:i], name[i+1:]
	}
	return packageurl.NewPackageURL(packageurl.TypeDocker, namespace, name, version, qualifiers, "").ToString(), nil
}

// redact hides the user and password of a URL.
func redact(s string) string {
	const hidden = "xxxxx" // as BuildKit has it
	u, err := url.Parse(s)
	if err != nil || u.User == nil {
		return s
	}
	_, hasPassword := u.User.Password()
	switch {
	case hasPassword && u.User.Username() == "":
		u.User = url.UserPassword("", hidden)
	case hasPassword:
		u.User = url.UserPassword(hidden, hidden)
	case u.User.Username() != "":
		u.User = url.User(hidden)
	}
	return u.String()
}
