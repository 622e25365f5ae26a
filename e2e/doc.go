// Package e2e tests the mayfly binary from the outside.
//
//	testdata/script/*.txtar       ──▶ scripts_test.go ──▶ mayfly ──▶ docker-registry, git, HTTP
//	testdata/differential/*.txtar ──▶ differential_test.go ──▶ mayfly and buildkitd, compared
//
// The binary is the one in $MAYFLY, or is built when the tests start. The
// counterparts are real ones that e2e/services starts; nothing of the engine
// is imported here.
package e2e
