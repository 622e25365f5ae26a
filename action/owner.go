package action

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// An Owner is the user of a job whose build runs as root by sudo.
type Owner struct{ UID, GID int }

// OwnerOf returns the user whom sudo names in the environment; false when the
// build runs as the job's own user.
func OwnerOf(getenv func(string) (string, bool)) (Owner, bool) {
	uid, _ := getenv("SUDO_UID")
	gid, _ := getenv("SUDO_GID")
	u, uerr := strconv.Atoi(uid)
	g, gerr := strconv.Atoi(gid)
	return Owner{u, g}, uerr == nil && gerr == nil && u != 0
}

// A Place is where a build leaves files.
type Place struct {
	Path string
	Only []string // directories in Path whose content is given; nil means all. What others hold has owners that mean something.
}

// A Claim is what an Owner is to own after a build.
type Claim struct {
	owner Owner
	since time.Time
	tops  []claimed
}

// A claimed place is walked from top, which is of or above it.
type claimed struct {
	top, of string
	only    []string
}

// Claim looks, before a build, at the places where it is going to leave files.
// The owner is given what is made there: also the directories above a place
// that are missing now. A place that is somebody else's stays so.
func (o Owner) Claim(places []Place) *Claim {
	c := &Claim{owner: o, since: time.Now()}
	for _, p := range places {
		path, err := filepath.Abs(p.Path)
		if err != nil {
			continue
		}
		top := firstMissing(path)
		if st, err := stat(top); err == nil && int(st.Uid) != o.UID && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			continue
		}
		c.tops = append(c.tops, claimed{top, path, p.Only})
	}
	return c
}

// firstMissing returns path, or the first directory above it that is missing.
func firstMissing(path string) string {
	for {
		above := filepath.Dir(path)
		if _, err := os.Lstat(above); err == nil || above == path {
			return path
		}
		path = above
	}
}

// Settle gives the owner what was made or changed since the Claim.
func (c *Claim) Settle() error {
	var errs []error
	for _, top := range c.tops {
		err := filepath.WalkDir(top.top, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if err := c.give(path); err != nil {
				return err
			}
			if d.IsDir() && top.keeps(path) {
				return fs.SkipDir
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("give what the build left in %s to the job's user: %w", top.of, err))
		}
	}
	return errors.Join(errs...)
}

// keeps reports whether the content of a directory keeps its owners.
func (c claimed) keeps(dir string) bool {
	return c.only != nil && filepath.Dir(dir) == c.of && !slices.Contains(c.only, filepath.Base(dir))
}

// slack is how much coarser a file system's clock may be than ours.
const slack = time.Second

// give changes the owner of what changed since the claim.
func (c *Claim) give(path string) error {
	st, err := stat(path)
	if err != nil {
		return err
	}
	changed := time.Unix(st.Ctim.Unix())
	if int(st.Uid) == c.owner.UID || changed.Before(c.since.Add(-slack)) {
		return nil
	}
	return os.Lchown(path, c.owner.UID, c.owner.GID)
}

func stat(path string) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return &st, nil
}
