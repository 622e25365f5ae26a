package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-build/mayfly/e2e/services"
)

// crashDockerfile has steps that run side by side, and layers large enough
// for a kill to fall into compressing and uploading them. $ROUND makes steps
// of every build new while others are found in the state directory.
const crashDockerfile = `ARG BASE
FROM $BASE AS a
COPY tree /tree
RUN cp -r /tree /copy && sleep 0.05
FROM $BASE AS b
ARG ROUND
RUN echo $ROUND > /round && yes $ROUND | head -c 4000000 > /big
FROM $BASE
COPY --from=a /copy /copy
COPY --from=b /round /round
COPY --from=b /big /big
RUN cat /round && ls /copy | wc -l
COPY tree /again
`

// A crash is a context whose image is known: what build gave for it on an
// empty state directory.
type crash struct {
	reg  *services.Registry
	dir  string
	root string
}

func newCrash(t *testing.T) *crash {
	t.Helper()
	services.NeedRoot(t)
	c := &crash{services.NewRegistry(t), t.TempDir(), filepath.Join(t.TempDir(), "state")}
	if err := os.WriteFile(filepath.Join(c.dir, "Dockerfile"), []byte(crashDockerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := generate(filepath.Join(c.dir, "tree"), 400); err != nil {
		t.Fatal(err)
	}
	return c
}

// args are those of a build that pushes and exports its cache, to tags of a
// job. All jobs share two repositories: while docker-registry links a blob into
// one, it answers "400 DIGEST_INVALID" to the manifest of another push there
// that names the blob.
func (c *crash) args(job string, round int) []string {
	tag := fmt.Sprintf("%s/app:%s-%d", c.reg.Addr, "job"+job, round)
	return []string{"--build-arg", "BASE=" + c.reg.Addr + "/base", "--build-arg", fmt.Sprintf("ROUND=%d", round),
		"--build-arg", "SOURCE_DATE_EPOCH=" + sourceDateEpoch, "-o", "type=image,push=true,rewrite-timestamp=true,name=" + tag,
		"--cache-to", fmt.Sprintf("type=registry,mode=max,ref=%s/cache:job%s-%d", c.reg.Addr, job, round), c.dir}
}

// want is the digest of a round, from an empty state directory.
func (c *crash) want(t *testing.T, round int) string {
	t.Helper()
	b, err := mayfly(t.Context(), t, filepath.Join(t.TempDir(), "fresh"), nil, c.args("", round)...)
	if err != nil {
		t.Fatal(err)
	}
	return b.digest
}

// TestKill kills mayfly 20 times, at random moments of build, push and cache
// export, and builds after each on the same state directory: the image must
// be the one that an empty state directory gives, and nothing of the killed
// one may stay mounted or run.
func TestKill(t *testing.T) {
	c := newCrash(t)
	begin := time.Now()
	c.want(t, 0)
	whole := time.Since(begin)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d; a whole build takes %v", seed, whole)
	rnd := rand.New(rand.NewPCG(seed, 0))
	killed := 0
	for round := 1; killed < 20; round++ {
		if round > 100 {
			t.Fatalf("only %d of %d builds were alive when they were to be killed", killed, round)
		}
		cmd := exec.Command(mayflyBin, append([]string{"build", "--root", c.root, "--progress", "plain"}, c.args("", round)...)...)
		var log bytes.Buffer
		cmd.Stdout, cmd.Stderr = io.Discard, &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(whole))))
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled() {
			killed++
		} else if err != nil {
			t.Fatalf("round %d: %v: %s", round, err, &log)
		} else {
			continue // it was done before the kill
		}
		b, err := mayfly(t.Context(), t, c.root, nil, c.args("", round)...)
		if err != nil {
			t.Fatalf("round %d, killed after\n%s\nthe next build: %v", round, &log, err)
		}
		if want := c.want(t, round); b.digest != want {
			t.Fatalf("round %d, killed after\n%s\nthe next build gave %s, an empty state directory gives %s", round, &log, b.digest, want)
		}
	}
	if m := mountsBelow(c.root); len(m) > 0 {
		t.Errorf("still mounted: %s", strings.Join(m, " "))
	}
}

// TestManyBuildsOneState runs 8 builds at once on one state directory, twice:
// with nothing there, then with everything. Each build runs twice at a time.
func TestManyBuildsOneState(t *testing.T) {
	c := newCrash(t)
	want := map[int]string{}
	for round := range 4 {
		want[round] = c.want(t, round)
	}
	for pass := range 2 {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				round := i % 4
				b, err := mayfly(t.Context(), t, c.root, nil, c.args(fmt.Sprint(i), round)...)
				if err != nil {
					t.Errorf("pass %d, build %d: %v", pass, i, err)
					return
				}
				if b.digest != want[round] {
					t.Errorf("pass %d, build %d gave %s, want %s", pass, i, b.digest, want[round])
				}
				if ran := uncached(b.steps); pass == 1 && len(ran) > 0 {
					t.Errorf("pass %d, build %d ran %s", pass, i, strings.Join(ran, ", "))
				}
			})
		}
		wg.Wait()
	}
	if m := mountsBelow(c.root); len(m) > 0 {
		t.Errorf("still mounted: %s", strings.Join(m, " "))
	}
}
