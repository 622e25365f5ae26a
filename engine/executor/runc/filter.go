//go:build seccomp

package runc

// filtering says that libseccomp is linked in.
const filtering = true
