package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mayfly-build/mayfly/bench/data"
)

// contextsVersion changes when writeContexts gives other files.
const contextsVersion = "2"

// changedFile is the file of the context tree50k that W4 changes.
const changedFile = "tree50k/tree/d05/e0105/f010550.js"

const ciDockerfile = `ARG BASE
FROM $BASE AS base
RUN mkdir -p /opt/app && echo base > /opt/app/base
WORKDIR /src

FROM base AS deps
COPY package.json ./
COPY lock ./lock
RUN gen -seed 101 -files 2000 -size 30M -exp /src/node_modules
RUN gen -seed 102 -files 400 -size 20M -mix half /src/vendor
RUN gen -seed 103 -files 100 -size 10M /src/tools && gen -seed 104 -files 50 -size 2M /src/prod

FROM deps AS build
COPY config ./config
COPY src ./src
RUN mkdir -p /out && find src -type f | sort | xargs cat | sha256sum > /out/build.id && gen -seed 105 -files 20 -size 4M /out
RUN test -s /out/build.id

FROM base AS final
COPY --from=deps /src/prod /app/prod
COPY --from=build /out /app
RUN echo ok > /app/ready
CMD ["/bin/sh", "-c", "cat /app/ready"]
`

// writeContexts makes every workload's context below dir, unless it is there.
// Content, names, modes and times are the same on every machine.
func writeContexts(dir string) error {
	stamp := filepath.Join(dir, ".version")
	if b, err := os.ReadFile(stamp); err == nil && string(b) == contextsVersion {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	w := writer{dir: dir}
	for _, ci := range []string{"ci", "ci-changed"} {
		w.text(ci+"/Dockerfile", ciDockerfile)
		w.text(ci+"/package.json", `{"name":"app","version":"1.0.0"}`+"\n")
		w.tree(ci+"/src", data.Tree{Seed: 11, Files: 300, Size: 3 << 20, Exp: true})
		w.tree(ci+"/config", data.Tree{Seed: 12, Files: 10, Size: 40 << 10})
		w.tree(ci+"/lock", data.Tree{Seed: 13, Files: 1, Size: 400 << 10})
	}
	w.add("ci-changed/src/d00/e0000/f000099.js", "// changed\n")
	w.text("tree50k/Dockerfile", "ARG BASE\nFROM $BASE\nCOPY . /app\n")
	w.tree("tree50k/tree", data.Tree{Seed: 40, Files: 50_000, Size: 200 << 20, Exp: true})
	for _, n := range []int{1, 11, 101} {
		w.text(fmt.Sprintf("seq%d/Dockerfile", n), sequence(n))
	}
	w.text("par101/Dockerfile", parallel(101))
	w.text("graph/Dockerfile", graph(30, 10))
	for i := range 10 {
		w.text(fmt.Sprintf("graph/in/f%d", i), fmt.Sprintf("file %d\n", i))
	}
	w.text("multi/Dockerfile", "ARG BASE\nFROM $BASE\n"+repeat(1, 5, func(b *strings.Builder, i int) {
		fmt.Fprintf(b, "RUN gen -seed 8%d -files 2000 -size 100M -mix half -exp /l%d\n", i, i)
	}))
	w.text("use/Dockerfile", "ARG BASE\nFROM $BASE\nRUN true\n")
	for _, c := range cacheContexts() {
		w.text(c.dir+"/Dockerfile", c.dockerfile)
	}
	if w.err != nil {
		return fmt.Errorf("make the contexts: %w", w.err)
	}
	then := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(p, then, then))
	})
	if err != nil {
		return fmt.Errorf("make the contexts: %w", err)
	}
	return os.WriteFile(stamp, []byte(contextsVersion), 0o644)
}

func repeat(from, to int, f func(*strings.Builder, int)) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		f(&b, i)
	}
	return b.String()
}

// sequence is a Dockerfile of n RUN steps, one after another.
func sequence(n int) string {
	return "ARG BASE\nFROM $BASE\n" + repeat(1, n, func(b *strings.Builder, i int) { fmt.Fprintf(b, "RUN true %d\n", i) })
}

// parallel is a Dockerfile of n stages with a RUN each, and one that wants all.
func parallel(n int) string {
	return "ARG BASE\nFROM $BASE AS base\n" +
		repeat(1, n, func(b *strings.Builder, i int) { fmt.Fprintf(b, "FROM base AS s%d\nRUN true %d\n", i, i) }) +
		"FROM base\nRUN " +
		repeat(1, n, func(b *strings.Builder, i int) { fmt.Fprintf(b, "--mount=type=bind,from=s%d,target=/m/%d ", i, i) }) + "true\n"
}

// graph is a Dockerfile of levels × width stages without a RUN. Each copies a
// file of the stage above it and one of that stage's neighbour.
func graph(levels, width int) string {
	var b strings.Builder
	b.WriteString("ARG BASE\n")
	for l := range levels {
		for w := range width {
			fmt.Fprintf(&b, "FROM $BASE AS s%d_%d\n", l, w)
			next := (w + 1) % width
			if l == 0 {
				fmt.Fprintf(&b, "COPY in/f%d /f0_%d\nCOPY in/f%d /g0_%d\n", w, w, (w+3)%width, w)
				continue
			}
			fmt.Fprintf(&b, "COPY --from=s%d_%d /f%d_%d /f%d_%d\n", l-1, w, l-1, w, l, w)
			fmt.Fprintf(&b, "COPY --from=s%d_%d /g%d_%d /g%d_%d\n", l-1, next, l-1, next, l, w)
		}
	}
	b.WriteString("FROM $BASE\n")
	for w := range width {
		fmt.Fprintf(&b, "COPY --from=s%d_%d /f%d_%d /g%d_%d /out/\n", levels-1, w, levels-1, w, levels-1, w)
	}
	return b.String()
}

// A writer makes files and keeps the first error.
type writer struct {
	dir string
	err error
}

func (w *writer) path(p string) string {
	p = filepath.Join(w.dir, p)
	if w.err == nil {
		w.err = os.MkdirAll(filepath.Dir(p), 0o755)
	}
	return p
}

func (w *writer) text(p, s string) {
	if p = w.path(p); w.err == nil {
		w.err = os.WriteFile(p, []byte(s), 0o644)
	}
}

func (w *writer) tree(p string, t data.Tree) {
	if p = w.path(p); w.err == nil {
		w.err = t.Write(p)
	}
}

func (w *writer) add(p, s string) {
	if w.err == nil {
		w.err = appendTo(filepath.Join(w.dir, p), s)
	}
}

// appendTo adds s to the end of a file that is there.
func appendTo(path, s string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(s)
	return errors.Join(err, f.Close())
}
