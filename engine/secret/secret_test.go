package secret

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMap(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, bytes.Repeat([]byte("K"), size), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	m := Map{
		"value":       {Value: []byte("v")},
		"empty":       {},
		"file":        {File: write("file", 3)},
		"largest":     {File: write("largest", maxSize)},
		"large file":  {File: write("large", maxSize+1)},
		"large value": {Value: bytes.Repeat([]byte("K"), maxSize+1)},
		"missing":     {File: filepath.Join(dir, "missing")},
		"directory":   {File: dir},
	}
	tests := []struct {
		id   string
		size int   // of the secret; -1: an error
		err  error // nil: any
	}{
		{"value", 1, nil},
		{"empty", 0, nil},
		{"file", 3, nil},
		{"largest", maxSize, nil},
		{"large file", -1, nil},
		{"large value", -1, nil},
		{"missing", -1, fs.ErrNotExist},
		{"directory", -1, unix.EISDIR},
		{"nobody's", -1, ErrNotFound},
		{"", -1, ErrNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.id, func(t *testing.T) {
			dt, err := m.Get(t.Context(), tt.id)
			if tt.size >= 0 {
				if err != nil || len(dt) != tt.size {
					t.Errorf("%d bytes, %v; not %d", len(dt), err, tt.size)
				}
				return
			}
			if err == nil || tt.err != nil && !errors.Is(err, tt.err) {
				t.Fatalf("the error is %v", err)
			}
			if !strings.Contains(err.Error(), "secret "+tt.id) {
				t.Errorf("the error does not name the secret: %v", err)
			}
			if strings.Contains(err.Error(), "KK") {
				t.Errorf("the error has the secret's value: %v", err)
			}
		})
	}
}

// The shell's <(command) is a pipe, whose size says nothing.
func TestPipeIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		size int
		ok   bool
	}{{3, true}, {maxSize + 1, false}} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			os.WriteFile(path, make([]byte, tt.size), 0) // fails when the reader has had enough
		}()
		dt, err := Map{"id": {File: path}}.Get(t.Context(), "id")
		<-done
		if (err == nil) != tt.ok || tt.ok && len(dt) != tt.size {
			t.Errorf("%d bytes in the pipe: %d read, %v", tt.size, len(dt), err)
		}
	}
}
