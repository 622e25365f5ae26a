#!/bin/sh
# Writes ../buildkit.txtar: what BuildKit's overlay snapshotter had on disk for
# each layer of the Dockerfile, and the digests of the tars BuildKit made of it.
# Needs root, gcc, runc, a static busybox in PATH, and buildkitd and buildctl
# v0.33.1 in PATH or in $BUILDKITD and $BUILDCTL.
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'kill $daemon; wait $daemon || :; rm -rf "$tmp"' EXIT
mkdir "$tmp/context"
cp Dockerfile mk.c "$(command -v busybox)" "$tmp/context"
gcc -static -Os -o "$tmp/context/mk" mk.c

addr=unix://$tmp/buildkit.sock
"${BUILDKITD:-buildkitd}" --root "$tmp/root" --addr "$addr" --oci-worker-net=host --containerd-worker=false \
	--otel-socket-path "$tmp/otel.sock" >"$tmp/log" 2>&1 &
daemon=$!
until "${BUILDCTL:-buildctl}" --addr "$addr" debug workers >"$tmp/workers" 2>&1; do sleep 0.1; done

build() {
	"${BUILDCTL:-buildctl}" --addr "$addr" build --frontend dockerfile.v0 \
		--local context="$tmp/context" --local dockerfile="$tmp/context" "$@"
}
layers=type=oci,tar=false,compression=uncompressed,force-compression=true
build --output "$layers,dest=$tmp/image"
build --output "$layers,dest=$tmp/rewritten,rewrite-timestamp=true" --opt build-arg:SOURCE_DATE_EPOCH=1500000000
cd ../..
go test -count=1 -run TestBuildKit -buildkit "$tmp" .
