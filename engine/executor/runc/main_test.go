package runc_test

import (
	"os"
	"testing"

	"github.com/mayfly-build/mayfly/engine/executor/runc"
)

func TestMain(m *testing.M) {
	if runc.IsInit() {
		runc.Init()
	}
	os.Exit(m.Run())
}
