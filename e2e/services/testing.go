package services

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"
)

// Need ends the test when err is not nil: a program that is not installed
// skips it, except where $MAYFLY_REQUIRE_TOOLS is set (make test sets it, since
// it has installed everything).
func Need(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, exec.ErrNotFound) && os.Getenv("MAYFLY_REQUIRE_TOOLS") == "":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}

// NeedRoot skips the test of a user who is not root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// Use is Need for a Start function: it returns the service and closes it at
// the end of the test.
func Use[S io.Closer](t testing.TB, s S, err error) S {
	t.Helper()
	Need(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the service: %v", err)
		}
	})
	return s
}

// NewRegistry starts a registry for the test, with the image of Base in
// repository base.
func NewRegistry(t testing.TB) *Registry {
	t.Helper()
	r, err := StartRegistry(RegistryConfig{})
	Use(t, r, err)
	Need(t, Base(t.Context(), r.Addr+"/base"))
	return r
}

// NewBuildkitd starts a buildkitd on an empty root for the test.
func NewBuildkitd(t testing.TB) *Buildkitd {
	t.Helper()
	NeedRoot(t)
	b, err := StartBuildkitd(BuildkitdConfig{})
	return Use(t, b, err)
}
