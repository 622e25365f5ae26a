package hint_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/mayfly-build/mayfly/internal/hint"
)

func TestOf(t *testing.T) {
	inner := hint.With(io.ErrUnexpectedEOF, "try again")
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"nil", nil, ""},
		{"none", io.EOF, ""},
		{"direct", inner, "try again"},
		{"wrapped", fmt.Errorf("pull x: %w", inner), "try again"},
		{"joined", errors.Join(io.EOF, inner), "try again"},
		{"outermost", hint.With(fmt.Errorf("pull x: %w", inner), "log in"), "log in"},
		{"empty adds nothing", hint.With(inner, ""), "try again"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := hint.Of(tt.err); got != tt.want {
				t.Errorf("Of(%v) = %q, want %q", tt.err, got, tt.want)
			}
		})
	}
}

func TestWithKeepsTheError(t *testing.T) {
	if err := hint.With(nil, "advice"); err != nil {
		t.Errorf("With(nil) = %v", err)
	}
	err := hint.With(io.ErrUnexpectedEOF, "try again")
	if !errors.Is(err, io.ErrUnexpectedEOF) || err.Error() != io.ErrUnexpectedEOF.Error() {
		t.Errorf("With changed the error: %v", err)
	}
}
