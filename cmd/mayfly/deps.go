package main

import (
	_ "github.com/containerd/continuity/sysx"
	_ "github.com/google/go-containerregistry/pkg/v1/remote"
	_ "github.com/klauspost/compress/zstd"
	_ "github.com/klauspost/pgzip"
	_ "github.com/moby/buildkit/client"
	_ "github.com/moby/buildkit/client/llb"
	_ "github.com/moby/buildkit/frontend/dockerfile/builder"
	_ "github.com/moby/buildkit/frontend/gateway/client"
	_ "github.com/moby/buildkit/solver/pb"
	_ "github.com/moby/buildkit/util/progress/progressui"
	_ "github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/tonistiigi/fsutil"
	_ "github.com/moby/patternmatcher"
	_ "golang.org/x/sync/errgroup"
)

func main() {}
