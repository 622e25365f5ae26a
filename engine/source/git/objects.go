package git

import (
	"context"
	"fmt"
)

// Objects are the raw objects behind a Pinned, for those who read times or
// signatures out of them.
type Objects struct {
	Commit     []byte
	CommitName string // the commit's name, not the tag's
	Tag        []byte // nil when Pinned.Commit is no annotated tag
}

// Objects fetches p's commit, if it is not there, and returns it as git
// stores it.
func (s *Source) Objects(ctx context.Context, id Identifier, p Pinned) (Objects, error) {
	o, err := s.objects(ctx, id, p)
	if err != nil {
		return o, explain(fmt.Errorf("read the commit of %s: %w", id.Name(), err), err, id)
	}
	return o, nil
}

func (s *Source) objects(ctx context.Context, id Identifier, p Pinned) (Objects, error) {
	r, done, err := s.runner(ctx, id)
	if err != nil {
		return Objects{}, err
	}
	defer done()
	st, err := s.openStore(ctx, &r, id.Remote, len(p.Commit) == 64)
	if err != nil {
		return Objects{}, err
	}
	defer st.close()
	if err := st.fetch(ctx, r, id, p); err != nil {
		return Objects{}, err
	}
	r = r.with(st.dir, "")
	o := Objects{CommitName: p.Commit}
	kind, err := r.line(ctx, "cat-file", "-t", p.Commit)
	if err != nil {
		return o, err
	}
	if kind == "tag" {
		tag, err := r.run(ctx, "cat-file", "tag", p.Commit)
		if err != nil {
			return o, err
		}
		o.Tag = []byte(tag)
		if o.CommitName, err = r.line(ctx, "rev-parse", p.Commit+"^{commit}"); err != nil {
			return o, err
		}
	}
	commit, err := r.run(ctx, "cat-file", "commit", o.CommitName)
	o.Commit = []byte(commit)
	return o, err
}
