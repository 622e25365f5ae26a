package engine

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/solver/pb"

	"github.com/mayfly-build/mayfly/engine/explain"
	"github.com/mayfly-build/mayfly/engine/llb"
)

// A fielder takes operations apart into what they are called by. Of what is no
// part of a cache key there is no field.
type fielder struct {
	mask *explain.Masker
	args map[string]bool // names of build arguments
}

// fields returns the kind of an operation and its parts; pinned is what a
// source stands for, "" when that is unknown.
func (f fielder) fields(v *llb.Vertex, pinned string) (explain.Kind, []explain.Field) {
	switch op := v.Op.Op.(type) {
	case *pb.Op_Exec:
		return explain.Exec, f.exec(op.Exec)
	case *pb.Op_File:
		return explain.File, f.file(op.File)
	case *pb.Op_Source:
		return f.source(op.Source, pinned)
	case *pb.Op_Merge:
		return explain.Merge, nil
	case *pb.Op_Diff:
		return explain.Diff, nil
	}
	return explain.Other, nil
}

func (f fielder) exec(op *pb.ExecOp) []explain.Field {
	meta := op.Meta
	out := []explain.Field{f.mask.Plain("command", strings.Join(meta.Args, " "))}
	add := func(name, value string) {
		if value != "" {
			out = append(out, f.mask.Plain(name, value))
		}
	}
	for _, kv := range meta.Env {
		name, value, _ := strings.Cut(kv, "=")
		kind := "env "
		if f.args[name] {
			kind = "arg "
		}
		out = append(out, explain.Hidden(kind+name, value))
	}
	add("cwd", meta.Cwd)
	add("user", meta.User)
	add("hostname", meta.Hostname)
	add("network", strings.ToLower(op.Network.String()))
	add("security", strings.ToLower(op.Security.String()))
	add("cgroup parent", meta.CgroupParent)
	for _, h := range meta.ExtraHosts {
		add("extra host "+h.Host, "given")
	}
	for _, u := range meta.Ulimit {
		add("ulimit "+u.Name, fmt.Sprintf("%d:%d", u.Soft, u.Hard))
	}
	if len(meta.ValidExitCodes) > 0 {
		add("valid exit codes", fmt.Sprint(meta.ValidExitCodes))
	}
	for _, d := range op.CdiDevices {
		add("device "+d.Name, optional(d.Optional, "required"))
	}
	for _, s := range op.Secretenv {
		add("secret env "+s.Name, "id "+s.ID+optional(s.Optional, ""))
	}
	for _, m := range op.Mounts {
		name := "mount " + m.Dest
		text, _ := f.mask.Mask(name)
		out = append(out, f.mask.Plain(text, mountOf(m)))
		if sel := path.Join("/", m.Selector); sel != "/" {
			out = append(out, f.mask.Plain(text+" from", sel))
		}
	}
	return out
}

func optional(yes bool, otherwise string) string {
	if yes {
		return " optional"
	}
	return otherwise
}

// mountOf says what of a mount, besides where it comes from, is in the key.
func mountOf(m *pb.Mount) string {
	parts := []string{strings.ToLower(m.MountType.String())}
	if m.Readonly {
		parts = append(parts, "readonly")
	}
	if m.Input < 0 {
		parts = append(parts, "empty")
	}
	if o := m.TmpfsOpt; o != nil && o.Size != 0 {
		parts = append(parts, "size "+strconv.FormatInt(o.Size, 10))
	}
	if o := m.CacheOpt; o != nil && o.ID == m.Dest && o.Sharing == 0 {
		parts = append(parts, "id "+o.ID) // another id, or sharing, is no part of the key
	}
	if o := m.SecretOpt; o != nil {
		parts = append(parts, fmt.Sprintf("id %s owner %d:%d mode %04o%s", o.ID, o.Uid, o.Gid, o.Mode, optional(o.Optional, "")))
	}
	if o := m.SSHOpt; o != nil {
		parts = append(parts, fmt.Sprintf("id %s owner %d:%d mode %04o%s", o.ID, o.Uid, o.Gid, o.Mode, optional(o.Optional, "")))
	}
	return strings.Join(parts, " ")
}

func (f fielder) file(op *pb.FileOp) (out []explain.Field) {
	for i, a := range op.Actions {
		at := ""
		if len(op.Actions) > 1 {
			at = fmt.Sprintf("action %d ", i+1)
		}
		out = append(out, f.action(at, a)...)
	}
	return out
}

func (f fielder) action(at string, a *pb.FileAction) (out []explain.Field) {
	add := func(name, value string) {
		if value != "" {
			out = append(out, f.mask.Plain(at+name, value))
		}
	}
	mode := func(m int32) {
		if m >= 0 {
			add("mode", fmt.Sprintf("%04o", m))
		}
	}
	switch a := a.Action.(type) {
	case *pb.FileAction_Copy:
		c := a.Copy.CloneVT()
		add("source", path.Base(c.Src))
		add("destination", c.Dest)
		mode(c.Mode)
		add("chmod", c.ModeStr)
		add("owner", ownerOf(c.Owner))
		add("time", timeOf(c.Timestamp))
		c.Src, c.Dest, c.Mode, c.ModeStr, c.Owner, c.Timestamp = "", "", 0, "", nil, 0
		add("options", asJSON(c))
	case *pb.FileAction_Mkdir:
		add("directory", a.Mkdir.Path)
		mode(a.Mkdir.Mode)
		add("owner", ownerOf(a.Mkdir.Owner))
		add("time", timeOf(a.Mkdir.Timestamp))
		if a.Mkdir.MakeParents {
			add("parents", "made too")
		}
	case *pb.FileAction_Mkfile:
		add("file", a.Mkfile.Path)
		mode(a.Mkfile.Mode)
		add("owner", ownerOf(a.Mkfile.Owner))
		add("time", timeOf(a.Mkfile.Timestamp))
		out = append(out, explain.Hidden(at+"content", string(a.Mkfile.Data))) // variables are replaced in it
	case *pb.FileAction_Symlink:
		add("link", a.Symlink.Newpath)
		add("target", a.Symlink.Oldpath)
		add("owner", ownerOf(a.Symlink.Owner))
		add("time", timeOf(a.Symlink.Timestamp))
	case *pb.FileAction_Rm:
		add("removed", a.Rm.Path)
		add("options", asJSON(&pb.FileActionRm{AllowNotFound: a.Rm.AllowNotFound, AllowWildcard: a.Rm.AllowWildcard}))
	}
	return out
}

func asJSON(v any) string {
	dt, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(dt)
}

func timeOf(t int64) string {
	if t < 0 {
		return ""
	}
	return strconv.FormatInt(t, 10)
}

func ownerOf(o *pb.ChownOpt) string {
	if o == nil {
		return ""
	}
	return userOf(o.User) + ":" + userOf(o.Group)
}

func userOf(u *pb.UserOpt) string {
	switch u := u.GetUser().(type) {
	case *pb.UserOpt_ByID:
		return strconv.FormatUint(uint64(u.ByID), 10)
	case *pb.UserOpt_ByName:
		return u.ByName.GetName()
	}
	return ""
}

// plainAttrs are attributes of sources whose values are shown.
var plainAttrs = []string{
	pb.AttrKeepGitDir, pb.AttrGitChecksum, pb.AttrGitSkipSubmodules, pb.AttrGitMTime, pb.AttrGitFetchByCommit,
	pb.AttrHTTPChecksum, pb.AttrHTTPFilename, pb.AttrHTTPPerm, pb.AttrHTTPUID, pb.AttrHTTPGID,
	pb.AttrImageLayerLimit, pb.AttrIncludePatterns, pb.AttrExcludePatterns, pb.AttrFollowPaths,
}

// buildAttrs are attributes that say nothing but how this build asks.
var buildAttrs = []string{
	pb.AttrLocalSessionID, pb.AttrLocalUniqueID, pb.AttrSharedKeyHint, pb.AttrImageResolveMode, pb.AttrImageRecordType,
	pb.AttrOCILayoutSessionID, pb.AttrFullRemoteURL, pb.AttrLocalDiffer, pb.AttrGitAdvice,
}

func (f fielder) source(op *pb.SourceOp, pinned string) (explain.Kind, []explain.Field) {
	scheme, rest, _ := strings.Cut(op.Identifier, "://")
	kind := explain.Other
	var out []explain.Field
	switch scheme {
	case "docker-image":
		kind = explain.Image
		name, dgst, _ := strings.Cut(rest, "@")
		if pinned == "" {
			pinned = dgst
		}
		name = strings.TrimPrefix(strings.TrimPrefix(name, "docker.io/"), "library/")
		out = append(out, f.mask.Plain("image", name))
		if pinned != "" {
			out = append(out, explain.Field{Name: "digest", Text: pinned})
		}
	case "git":
		kind = explain.Git
		repo, ref, _ := strings.Cut(op.Identifier, "#")
		out = append(out, f.mask.URL("repository", repo), f.mask.Plain("ref", ref))
		if pinned != "" {
			out = append(out, explain.Field{Name: "commit", Text: pinned})
		}
	case "http", "https":
		kind = explain.HTTP
		out = append(out, f.mask.URL("url", op.Identifier))
		if pinned != "" {
			out = append(out, explain.Field{Name: "checksum", Text: pinned})
		}
	case "local":
		kind = explain.Local
		out = append(out, f.mask.Plain("name", rest))
	default:
		out = append(out, f.mask.URL("identifier", op.Identifier))
	}
	var names []string
	for name := range op.Attrs {
		if !slices.Contains(buildAttrs, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if slices.Contains(plainAttrs, name) {
			out = append(out, f.mask.Plain(name, op.Attrs[name]))
		} else {
			out = append(out, explain.Hidden(name, op.Attrs[name]))
		}
	}
	return kind, out
}

var argLine = regexp.MustCompile(`(?im)^[ \t]*ARG[ \t]+(.*)$`)

// argNames returns the names that a Dockerfile declares as build arguments.
func argNames(dockerfile []byte) (names []string) {
	for _, m := range argLine.FindAllSubmatch(dockerfile, -1) {
		for _, word := range strings.Fields(string(m[1])) {
			name, _, _ := strings.Cut(word, "=")
			names = append(names, name)
		}
	}
	return names
}
