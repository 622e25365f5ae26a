package fileop

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/user"
)

// maxUserFile is how many bytes of /etc/passwd and /etc/group are read, as
// many as BuildKit does.
const maxUserFile = 10 << 20

// An owner is who the things that an action makes belong to.
type owner struct{ uid, gid uint32 }

func ownerOf(a *pb.FileAction) *pb.ChownOpt {
	switch a := a.Action.(type) {
	case *pb.FileAction_Mkdir:
		return a.Mkdir.GetOwner()
	case *pb.FileAction_Mkfile:
		return a.Mkfile.GetOwner()
	case *pb.FileAction_Symlink:
		return a.Symlink.GetOwner()
	case *pb.FileAction_Copy:
		return a.Copy.GetOwner()
	}
	return nil
}

// ownerInputs returns the states that o looks names up in.
func ownerInputs(o *pb.ChownOpt) []int64 {
	var all []int64
	for _, u := range []*pb.UserOpt{o.GetUser(), o.GetGroup()} {
		if n := u.GetByName(); n != nil {
			all = append(all, int64(n.Input))
		}
	}
	return all
}

// owner returns whom o means; nil when it says nothing. A name that is not
// found is root, as it is to BuildKit. A user brings its group along, a group
// alone goes with root.
func (r *run) owner(o *pb.ChownOpt) (*owner, error) {
	if o == nil {
		return nil, nil
	}
	var who owner
	switch u := o.GetUser().GetUser().(type) {
	case *pb.UserOpt_ByID:
		who = owner{u.ByID, u.ByID}
	case *pb.UserOpt_ByName:
		b, err := r.userFile(int(u.ByName.GetInput()), "/etc/passwd")
		if err != nil {
			return nil, err
		}
		found, err := user.ParsePasswdFilter(bytes.NewReader(b), func(x user.User) bool { return x.Name == u.ByName.GetName() })
		if err != nil {
			return nil, fmt.Errorf("look up user %q: %w", u.ByName.GetName(), err)
		}
		if len(found) > 0 {
			who = owner{uint32(found[0].Uid), uint32(found[0].Gid)}
		}
	}
	switch g := o.GetGroup().GetUser().(type) {
	case *pb.UserOpt_ByID:
		who.gid = g.ByID
	case *pb.UserOpt_ByName:
		b, err := r.userFile(int(g.ByName.GetInput()), "/etc/group")
		if err != nil {
			return nil, err
		}
		found, err := user.ParseGroupFilter(bytes.NewReader(b), func(x user.Group) bool { return x.Name == g.ByName.GetName() })
		if err != nil {
			return nil, fmt.Errorf("look up group %q: %w", g.ByName.GetName(), err)
		}
		if len(found) > 0 {
			who.gid = uint32(found[0].Gid)
		}
	}
	return &who, nil
}

// userFile returns the file, or nothing when the state has none.
func (r *run) userFile(state int, path string) ([]byte, error) {
	v, err := r.glance(state)
	if err != nil {
		return nil, err
	}
	b, err := v.ReadFile(path, maxUserFile)
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fsdiff.ErrChanged) {
		return nil, nil
	}
	return b, err
}
