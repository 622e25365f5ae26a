// Package secret holds what a build may use but not keep.
//
//	cmd, action ──ids──▶ secret ──bytes──▶ op/exec, source/git, source/http
//	                                          └─output─▶ Mask ──▶ progress
//
// A secret is read when a step asks for it and goes to that step alone; an SSH
// agent is forwarded through a socket that lives as long as the step. The
// package never puts a value into an error, and masks those that a step prints.
package secret

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrNotFound is returned for an id nobody gave.
var ErrNotFound = errors.New("secret not found")

// maxSize is the largest secret in bytes, as BuildKit has it.
const maxSize = 500 << 10

// A Store gives secrets by id. Its methods may be called at once.
type Store interface {
	// Get returns a secret's bytes, or ErrNotFound.
	Get(ctx context.Context, id string) ([]byte, error)
}

// A Source says where a secret's bytes are: in a file or in a value.
type Source struct {
	File  string // host path; "" means Value
	Value []byte
}

// Map is a Store of secrets that are given one by one.
type Map map[string]Source

// Get reads the secret.
func (m Map) Get(_ context.Context, id string) ([]byte, error) {
	src, ok := m[id]
	if !ok {
		return nil, fmt.Errorf("secret %s: %w", id, ErrNotFound)
	}
	dt := src.Value
	if src.File != "" {
		var err error
		if dt, err = readFile(src.File); err != nil {
			return nil, fmt.Errorf("secret %s: %w", id, err)
		}
	}
	if len(dt) > maxSize {
		return nil, fmt.Errorf("secret %s has more than %d bytes", id, maxSize)
	}
	return dt, nil
}

// readFile reads a file, which may be a pipe, to just beyond the limit.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSize+1))
}
