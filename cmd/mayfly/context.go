package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/mayfly-build/mayfly/engine/compression"
	"github.com/mayfly-build/mayfly/engine/fsdiff"
	"github.com/mayfly-build/mayfly/engine/layertar"
	"github.com/mayfly-build/mayfly/internal/hint"
)

// A buildContext is where the Dockerfile and the files come from: frontend
// options and the directories they name.
type buildContext struct {
	opts    map[string]string
	locals  map[string]string
	cleanup []string // directories made for it
}

func (c *buildContext) close() {
	for _, dir := range c.cleanup {
		os.RemoveAll(dir)
	}
}

func (c *buildContext) tmp() (string, error) {
	dir, err := os.MkdirTemp("", "mayfly-context-")
	if err == nil {
		c.cleanup = append(c.cleanup, dir)
	}
	return dir, err
}

var gitURL = regexp.MustCompile(`^(git://|ssh://|git@|github\.com/)|^https?://.*\.git(#.*|\?.*)?$`)

func isURL(s string) bool {
	return gitURL.MatchString(s) || strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://")
}

// openContext finds the context and the Dockerfile of a command.
func openContext(ctx context.Context, w world, o buildOptions) (_ *buildContext, err error) {
	c := &buildContext{opts: map[string]string{}, locals: map[string]string{}}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if o.context == "-" && o.file == "-" {
		return nil, usagef("the context and the Dockerfile cannot both be standard input")
	}
	switch {
	case o.context == "-":
		err = c.fromStdin(ctx, w, o)
	case isURL(o.context):
		err = c.fromURL(w, o)
	default:
		err = c.fromDir(w, o)
	}
	if err != nil {
		return nil, err
	}
	return c, c.named(o)
}

func (c *buildContext) fromDir(w world, o buildOptions) error {
	fi, err := os.Stat(o.context)
	if err != nil {
		return hint.With(err, "the context is the directory whose files the Dockerfile can copy")
	}
	if !fi.IsDir() {
		return hint.With(errors.New("context "+o.context+" is not a directory"), "give the directory, and the Dockerfile with -f")
	}
	c.locals["context"] = o.context
	if o.file == "-" {
		return c.dockerfileFrom(w.stdin)
	}
	file := o.file
	if file == "" {
		file = filepath.Join(o.context, "Dockerfile")
		if _, err := os.Lstat(file); errors.Is(err, os.ErrNotExist) {
			if low := filepath.Join(o.context, "dockerfile"); isFile(low) {
				file = low
			}
		}
	}
	return c.dockerfileAt(file)
}

func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}

func (c *buildContext) dockerfileAt(file string) error {
	fi, err := os.Stat(file)
	if err != nil {
		return hint.With(err, "give the Dockerfile with -f")
	}
	if fi.IsDir() {
		return hint.With(errors.New(file+" is a directory"), "give the Dockerfile with -f")
	}
	c.locals["dockerfile"] = filepath.Dir(file)
	c.opts["filename"] = filepath.Base(file)
	return nil
}

// maxDockerfile bounds a Dockerfile read from standard input, in bytes.
const maxDockerfile = 16 << 20

func (c *buildContext) dockerfileFrom(r io.Reader) error {
	dt, err := io.ReadAll(io.LimitReader(r, maxDockerfile+1))
	if err != nil {
		return err
	}
	if len(dt) > maxDockerfile {
		return errors.New("the Dockerfile on standard input is larger than 16 MiB")
	}
	dir, err := c.tmp()
	if err != nil {
		return err
	}
	c.locals["dockerfile"] = dir
	c.opts["filename"] = "Dockerfile"
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), dt, 0o600)
}

func (c *buildContext) fromURL(w world, o buildOptions) error {
	c.opts["context"] = o.context
	switch {
	case o.file == "-":
		c.opts["dockerfilekey"] = "dockerfile"
		return c.dockerfileFrom(w.stdin)
	case o.file != "":
		c.opts["filename"] = o.file
	}
	return nil
}

// fromStdin reads a tar with the context, or a Dockerfile without one.
func (c *buildContext) fromStdin(ctx context.Context, w world, o buildOptions) error {
	br := bufio.NewReaderSize(w.stdin, 64<<10)
	head, _ := br.Peek(1024)
	if len(head) == 0 {
		return errors.New("standard input is empty: expected a Dockerfile or a tar with the context")
	}
	dir, err := c.tmp()
	if err != nil {
		return err
	}
	c.locals["context"] = dir
	if !isArchive(head) {
		if o.file != "" {
			return usagef("-f %s cannot be read: standard input has a Dockerfile, not a tar with the context", o.file)
		}
		return c.dockerfileFrom(br)
	}
	plain, err := compression.NewReader(br)
	if err != nil {
		return err
	}
	defer plain.Close()
	nothing := func(context.Context) (*fsdiff.View, error) { return nil, nil } // is below the context
	if _, err := layertar.Unpack(ctx, plain, dir, nothing); err != nil {
		return hint.With(err, "standard input was taken for a tar with the context")
	}
	file := o.file
	if file == "" {
		file = "Dockerfile"
	}
	if !filepath.IsLocal(file) {
		return usagef("-f %s is not inside the context on standard input", file)
	}
	return c.dockerfileAt(filepath.Join(dir, file))
}

func isArchive(head []byte) bool {
	for _, magic := range [][]byte{{0x1f, 0x8b, 8}, []byte("BZh"), {0xfd, '7', 'z', 'X', 'Z', 0}, {0x28, 0xb5, 0x2f, 0xfd}} {
		if bytes.HasPrefix(head, magic) {
			return true
		}
	}
	// A first entry with extended headers is longer than head.
	if len(head) > 262 && string(head[257:262]) == "ustar" {
		return true
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return err == nil
}

// named adds the contexts of --build-context.
func (c *buildContext) named(o buildOptions) error {
	for _, s := range o.buildContexts {
		name, value, err := keyValue("build-context", s)
		if err != nil {
			return err
		}
		name = strings.ToLower(name)
		if isURL(value) || strings.HasPrefix(value, "docker-image://") || strings.HasPrefix(value, "target:") {
			c.opts["context:"+name] = value
			continue
		}
		if strings.HasPrefix(value, "oci-layout://") {
			return usagef("--build-context %s: OCI layouts are not supported as contexts", s)
		}
		fi, err := os.Stat(value)
		if err == nil && !fi.IsDir() {
			err = errors.New(value + " is not a directory")
		}
		if err != nil {
			return hint.With(err, "a named context is a directory, a URL or docker-image://REF")
		}
		c.opts["context:"+name] = "local:" + name
		c.locals[name] = value
	}
	return nil
}
