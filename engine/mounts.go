package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/engine/cachemount"
	"github.com/mayfly-build/mayfly/engine/progress"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/treestore"
)

// restoreTimeout is how long a step waits for a cache mount: as long as it
// takes to download a gigabyte at 3.5 MB/s.
const restoreTimeout = 5 * time.Minute

// contentSuffix ends the id of a cache mount that begins with the content of
// an image or stage.
var contentSuffix = regexp.MustCompile(`:sha256:[0-9a-f]{64}$`)

// mountName returns what a Dockerfile calls a cache mount: its id=, or else its
// target. The Dockerfile frontend puts the namespace, mostly none, and a slash
// before it.
func mountName(id string) string {
	return strings.TrimPrefix(contentSuffix.ReplaceAllString(id, ""), "/")
}

// wanted reports whether a list of ids, where none means all, has a mount.
func wanted(ids []string, id string) bool {
	return len(ids) == 0 || slices.Contains(ids, mountName(id))
}

func nameOf(u cachemount.Use) treestore.Name {
	return treestore.Name{ID: u.ID, Platform: u.Platform}
}

// restoreMount fills the directory of a cache mount from the first import that
// has it. What goes wrong is a warning: the step then begins without it.
func (b *build) restoreMount(ctx context.Context, u cachemount.Use, at cachemount.Place) (bool, error) {
	for _, im := range b.req.Imports {
		if im.Mounts == nil || !wanted(im.Mounts.IDs, u.ID) {
			continue
		}
		out := b.restoreFrom(ctx, im, u, at)
		b.mu.Lock()
		b.imports = append(b.imports, &importing{out: out})
		b.mu.Unlock()
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if out.Outcome == string(remotecache.OK) {
			return true, nil
		}
	}
	return false, nil
}

func (b *build) restoreFrom(ctx context.Context, im Import, u cachemount.Use, at cachemount.Place) CacheOutcome {
	name := mountName(u.ID)
	step := b.req.Progress.Step(fmt.Sprintf("restoring cache mount %s from %s", name, im.Name))
	step.Begin()
	began := time.Now()
	lctx, cancel := context.WithTimeoutCause(progress.With(ctx, step), restoreTimeout, fmt.Errorf("not done within %s", restoreTimeout))
	defer cancel()
	out := CacheOutcome{Name: "mounts " + name + " " + im.Name, Outcome: string(remotecache.OK)}
	stats, err := loadMount(lctx, im.Mounts, u, at, step)
	if err == nil {
		out.Blobs, out.Bytes = stats.Blobs, stats.Sent
		fmt.Fprintf(step.Log(2), "%d files with %d bytes\n", stats.Files, stats.Bytes)
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		out.ended(remotecache.Failed, err)
	case errors.Is(err, remotecache.ErrNotFound) && !errors.Is(err, treestore.ErrIncomplete):
		out.Outcome, out.Reason = string(remotecache.Skipped), "cold cache: it was not stored there yet"
		if errors.Is(err, treestore.ErrExpired) {
			out.Reason = err.Error()
		}
		fmt.Fprintln(step.Log(2), out.Reason)
		err = nil
	default:
		out.ended(remotecache.Failed, err)
		if errors.Is(err, remotecache.ErrCorrupt) {
			b.mu.Lock()
			b.corruptMounts = append(b.corruptMounts, u)
			b.mu.Unlock()
		}
		b.warn(fmt.Errorf("restore cache mount %s from %s: %w; beginning without it", name, im.Name, err))
		err = nil
	}
	out.Seconds = time.Since(began).Seconds()
	step.End(err)
	return out
}

// loadMount fills the directory from the first ref that has it.
func loadMount(ctx context.Context, im *MountsImport, u cachemount.Use, at cachemount.Place, step *progress.Vertex) (treestore.Stats, error) {
	err := fmt.Errorf("no ref to look at: %w", remotecache.ErrNotFound)
	for _, ref := range im.Refs {
		var known *treestore.Known
		var stats treestore.Stats
		known, stats, err = treestore.Load(ctx, im.Backend, ref, nameOf(u), at.Dir, treestore.LoadOptions{
			MaxAge: im.MaxAge, Watch: watchBlobs(step, "reading"),
		})
		if err == nil {
			return stats, known.WriteFile(at.Notes)
		}
		if !errors.Is(err, remotecache.ErrNotFound) {
			break
		}
	}
	return treestore.Stats{}, err
}

func watchBlobs(step *progress.Vertex, verb string) treestore.Watch {
	return func(blob ocispec.Descriptor) func(error) {
		part := step.Start(verb+" "+blob.Digest.String(), blob.Size)
		return func(error) { part.Done() }
	}
}

// exportMounts stores the cache mounts that the build has used, each with an
// outcome of its own. Whatever goes wrong is one; the error is that of an
// export which may fail the build.
func (b *build) exportMounts(ctx context.Context, ex Export) (outs []CacheOutcome, err error) {
	if ex.Mounts == nil {
		return nil, nil
	}
	timeout := ex.Timeout
	if timeout == 0 {
		timeout = exportTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done within %s", timeout))
	defer cancel()
	for _, u := range b.world.Mounts.Used() {
		if !wanted(ex.Mounts.IDs, u.ID) {
			continue
		}
		out, xerr := b.exportMount(ctx, ex, u)
		outs, err = append(outs, out), errors.Join(err, xerr)
	}
	return outs, err
}

func (b *build) exportMount(ctx context.Context, ex Export, u cachemount.Use) (CacheOutcome, error) {
	name := mountName(u.ID)
	step := b.req.Progress.Step(fmt.Sprintf("exporting cache mount %s to %s", name, ex.Name))
	step.Begin()
	began := time.Now()
	var stats treestore.Stats
	err := ex.Denied
	if err == nil {
		stats, err = b.saveMount(progress.With(ctx, step), ex, u, step)
	}
	out := CacheOutcome{
		Name: "mounts " + name + " " + ex.Name, Export: true, Outcome: string(remotecache.OK),
		Blobs: stats.Blobs, Bytes: stats.Sent, Seconds: time.Since(began).Seconds(),
	}
	switch {
	case err == nil && stats.Superseded:
		out.Outcome, out.Reason = string(remotecache.Skipped), "another job stored it meanwhile"
		fmt.Fprintln(step.Log(2), out.Reason)
	case err == nil:
		fmt.Fprintln(step.Log(2), told(stats))
	case errors.Is(err, remotecache.ErrEmpty):
		out.Outcome, out.Reason = string(remotecache.Skipped), "it has no files"
	case ex.Denied != nil, errors.Is(err, remotecache.ErrReadOnly):
		out.ended(remotecache.Skipped, err)
	default:
		out.ended(remotecache.Failed, err)
		if ex.FailBuild {
			step.End(err)
			return out, fmt.Errorf("export of cache mount %s to %s: %w", name, ex.Name, err)
		}
		fmt.Fprintf(step.Log(2), "warning: %s: %s\n", out.Outcome, out.Reason)
		if out.Hint != "" {
			fmt.Fprintf(step.Log(2), "hint: %s\n", out.Hint)
		}
	}
	step.End(nil)
	return out, nil
}

// told says what was stored.
func told(s treestore.Stats) string {
	text := fmt.Sprintf("%d files with %d bytes", s.Files, s.Bytes)
	if s.Unchanged {
		text += ", unchanged"
	} else {
		text += fmt.Sprintf("; sent %d bytes in %d blobs", s.Sent, s.Blobs)
	}
	if s.LeftOut > 0 {
		text += fmt.Sprintf("; left out %d files with %d bytes", s.LeftOut, s.OutBytes)
	}
	return text
}

func (b *build) saveMount(ctx context.Context, ex Export, u cachemount.Use, step *progress.Vertex) (treestore.Stats, error) {
	m, err := b.world.Mounts.Open(ctx, u.ID)
	if errors.Is(err, fs.ErrNotExist) {
		err = remotecache.ErrEmpty
	}
	if err != nil {
		return treestore.Stats{}, err
	}
	defer func() { _ = m.Close() }()
	b.mu.Lock()
	corrupt := slices.Contains(b.corruptMounts, u)
	b.mu.Unlock()
	known, stats, err := treestore.Save(ctx, ex.Backend, ex.Ref, nameOf(u), m.Dir, treestore.SaveOptions{
		Tmp: b.state.TmpDir(), Known: treestore.ReadKnown(m.Notes), Anew: corrupt,
		MaxSize: ex.Mounts.MaxSize, MaxAge: ex.Mounts.MaxAge, Watch: watchBlobs(step, "writing"),
	})
	if err != nil {
		return stats, err
	}
	if err := known.WriteFile(m.Notes); err != nil {
		b.warn(fmt.Errorf("keep what is known of cache mount %s: %w; the next export reads all of it", mountName(u.ID), err))
	}
	return stats, nil
}
