#!/usr/bin/env bash
# hack/demo.sh (make demo): starts a registry on this machine, builds
# examples/hello and pushes it together with its build cache; then does what
# the next CI job does, on an empty state directory, and shows that it runs
# nothing. Nothing is pulled: the base image holds this machine's own busybox
# and Go toolchain. Everything lives in a temporary directory that is removed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mayfly=${MAYFLY:-$PWD/bin/mayfly}
dir=$(mktemp -d)
registry_pid=
cleanup() {
  [ -z "$registry_pid" ] || kill "$registry_pid" 2>/dev/null || true
  rm -rf "$dir"
}
trap cleanup EXIT

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
seconds() { local us=$(( ${2/./} - ${1/./} )); printf '%d.%02d' $((us / 1000000)) $((us % 1000000 / 10000)); }
# build LOG ARGS…: runs mayfly build, shows it, sets DIGEST and TOOK.
build() {
  local log=$1 from=$EPOCHREALTIME; shift
  printf '$ mayfly build %s\n' "$*"
  "$mayfly" build --progress plain "$@" 2>&1 >"$dir/digest" | tee "$log" | sed -u 's/^/    /'
  DIGEST=$(<"$dir/digest")
  TOOK=$(seconds "$from" "$EPOCHREALTIME")
}

say "a registry on this machine"
port=$(( 20000 + RANDOM % 20000 ))
registry=localhost:$port
cat >"$dir/registry.yml" <<EOF
version: 0.1
log: {level: error, accesslog: {disabled: false}}
storage: {filesystem: {rootdirectory: $dir/registry}}
http: {addr: 127.0.0.1:$port}
EOF
docker-registry serve "$dir/registry.yml" >"$dir/access.log" 2>&1 </dev/null &
registry_pid=$!
for _ in $(seq 100); do curl -sf "http://$registry/v2/" >/dev/null && break; sleep 0.05; done
curl -sf "http://$registry/v2/" >/dev/null
echo "$registry"

say "a base image from this machine's busybox and Go"
mkdir "$dir/busybox"
cp "$(command -v busybox)" "$dir/busybox/"
build "$dir/0.log" --root "$dir/state" --build-context "busybox=$dir/busybox" --build-context "goroot=$(go env GOROOT)" \
  -t "$registry/toolchain" --push examples/toolchain
base_took=$TOOK

# Provenance tells when an image was built; the two are to be one image.
common=(--build-arg "TOOLCHAIN=$registry/toolchain" --build-arg "VERSION=1.4" --provenance=false -t "$registry/hello:1.4" --push)
say "the first job: builds, pushes, exports the cache"
build "$dir/1.log" --root "$dir/state" "${common[@]}" --cache-to "type=registry,ref=$registry/hello:cache,mode=max" examples/hello
first=$DIGEST first_took=$TOOK

say "the next job: an empty state directory, and the cache"
before=$(wc -l <"$dir/access.log")
build "$dir/2.log" --root "$dir/empty" "${common[@]}" --cache-from "type=registry,ref=$registry/hello:cache" examples/hello
second=$DIGEST second_took=$TOOK
sleep 0.2 # the registry writes its log after it has answered
layers=$(tail -n "+$((before + 1))" "$dir/access.log" | grep -c '"GET /v2/[^ ]*/blobs/' || true)

# Steps are the lines "#N [stage i/n] …"; those of FROM hold no step.
steps=$(grep -cE '^#[0-9]+ \[[^]]* [0-9]+/[0-9]+\] (RUN|COPY|ADD|WORKDIR)' "$dir/2.log" || true)
ran=$(awk '/^#[0-9]+ \[.*[0-9]+\/[0-9]+\] (RUN|COPY|ADD|WORKDIR)/ { step[$1] = $0 }
  /^#[0-9]+ CACHED/ { delete step[$1] } END { for (s in step) print step[s] }' "$dir/2.log" | sort -u)

say "the program that came out"
"$mayfly" build --quiet --root "$dir/empty" --build-arg "TOOLCHAIN=$registry/toolchain" --build-arg VERSION=1.4 \
  --cache-from "type=registry,ref=$registry/hello:cache" -o "$dir/out" examples/hello
"$dir/out/hello" demo
tail -n 1 "$dir/out/share/test.log"

say "what it took"
printf '%-44s %8s s\n' "base image" "$base_took" "first job" "$first_took" "next job, from the cache" "$second_took"
echo "next job: ran $(grep -c . <<<"$ran" || true) of $steps steps, read $layers blobs: the configs of the base and of the cache"
[ -z "$ran" ] || { printf 'these steps ran again:\n%s\n' "$ran" >&2; exit 1; }
[ "$first" = "$second" ] || { printf 'the image differs: %s, %s\n' "$first" "$second" >&2; exit 1; }
[ "$steps" -gt 0 ] || { echo 'no steps in the log' >&2; exit 1; }
echo "the image is the same: $second"
